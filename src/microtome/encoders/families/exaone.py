"""LG AI Research: EXAONEPath 1.0.

It sees tiles whose stain is normalised after Macenko. Which reference and percentiles its authors take is not known
here, so the plain name is refused; ``exaonepath:normalised`` says that the tiles already are.
"""

from dataclasses import replace

from microtome.encoders.base import Card, Loadable
from microtome.encoders.zoo import IMAGENET, NON_COMMERCIAL, Unavailable, published, resized

_NORMALISED = published(
    Card(
        name="exaonepath:normalised",
        dim=768,
        tile_px=256,
        mpp=(0.5,),
        **resized(256, IMAGENET, "bicubic", crop=224),
        pooling="class token after the last norm",
        repo="LGAI-EXAONE/EXAONEPath",
        file="EXAONEPath.ckpt",
        licence="EXAONEPath, non-commercial",
        gated=True,
        paper="https://arxiv.org/abs/2408.00380",
        citation="Yun et al., EXAONEPath 1.0 Patch-level Foundation Model for Pathology, 2024",
        code="https://github.com/LG-AI-EXAONE/EXAONEPath",
        trained_on=("TCGA", "private"),
        intended_use=NON_COMMERCIAL + " For tiles whose stain is normalised after Macenko.",
        parameters=85.80,
        unconfirmed=("resolution", "training data", "precision", "that the file is in the hub's repository too"),
    ),
    "exaonepath",
)

_PLAIN = Unavailable(
    replace(
        _NORMALISED.card,
        name="exaonepath",
        variants=("normalised",),
        unavailable=(
            "It was made for tiles whose stain is normalised after Macenko, by a reference that is not known here. If "
            "yours are, name it exaonepath:normalised."
        ),
    )
)

ENCODERS: dict[str, Loadable] = {"exaonepath": _PLAIN, "exaonepath:normalised": _NORMALISED}
