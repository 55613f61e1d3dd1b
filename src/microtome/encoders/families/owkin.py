"""Owkin: Phikon, Phikon-v2, and the encoders of their study of scaling, most of which were never released."""

from functools import partial

from microtome.encoders.architectures import Architecture, dino_vit
from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name, timm_network
from microtome.encoders.zoo import IMAGENET, NON_COMMERCIAL, published, resized, stretched

_STUDY = "https://doi.org/10.1101/2023.07.21.23292757"
_CODE = "https://github.com/owkin/HistoSSLscaling"
_CITATION = (
    "Filiot et al., Scaling Self-Supervised Learning for Histopathology with Masked Image Modeling, medRxiv 2023"
)


def _settle_epsilon(network: object, layout: str) -> None:
    """Hugging Face's file goes with an epsilon of 1e-12, the training checkpoint of the same weights with 1e-6."""
    from torch import nn

    assert isinstance(network, nn.Module)  # noqa: S101 - a Published builds nothing else
    for layer in network.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-12 if layout == "hf-vit" else 1e-6


_PHIKON = published(
    Card(
        name="phikon",
        dim=768,
        tile_px=224,
        mpp=(0.5,),
        **stretched(224, IMAGENET),
        pooling="class token after the last norm",
        repo="owkin/phikon",
        file="pytorch_model.bin",
        licence="Owkin non-commercial",
        paper=_STUDY,
        citation=_CITATION,
        code=_CODE,
        trained_on=("TCGA",),
        intended_use=NON_COMMERCIAL,
        parameters=85.80,
        aliases=("iBOTViTBasePANCAN",),
        unconfirmed=("names of the student's entries in ibot_vit_base_pancan.pth",),
    ),
    "phikon",
    layouts=("hf-vit", "dino"),
    settle=_settle_epsilon,
)

_PHIKON_V2 = published(
    Card(
        name="phikon-v2",
        dim=1024,
        tile_px=224,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bilinear", crop=224),
        pooling="class token after the last norm",
        repo="owkin/phikon-v2",
        file="model.safetensors",
        licence="Owkin non-commercial",
        paper="https://arxiv.org/abs/2409.09173",
        citation="Filiot et al., Phikon-v2, a large and public feature extractor for biomarker prediction, 2024",
        code="https://huggingface.co/owkin/phikon-v2",
        trained_on=("TCGA", "CPTAC", "GTEx", "about 130 public data sets"),
        intended_use=NON_COMMERCIAL,
        parameters=303.35,
    ),
    "phikon-v2",
)


def _unreleased(name: str, alias: str, network: Architecture, parameters: float, *inferred: str) -> Published:
    """An encoder of the study whose features are public and whose weights are not."""
    vit = name.startswith("ibot")
    return published(
        Card(
            name=name,
            dim=network.dim,
            tile_px=224,
            mpp=(0.5,),
            **(stretched(224, IMAGENET) if vit else resized(224, IMAGENET, "bilinear", crop=224)),
            pooling="class token after the last norm" if vit else "global average",
            licence="weights never released; the features: Owkin non-commercial",
            paper=_STUDY,
            citation=_CITATION,
            code=_CODE,
            trained_on=("TCGA-COAD",),
            intended_use=NON_COMMERCIAL,
            parameters=parameters,
            aliases=(alias,),
            unconfirmed=("normalisation", "layout of a file of weights", *inferred),
        ),
        network,
        head=frozenset({"fc.weight", "fc.bias"}),
    )


_TEACHER = ("dino",)
_WIDE = Architecture(build=timm_network("wide_resnet50_2"), dim=2048)

ENCODERS = by_name(
    _PHIKON,
    _PHIKON_V2,
    *(
        _unreleased(
            f"ibot-vit{size[0].lower()}-coad",
            f"iBOTViT{size}COAD",
            Architecture(build=partial(dino_vit, dim, depth, heads), dim=dim, layout_names=_TEACHER),
            parameters,
            "length of the vector",
        )
        for size, dim, depth, heads, parameters in (
            ("Small", 384, 12, 6, 21.67),
            ("Base", 768, 12, 12, 85.80),
            ("Large", 1024, 24, 16, 303.30),
        )
    ),
    _unreleased("moco-wrn-coad", "MoCoWideResNetCOAD", _WIDE, 66.83, "what is done to tiles of another size"),
)
