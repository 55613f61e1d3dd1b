"""Bioptimus: H-optimus-0, H-optimus-1, H0-mini."""

from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import NON_COMMERCIAL, RESEARCH, Norm, published, resized, variant

_NORM: Norm = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_RELEASES = "https://github.com/bioptimus/releases"
_FILTER = "filter of the resize (one wrapper has bilinear)"


def _optimus(version: str, *, licence: str, gated: bool, trained_on: str, unconfirmed: tuple[str, ...]) -> Published:
    return published(
        Card(
            name=f"h-optimus-{version}",
            dim=1536,
            tile_px=224,
            mpp=(0.5,),
            **resized(224, _NORM, "bicubic", crop=224),
            pooling="class token after the last norm",
            repo=f"bioptimus/H-optimus-{version}",
            file="pytorch_model.bin",
            licence=licence,
            gated=gated,
            paper=_RELEASES if version == "0" else f"none found; https://huggingface.co/bioptimus/H-optimus-{version}",
            citation=f"Bioptimus, H-optimus-{version}, https://huggingface.co/bioptimus/H-optimus-{version}",
            code=_RELEASES,
            trained_on=(trained_on,),
            intended_use=NON_COMMERCIAL if "NC" in licence else RESEARCH,
            parameters=1134.77,
            unconfirmed=(*unconfirmed, _FILTER),
        ),
        f"h-optimus-{version}",
    )


_H0_MINI = published(
    Card(
        name="h0-mini",
        dim=1536,
        tile_px=224,
        mpp=(0.5,),
        **resized(224, _NORM, "bicubic", crop=224),
        pooling="class token, then mean of the patch tokens; registers left out",
        repo="bioptimus/H0-mini",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper="https://arxiv.org/abs/2501.16239",
        citation="Filiot et al., Distilling foundation models for robust and efficient models in pathology, 2025",
        code="https://huggingface.co/bioptimus/H0-mini",
        trained_on=("TCGA", "H-optimus-0 (distilled from it)"),
        intended_use=NON_COMMERCIAL,
        parameters=85.74,
        variants=("cls",),
        unconfirmed=("width of the MLP", "arguments of the network in the repository", "layout and name of the file"),
    ),
    "h0-mini",
)

ENCODERS = by_name(
    _optimus(
        "0",
        licence="Apache-2.0",
        gated=False,
        trained_on="private (more than 500 000 H&E slides)",
        unconfirmed=("whether a form must be filled in for access",),
    ),
    _optimus(
        "1",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        trained_on="private (more than 1 M slides of 800 000 patients)",
        unconfirmed=(),
    ),
    _H0_MINI,
    variant(_H0_MINI, "cls", "h0-mini-cls", dim=768, pooling="class token after the last norm"),
)
