"""CTransPath, the copy of it that CHIEF goes with, and RetCCL."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import IMAGENET, NON_COMMERCIAL, RESEARCH, published, resized

_CTRANSPATH = published(
    Card(
        name="ctranspath",
        dim=768,
        tile_px=224,
        mpp=(1.0,),
        **resized(224, IMAGENET, "bilinear"),
        pooling="global average after the last norm",
        file="ctranspath.pth",
        url="https://github.com/Xiyue-Wang/TransPath",
        licence="GPL-3.0, non-commercial",
        paper="https://doi.org/10.1016/j.media.2022.102559",
        citation=(
            "Wang et al., Transformer-based unsupervised contrastive learning for histopathological image "
            "classification, Medical Image Analysis 81 (2022)"
        ),
        code="https://github.com/Xiyue-Wang/TransPath",
        trained_on=("TCGA", "PAIP"),
        intended_use=NON_COMMERCIAL,
        parameters=27.52,
        aliases=("CTransPath",),
        unconfirmed=("that the authors' patched timm 0.5.4 computes as the stock one",),
    ),
    "ctranspath",
    square_only=True,
)

_CHIEF = published(
    Card(
        name="chief-ctranspath",
        dim=768,
        tile_px=256,
        mpp=(1.0,),
        **resized(224, IMAGENET, "bilinear"),
        pooling="global average after the last norm",
        file="CHIEF_CTransPath.pth",
        url="https://huggingface.co/datasets/MahmoodLab/hest-bench",
        licence="GPL-3.0 (one wrapper says AGPL)",
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-07894-z",
        citation="Wang et al., A pathology foundation model for cancer diagnosis and prognosis prediction, Nature 2024",
        code="https://github.com/hms-dbmi/CHIEF",
        trained_on=("TCGA", "PAIP"),
        intended_use=RESEARCH,
        parameters=27.52,
        unconfirmed=("training data", "licence", "that the authors' patched timm 0.5.4 computes as the stock one"),
    ),
    "chief-ctranspath",
    square_only=True,
)

_RETCCL = published(
    Card(
        name="retccl",
        dim=2048,
        tile_px=256,
        mpp=(1.0,),
        **resized(256, IMAGENET, "bilinear"),
        pooling="global average of the last stage",
        file="best_ckpt.pth",
        url="https://github.com/Xiyue-Wang/RetCCL",
        licence="GPL-3.0",
        paper="https://doi.org/10.1016/j.media.2022.102645",
        citation=(
            "Wang et al., RetCCL: Clustering-guided contrastive learning for whole-slide image retrieval, Medical "
            "Image Analysis 83 (2023)"
        ),
        code="https://github.com/Xiyue-Wang/RetCCL",
        trained_on=("TCGA", "PAIP"),
        intended_use=RESEARCH,
        parameters=23.51,
        unconfirmed=("resolution", "precision", "paper"),
    ),
    "retccl",
    square_only=True,
)

ENCODERS = by_name(_CTRANSPATH, _CHIEF, _RETCCL)
