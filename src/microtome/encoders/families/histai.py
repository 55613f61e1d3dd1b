"""HistAI: Hibou B and L."""

from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import RESEARCH, Norm, published, resized

_NORM: Norm = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))


def _hibou(size: str, dim: int, parameters: float) -> Published:
    return published(
        Card(
            name=f"hibou-{size.lower()}",
            dim=dim,
            tile_px=224,
            mpp=(0.5,),
            **resized(224, _NORM, "bicubic"),
            pooling="class token after the last norm",
            repo=f"histai/hibou-{size}",
            licence="Apache-2.0",
            gated=True,
            paper="https://arxiv.org/abs/2406.05074",
            citation="Nechaev et al., Hibou: A Family of Foundational Vision Transformers for Pathology, 2024",
            code="https://github.com/HistAI/hibou",
            trained_on=("private (1.14 M slides)",),
            intended_use=RESEARCH,
            parameters=parameters,
            unconfirmed=("names of the tensors and of the file in the repository",),
        ),
        f"hibou-{size.lower()}",
    )


ENCODERS = by_name(_hibou("b", 768, 85.74), _hibou("L", 1024, 303.66))
