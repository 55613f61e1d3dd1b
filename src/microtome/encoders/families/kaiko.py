"""Kaiko: five vision transformers of 2024, and Midnight."""

from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import HALF, NON_COMMERCIAL, RESEARCH, published, resized, variant

_MIDNIGHT = published(
    Card(
        name="midnight-12k",
        dim=3072,
        tile_px=224,
        mpp=(0.5, 0.25, 1.0, 2.0),
        **resized(224, HALF, "bilinear", crop=224),
        pooling="class token, then mean of the patch tokens",
        repo="kaiko-ai/midnight",
        file="model.safetensors",
        licence="MIT",
        paper="https://arxiv.org/abs/2504.05186",
        citation=(
            "Karasikov et al., Training state-of-the-art pathology foundation models with orders of magnitude less "
            "data, 2025"
        ),
        code="https://huggingface.co/kaiko-ai/midnight",
        trained_on=("TCGA",),
        intended_use=RESEARCH,
        parameters=1136.48,
        variants=("cls",),
        aliases=("midnight",),
        unconfirmed=(
            "whether access must be asked for",
            "size of the stored position table (518 px fits the number of parameters)",
            "resolutions between 0.25 and 2 µm/px",
        ),
    ),
    "midnight-12k",
)


def _kaiko(size: str, patch: int, dim: int, parameters: float) -> Published:
    registers = "_reg4" if size == "large" else ""
    name = f"{size[0]}{patch}"
    return published(
        Card(
            name=f"kaiko-{name}",
            dim=dim,
            tile_px=256,
            **resized(224, HALF, "bilinear", crop=224),
            pooling="class token after the last norm",
            repo=f"1aurent/vit_{size}_patch{patch}{registers}_224.kaiko_ai_towards_large_pathology_fms",
            file="model.safetensors",
            licence="Kaiko, non-commercial",
            paper="https://arxiv.org/abs/2404.15217",
            citation="kaiko.ai et al., Towards Large-Scale Training of Pathology Foundation Models, 2024",
            code="https://github.com/kaiko-ai/towards_large_pathology_fms",
            trained_on=("TCGA",),
            intended_use=NON_COMMERCIAL,
            parameters=parameters,
            unconfirmed=("which resolutions (several)", "number of slides"),
        ),
        f"kaiko-{name}",
    )


ENCODERS = by_name(
    _kaiko("small", 8, 384, 21.67),
    _kaiko("small", 16, 384, 21.67),
    _kaiko("base", 8, 768, 85.81),
    _kaiko("base", 16, 768, 85.80),
    _kaiko("large", 14, 1024, 304.37),
    _MIDNIGHT,
    variant(_MIDNIGHT, "cls", "midnight-12k-cls", dim=1536, pooling="class token after the last norm"),
)
