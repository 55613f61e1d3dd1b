"""Mahmood lab: UNI, UNI2-h, CONCH and CONCH v1.5."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import CLIP, IMAGENET, NON_COMMERCIAL, published, resized

_ND = "CC-BY-NC-ND-4.0"
_UNI_PAPER = "https://doi.org/10.1038/s41591-024-02857-3"
_UNI_CITATION = (
    "Chen et al., Towards a general-purpose foundation model for computational pathology, Nature Medicine 2024"
)

_UNI = published(
    Card(
        name="uni",
        dim=1024,
        tile_px=256,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bilinear", crop=224),
        pooling="class token after the last norm",
        repo="MahmoodLab/UNI",
        file="pytorch_model.bin",
        licence=_ND,
        gated=True,
        paper=_UNI_PAPER,
        citation=_UNI_CITATION,
        code="https://github.com/mahmoodlab/UNI",
        trained_on=("private (MGB)", "GTEx"),
        intended_use=NON_COMMERCIAL + " Its authors kept TCGA, CPTAC, PAIP, CAMELYON and PANDA out of its training.",
        parameters=303.35,
        unconfirmed=("that GTEx was seen",),
    ),
    "uni",
)

_UNI2_H = published(
    Card(
        name="uni2-h",
        dim=1536,
        tile_px=256,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bilinear", crop=224),
        pooling="class token after the last norm",
        repo="MahmoodLab/UNI2-h",
        file="pytorch_model.bin",
        licence=_ND,
        gated=True,
        paper=_UNI_PAPER,
        citation=_UNI_CITATION,
        code="https://github.com/mahmoodlab/UNI",
        trained_on=("unknown: 350 000 slides, H&E and IHC",),
        intended_use=NON_COMMERCIAL,
        parameters=681.39,
        unconfirmed=("whether fp16 does (sources differ)",),
    ),
    "uni2-h",
)

_CONCH = published(
    Card(
        name="conch",
        dim=512,
        tile_px=512,
        mpp=(0.5,),
        **resized(448, CLIP, "bicubic", crop=448),
        pooling="attention pooling before the contrastive projection, layer norm, not scaled to length one",
        repo="MahmoodLab/CONCH",
        file="pytorch_model.bin",
        licence=_ND,
        gated=True,
        paper="https://doi.org/10.1038/s41591-024-02856-4",
        citation="Lu et al., A visual-language foundation model for computational pathology, Nature Medicine 2024",
        code="https://github.com/mahmoodlab/CONCH",
        trained_on=("unknown: 1.17 M pairs of image and caption",),
        intended_use=NON_COMMERCIAL + " Its authors kept TCGA, PAIP and GTEx out of its training.",
        parameters=87.57,
        aliases=("conch-v1",),
    ),
    "conch",
)

_CONCH_V1_5 = published(
    Card(
        name="conch-v1.5",
        dim=768,
        tile_px=512,
        mpp=(0.5,),
        **resized(448, IMAGENET, "bilinear", crop=448),
        pooling="attention pooling, layer norm",
        repo="MahmoodLab/conchv1_5",
        file="pytorch_model_vision.bin",
        licence=_ND,
        gated=True,
        paper="https://arxiv.org/abs/2411.19666",
        citation="Ding et al., Multimodal Whole Slide Foundation Model for Pathology, 2024",
        code="https://github.com/mahmoodlab/TITAN",
        trained_on=("private (MGB)",),
        intended_use=NON_COMMERCIAL,
        parameters=306.11,
        aliases=("conchv1_5",),
        unconfirmed=(
            "training data",
            "size of the stored position table",
            "filter of the resize (one wrapper has bicubic)",
        ),
    ),
    "conch-v1.5",
)

ENCODERS = by_name(_UNI, _UNI2_H, _CONCH, _CONCH_V1_5)
