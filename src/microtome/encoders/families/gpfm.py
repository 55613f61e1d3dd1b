"""GPFM: one network distilled from several."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import IMAGENET, NON_COMMERCIAL, published, resized

_GPFM = published(
    Card(
        name="gpfm",
        dim=1024,
        tile_px=256,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bicubic"),
        pooling="class token after the last norm",
        repo="majiabo/GPFM",
        file="GPFM.pth",
        licence="CC-BY-NC-ND-4.0 (one wrapper says MIT)",
        paper="https://arxiv.org/abs/2407.18449",
        citation="Ma et al., Towards A Generalizable Pathology Foundation Model via Knowledge Distillation, 2024",
        code="https://github.com/birkhoffkiki/GPFM",
        trained_on=(
            *("TCGA", "CPTAC", "GTEx", "PANDA", "CAMELYON", "PAIP", "BRACS"),
            "UNI, CONCH, Phikon (distilled from them)",
        ),
        intended_use=NON_COMMERCIAL,
        parameters=303.23,
        unconfirmed=("licence", "tile (its authors cut 512 px at 40x, the same 128 µm)"),
    ),
    "gpfm",
)

ENCODERS = by_name(_GPFM)
