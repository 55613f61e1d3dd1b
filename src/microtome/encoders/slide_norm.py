"""Encoders that normalise tiles by the mean and standard deviation of their own slide, as HistoEncoder does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from torch import nn

from microtome.encoders.base import Encoder, SlideTilesToMeasure
from microtome.encoders.network import NetworkEncoder, load_weighted
from microtome.encoders.published import Published
from microtome.encoders.runtime import Wanted
from microtome.errors import ConfigError, EncoderError

MAX_TILES = 1000
"""Tiles of a slide that are measured at most."""

_SEED, _AT_ONCE = 0, 64


def slide_statistics(tiles: SlideTilesToMeasure) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Mean and standard deviation of a slide's tiles per channel, on the scale 0..1.

    At most :data:`MAX_TILES` tiles are looked at, drawn by a fixed seed; tiles that cannot be decoded are left out.

    Args:
        tiles: 8-bit RGB tiles of one slide.

    Returns:
        The mean of the tiles' means, and the mean of the tiles' standard deviations (not that of all pixels).

    Raises:
        EncoderError: If no tile can be decoded, or all tiles are of one colour.

    References:
        specs HistoEncoder section 1. The original draws without a seed.
    """
    n = len(tiles)
    rows = np.sort(np.random.default_rng(_SEED).permutation(n)[:MAX_TILES])
    means, stds = [], []
    for start in range(0, len(rows), _AT_ONCE):
        batch = tiles.read(rows[start : start + _AT_ONCE])
        for image in batch.images[batch.readable]:
            pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
            means.append(pixels.mean(axis=0))
            stds.append(pixels.std(axis=0))
    if not means:
        raise EncoderError(f"None of the {n} tiles can be decoded, so that the slide has no mean to normalise by.")
    mean, std = np.mean(means, axis=0) / 255, np.mean(stds, axis=0) / 255
    if not (std > 0).all():
        raise EncoderError(
            f"The slide's tiles do not vary (standard deviation {std.tolist()}), so that they cannot be normalised by "
            "it. Choose norm=imagenet or norm=half."
        )
    return mean, std


class SlideNormEncoder(Encoder):
    """A network whose tiles are normalised by their own slide; :meth:`for_slide` gives the encoder of a slide.

    Args:
        published: Which encoder it is.
        network: With its weights.
        wanted: Where it runs. The runtime is torch's: another would have to compile the network for every slide.
        weights_hash: SHA-256 of the weights.
        weights_origin: ``published``, ``file`` or ``filled``.

    Raises:
        ConfigError: If another runtime is asked for, or device and precision cannot be had here.
    """

    def __init__(
        self, published: Published, network: nn.Module, *, wanted: Wanted, weights_hash: str, weights_origin: str
    ) -> None:
        if wanted.runtime not in ("auto", "torch"):
            raise ConfigError(
                f"'{published.card.name}' normalises every slide by itself, which only the runtime torch does. Got "
                f"--runtime {wanted.runtime}."
            )
        wanted = wanted._replace(runtime="torch")
        self._published, self._network = published, network
        self._any = NetworkEncoder(
            published, network, wanted=wanted, weights_hash=weights_hash, weights_origin=weights_origin
        )
        self._wanted = Wanted(self._any.device, self._any.precision, "torch")
        self.card, self.device, self.precision = self._any.card, self._any.device, self._any.precision
        self.weights_hash, self.weights_origin = weights_hash, weights_origin
        self.takes, self.concurrent = self._any.takes, self._any.concurrent

    @property
    def recipe(self) -> Mapping[str, object]:
        """That of the network, and the rule of the normalisation: with the tiles it decides the values."""
        return {**self._any.recipe, "slide_norm_tiles": MAX_TILES, "slide_norm_seed": _SEED}

    def for_slide(self, tiles: SlideTilesToMeasure) -> NetworkEncoder:
        """Measure a slide's tiles and give the encoder that normalises by them.

        Raises:
            EncoderError: If they cannot be measured.
        """
        mean, std = slide_statistics(tiles)
        card = replace(self.card, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        encoder = NetworkEncoder(
            replace(self._published, card=card),
            self._network,
            wanted=self._wanted,
            weights_hash=self.weights_hash,
            weights_origin=self.weights_origin,
        )
        encoder.measured = {"slide_mean": list(card.mean), "slide_std": list(card.std)}
        return encoder

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """As of the network."""
        return self._any.batch_for(tile_shape)

    def encode(self, images: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "n d"]:
        """Refuse: the tiles of one batch do not say what their slide is like.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"'{self.card.name}' normalises by a whole slide. Give it the slide's tiles first: "
            "encoder.for_slide(tiles).encode(images)."
        )


def load_slide_norm(published: Published, wanted: Wanted, *, weights: str | Path | None) -> SlideNormEncoder:
    """As :func:`microtome.encoders.network.load_published`, for an encoder that normalises by slide."""
    return load_weighted(SlideNormEncoder, published, wanted, weights=weights)
