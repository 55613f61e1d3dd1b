"""Published slide encoders: the vectors of a slide's tiles, of one tile encoder, to one vector of the slide.

Their cards stand with the others' (:func:`microtome.encoders.registry.read_card`); what they need of their input stands
here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from microtome.encoders.architectures import BAG_ARCHITECTURES
from microtome.encoders.base import Card
from microtome.encoders.families.unavailable import ENCODERS as KNOWN
from microtome.encoders.published import Published
from microtome.errors import EncoderOutputError, TileSizeError, UnknownEncoderError

if TYPE_CHECKING:
    from torch import nn

TILE_ENCODERS: Mapping[str, str] = {
    "chief": "chief-ctranspath",
    "feather-conch-v1.5": "conch-v1.5",
    "feather-uni": "uni",
    "feather-uni2-h": "uni2-h",
}
"""Slide encoder → the tile encoder whose vectors it takes."""

N_FEATURES: Mapping[str, int] = {
    "chief": 768,
    "feather-conch-v1.5": 768,
    "feather-uni": 1024,
    "feather-uni2-h": 1536,
}
"""Slide encoder → length of such a vector."""


@dataclass(frozen=True)
class EncodedSlide:
    """What a slide encoder says of a slide.

    Attributes:
        vector: Of the slide.
        attention: How much each tile counts; sums to one.
    """

    vector: Float32[np.ndarray, " d"]
    attention: Float32[np.ndarray, " n"]


class SlideEncoder:
    """Tiles' vectors to one of the slide, in fp32.

    Args:
        card: What is known about it.
        network: With its weights.
        device: Where it runs.
        weights_hash: SHA-256 of the weights.
        weights_origin: ``published``, ``file`` or ``filled``.
    """

    def __init__(
        self, card: Card, network: "nn.Module", *, device: str, weights_hash: str, weights_origin: str
    ) -> None:
        self.card, self.device = card, device
        self.tile_encoder, self.n_features = TILE_ENCODERS[card.name], N_FEATURES[card.name]
        self.weights_hash, self.weights_origin = weights_hash, weights_origin
        self._network = network.to(device).eval()

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decides the vector beside the tiles' vectors."""
        card = {f"slide_card_{name}": value for name, value in asdict(self.card).items()}
        return {**card, "slide_weights_sha256": self.weights_hash, "slide_weights_origin": self.weights_origin}

    def encode(self, features: Float[np.ndarray, "n d"]) -> EncodedSlide:
        """Encode the vectors of one slide's tiles.

        Raises:
            TileSizeError: If they are of another length.
            ConfigError: If there is none.
            EncoderOutputError: If NaN or infinity came out.
        """
        import torch

        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise TileSizeError(
                f"Slide encoder '{self.card.name}' takes vectors of '{self.tile_encoder}', {self.n_features} numbers "
                f"each. Got {features.shape}."
            )
        bag = torch.from_numpy(np.array(features, np.float32))[None].to(self.device)
        with torch.inference_mode():
            found = self._network(bag)
        vector, attention = (part[0].cpu().numpy() for part in (found.vector, found.attention))
        if not np.isfinite(vector).all():
            raise EncoderOutputError(
                f"Slide encoder '{self.card.name}' gave NaN or infinity: its weights are at fault."
            )
        return EncodedSlide(vector, attention)


def list_slide_encoders() -> tuple[str, ...]:
    """Names of the slide encoders that can be loaded.

    Example:
        >>> list_slide_encoders()
        ('chief', 'feather-conch-v1.5', 'feather-uni', 'feather-uni2-h')
    """
    return tuple(sorted(TILE_ENCODERS))


def load_slide_encoder(name: str, *, weights: str | Path | None = None, device: str = "auto") -> SlideEncoder:
    """Load a slide encoder.

    Args:
        name: One of :func:`list_slide_encoders`.
        weights: A file; ``"none"`` to fill the network by rule; None for the published weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UnknownEncoderError: If there is none of this name.
        ConfigError: If there is no such device.
        WeightsError: If the weights cannot be had, read or made to fit.
    """
    from microtome.encoders.filled import fill_network, filled_card
    from microtome.encoders.hardware import resolve_runtime
    from microtome.encoders.hub import fetch_weights
    from microtome.encoders.network import load_weights

    if name not in TILE_ENCODERS:
        near = get_close_matches(name, TILE_ENCODERS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownEncoderError(
            f"No slide encoder goes by {name!r}.{hint} There are {', '.join(list_slide_encoders())}."
        )
    where = resolve_runtime(device, "fp32", "torch").device
    card = replace(KNOWN[name].card, unavailable="")
    published = Published(card=card, build=BAG_ARCHITECTURES[name].build, layouts=BAG_ARCHITECTURES[name].layouts)
    network = published.build()
    if weights == "none":
        hashed, origin, card = fill_network(network, (1, 1, 1)), "filled", filled_card(card)
    else:
        path = fetch_weights(card) if weights is None else Path(weights)
        hashed, origin = load_weights(network, path, published), "published" if weights is None else "file"
    return SlideEncoder(card, network, device=where, weights_hash=hashed, weights_origin=origin)
