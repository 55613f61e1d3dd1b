"""FastGlioma's patch encoders: stimulated Raman histology, two raw 16-bit channels."""

from functools import partial
from typing import TYPE_CHECKING

from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import published

if TYPE_CHECKING:
    from torch import nn


def _preprocess(card: Card, tile: tuple[int, int], *, low_resolution: bool) -> "nn.Module":
    from microtome.encoders.srh_preprocess import SrhPreprocess

    return SrhPreprocess(card, tile, low_resolution=low_resolution)


def _tokenizer(resolution: str, parameters: float, *inferred: str) -> Published:
    low = resolution == "lowres"
    return published(
        Card(
            name=f"fastglioma-{resolution}-tokenizer",
            dim=512,
            input_px=300,
            tile_px=300,
            size_policy="error",
            modality="srh",
            pooling="global average",
            repo="mlinslab/fastglioma",
            file=f"fastglioma_{resolution}_model.ckpt",
            licence="CC-BY-NC-SA-4.0",
            gated=True,
            paper="https://doi.org/10.1038/s41586-024-08169-3",
            citation="Kondepudi et al., Foundation models for fast detection of glioma infiltration, Nature 2024",
            code="https://github.com/MLNeurosurg/fastglioma",
            trained_on=("stimulated Raman histology of the OpenSRH kind (no H&E)",),
            intended_use=(
                "Investigational only, for adult-type diffuse glioma. Not to guide resection, not for children, not "
                "for other tumours or tissue."
            ),
            parameters=parameters,
            unconfirmed=("paper", *inferred),
        ),
        f"fastglioma-{resolution}",
        dtype="uint16",
        channels=2,
        sees=1 if low else 3,
        preprocess=partial(_preprocess, low_resolution=low),
    )


ENCODERS = by_name(_tokenizer("highres", 21.285), _tokenizer("lowres", 21.278, "name of the file"))
