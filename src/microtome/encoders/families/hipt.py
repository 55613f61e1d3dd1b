"""HIPT's two levels, and the DINO encoder of breast cancer that came before it."""

from microtome.encoders.architectures import Architecture
from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import HALF, NON_COMMERCIAL, RESEARCH, layouts_of, published, stretched, variant

_VIT256 = published(
    Card(
        name="hipt-vit256",
        dim=384,
        tile_px=256,
        mpp=(0.5,),
        **stretched(256, HALF),
        pooling="class token after the last norm",
        file="vit256_small_dino.pth",
        url="https://github.com/mahmoodlab/HIPT",
        licence="Apache-2.0 with Commons Clause (non-commercial)",
        paper="https://arxiv.org/abs/2206.02647",
        citation="Chen et al., Scaling Vision Transformers to Gigapixel Images, CVPR 2022",
        code="https://github.com/mahmoodlab/HIPT",
        trained_on=("TCGA",),
        intended_use=NON_COMMERCIAL,
        parameters=21.67,
        aliases=("dino-pancancer", "DinoChenPancancer"),
        unconfirmed=("training data",),
    ),
    "hipt-vit256",
)


def _region(part: str) -> Architecture:
    def build() -> object:
        from microtome.encoders.architectures import hipt_region
        from microtome.models.vit4k import RegionEncoder, RegionVector

        regions = hipt_region()
        assert isinstance(regions, RegionEncoder)  # noqa: S101 - for the type checker
        return RegionVector(regions, part)

    return Architecture(build=build, dim={"cls4k": 192, "mean256_cls4k": 576}[part])


_DINO = ("dino",)

_HIPT_4K = published(
    Card(
        name="hipt-4k",
        dim=192,
        tile_px=4096,
        mpp=(0.5,),
        **stretched(4096, HALF),
        pooling="class token of the upper level, over the class tokens of tiles of 256 px",
        file="vit256_small_dino.pth, vit4k_xs_dino.pth",
        url="https://github.com/mahmoodlab/HIPT",
        licence="Apache-2.0 with Commons Clause (non-commercial)",
        paper="https://arxiv.org/abs/2206.02647",
        citation="Chen et al., Scaling Vision Transformers to Gigapixel Images, CVPR 2022",
        code="https://github.com/mahmoodlab/HIPT",
        trained_on=("TCGA",),
        intended_use=NON_COMMERCIAL,
        parameters=24.45,
        variants=("mean",),
        aliases=("HIPT",),
        unconfirmed=("training data",),
    ),
    _region("cls4k"),
    layouts=_DINO,
    parts=(
        ("vit256_small_dino.pth", "regions.vit256", layouts_of(*_DINO)),
        ("vit4k_xs_dino.pth", "regions.vit4k", layouts_of(*_DINO)),
    ),
)

_HIPT_4K_MEAN = variant(
    _HIPT_4K,
    "mean",
    _region("mean256_cls4k"),
    dim=576,
    pooling="mean of the class tokens of tiles of 256 px, then class token of the upper level",
)

_BRCA = published(
    Card(
        name="dino-brca",
        dim=384,
        tile_px=256,
        mpp=(0.5,),
        **stretched(256, HALF),
        pooling="class token after the last norm",
        file="vits_tcga_brca_dino.pt",
        url="https://github.com/Richarizardd/Self-Supervised-ViT-Path",
        licence="GPL-3.0",
        paper="https://arxiv.org/abs/2203.00585",
        citation="Chen & Krishnan, Self-Supervised Vision Transformers Learn Visual Concepts in Histopathology, 2022",
        code="https://github.com/Richarizardd/Self-Supervised-ViT-Path",
        trained_on=("TCGA-BRCA",),
        intended_use=RESEARCH,
        parameters=21.67,
        aliases=("DinoChenBRCA",),
    ),
    "dino-brca",
)

ENCODERS = by_name(_VIT256, _HIPT_4K, _HIPT_4K_MEAN, _BRCA)
