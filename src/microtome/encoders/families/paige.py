"""Paige: Virchow and Virchow2; the class token beside the mean of the patches, or alone (``:cls``)."""

from functools import partial
from typing import TYPE_CHECKING, Any

from microtome.encoders.architectures import ARCHITECTURES, Architecture
from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import IMAGENET, NON_COMMERCIAL, RESEARCH, published, resized, variant

if TYPE_CHECKING:
    from torch import nn

_BOTH = "class token, then mean of the patch tokens"
_CLS = "class token after the last norm"

_VIRCHOW = published(
    Card(
        name="virchow",
        dim=2560,
        tile_px=224,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bicubic"),
        pooling=_BOTH,
        repo="paige-ai/Virchow",
        file="pytorch_model.bin",
        licence="Apache-2.0",
        gated=True,
        paper="https://doi.org/10.1038/s41591-024-03141-0",
        citation=(
            "Vorontsov et al., A foundation model for clinical-grade computational pathology and rare cancers "
            "detection, Nature Medicine 2024"
        ),
        code="https://huggingface.co/paige-ai/Virchow",
        trained_on=("private (MSK)",),
        intended_use=RESEARCH,
        parameters=631.23,
        variants=("cls",),
    ),
    "virchow",
    square_only=True,
)

_VIRCHOW2 = published(
    Card(
        name="virchow2",
        dim=2560,
        tile_px=224,
        mpp=(0.5, 0.25, 1.0, 2.0),
        **resized(224, IMAGENET, "bicubic"),
        pooling=_BOTH + "; registers left out",
        repo="paige-ai/Virchow2",
        file="pytorch_model.bin",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper="https://arxiv.org/abs/2408.00738",
        citation="Zimmermann et al., Virchow2: Scaling Self-Supervised Mixed Magnification Models in Pathology, 2024",
        code="https://huggingface.co/paige-ai/Virchow2",
        trained_on=("unknown: 3.1 M slides, H&E and IHC",),
        intended_use=NON_COMMERCIAL,
        parameters=631.24,
        variants=("cls",),
    ),
    "virchow2",
    square_only=True,
)


def _class_token(name: str) -> "nn.Module":
    network: Any = ARCHITECTURES[name].build()
    network.pooling = "cls"
    made: nn.Module = network
    return made


def _alone(encoder: Published) -> Published:
    build = partial(_class_token, encoder.card.name)
    network = Architecture(build=build, dim=1280, layout_names=encoder.card.layouts)
    return variant(encoder, "cls", network, dim=1280, pooling=_CLS)


ENCODERS = by_name(_VIRCHOW, _alone(_VIRCHOW), _VIRCHOW2, _alone(_VIRCHOW2))
