"""Lunit: two vision transformers and three ResNet-50s of its comparison of self-supervised methods."""

from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import NON_COMMERCIAL, Norm, exact, published

_NORM: Norm = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))


def _lunit(name: str, repo: str, dim: int, parameters: float) -> Published:
    vit = repo.startswith("vit")
    return published(
        Card(
            name=f"lunit-{name}",
            dim=dim,
            tile_px=224,
            mpp=(0.5,),
            **exact(224, _NORM),
            pooling="class token after the last norm" if vit else "global average of the last stage",
            repo=f"1aurent/{repo}",
            file="model.safetensors",
            licence="Lunit, non-commercial",
            paper="https://arxiv.org/abs/2212.04690",
            citation="Kang et al., Benchmarking Self-Supervised Learning on Diverse Pathology Datasets, CVPR 2023",
            code="https://github.com/lunit-io/benchmark-ssl-pathology",
            trained_on=("TCGA",),
            intended_use=NON_COMMERCIAL,
            parameters=parameters,
            unconfirmed=(
                "mean and standard deviation (those of its training; the repository may name others)",
                "what is done to tiles of another size",
            ),
        ),
        f"lunit-{name}",
    )


ENCODERS = by_name(
    _lunit("s8", "vit_small_patch8_224.lunit_dino", 384, 21.67),
    _lunit("s16", "vit_small_patch16_224.lunit_dino", 384, 21.67),
    _lunit("bt", "resnet50.lunit_bt", 2048, 23.51),
    _lunit("mocov2", "resnet50.lunit_mocov2", 2048, 23.51),
    _lunit("swav", "resnet50.lunit_swav", 2048, 23.51),
)
