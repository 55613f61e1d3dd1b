"""Providence and Microsoft: the tile encoder of Prov-GigaPath."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import IMAGENET, RESEARCH, published, resized

_GIGAPATH = published(
    Card(
        name="prov-gigapath",
        dim=1536,
        tile_px=256,
        mpp=(0.5,),
        **resized(256, IMAGENET, "bicubic", crop=224),
        pooling="class token after the last norm",
        repo="prov-gigapath/prov-gigapath",
        file="pytorch_model.bin",
        licence="Apache-2.0 with conditions of its own",
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-07441-w",
        citation="Xu et al., A whole-slide foundation model for digital pathology from real-world data, Nature 2024",
        code="https://github.com/prov-gigapath/prov-gigapath",
        trained_on=("private (Providence)",),
        intended_use=RESEARCH,
        parameters=1134.95,
        aliases=("gigapath",),
    ),
    "gigapath",
)

ENCODERS = by_name(_GIGAPATH)
