"""The image sides of networks that were trained with text: MUSK, KEEP, PLIP."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import CLIP, HALF, IMAGENET, NON_COMMERCIAL, RESEARCH, published, resized, variant

_MUSK = published(
    Card(
        name="musk",
        dim=1024,
        tile_px=384,
        mpp=(0.5, 0.25, 1.0),
        **resized(384, HALF, "bicubic", crop=384),
        pooling="class token after the last norm",
        repo="xiangjx/musk",
        file="model.safetensors",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-08378-w",
        citation="Xiang et al., A vision-language foundation model for precision oncology, Nature 2025",
        code="https://github.com/lilab-stanford/MUSK",
        trained_on=("TCGA", "50 M tiles of 11 600 patients"),
        intended_use=NON_COMMERCIAL,
        parameters=303.94,
        variants=("ms-aug",),
        unconfirmed=("that TCGA was seen",),
    ),
    "musk",
)

_KEEP = published(
    Card(
        name="keep",
        dim=768,
        tile_px=256,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bicubic", crop=224),
        pooling="class token through a two-layer head, scaled to length one",
        repo="Astaxanthin/KEEP",
        file="pytorch_model.bin",
        licence="MIT (of the repository)",
        paper="https://arxiv.org/abs/2412.13126",
        citation="Zhou et al., A Knowledge-enhanced Pathology Vision-language Foundation Model, 2024",
        code="https://github.com/MAGIC-AI4Med/KEEP",
        trained_on=("OpenPath", "Quilt-1M", "UNI (begun from its weights)"),
        intended_use=RESEARCH,
        parameters=304.73,
        unconfirmed=("that it began from UNI's weights",),
    ),
    "keep",
)

_PLIP = published(
    Card(
        name="plip",
        dim=512,
        tile_px=224,
        **resized(224, CLIP, "bicubic", crop=224),
        pooling="class token through the image projection",
        repo="vinid/plip",
        licence="non-commercial",
        paper="https://doi.org/10.1038/s41591-023-02504-3",
        citation="Huang et al., A visual-language foundation model for pathology image analysis, Nature Medicine 2023",
        code="https://github.com/PathologyFoundation/plip",
        trained_on=("OpenPath",),
        intended_use=NON_COMMERCIAL,
        parameters=87.85,
        unconfirmed=("normalisation", "training data", "precision", "name of the file"),
    ),
    "plip",
)

ENCODERS = by_name(
    _MUSK,
    variant(
        _MUSK,
        "ms-aug",
        "musk-ms-aug",
        dim=2048,
        pooling="class token, then mean of the class tokens of the four quarters, enlarged twofold",
    ),
    _KEEP,
    _PLIP,
)
