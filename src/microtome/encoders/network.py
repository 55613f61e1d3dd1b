"""A network as an encoder: its weights are loaded or filled, tiles are checked, a runtime runs it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Shaped
from torch import Tensor, nn

from microtome.encoders.base import Encoder
from microtome.encoders.checkpoints import check_finite, compare, fit_checkpoint, read_checkpoint
from microtome.encoders.filled import fill_network, filled_card
from microtome.encoders.hub import fetch_weights
from microtome.encoders.preprocess import Preprocess
from microtome.encoders.published import Published
from microtome.encoders.runtime import Runtime, Wanted, make_runtime, resolve_runtime
from microtome.errors import EncoderOutputError, ModalityError, WeightsError
from microtome.storage import digest

EncoderT = TypeVar("EncoderT", bound=Encoder)


class NetworkEncoder(Encoder):
    """A network behind its preprocessing, run by the runtime that suits the device. Threads may share it.

    The runtime for tiles of the card's size is made at once, so that the recipe names the one that computes; tiles of
    another size that the card admits get one of the same kind when they come.

    Args:
        published: Which encoder it is: its card, the tiles that it takes, what stands before the network.
        network: Gives (n, dim), with its weights.
        wanted: Device, precision and runtime.
        weights_hash: SHA-256 of the weights.
        weights_origin: ``published``, ``file`` or ``filled``.

    Raises:
        ConfigError: If device and precision cannot be had here.
    """

    def __init__(
        self,
        published: Published,
        network: nn.Module,
        *,
        wanted: Wanted,
        weights_hash: str,
        weights_origin: str = "file",
    ) -> None:
        choice = resolve_runtime(*wanted)
        self.card, self.device, self.precision = published.card, choice.device, choice.precision
        self.weights_hash, self.weights_origin = weights_hash, weights_origin
        self.takes = (published.dtype, published.channels)
        self._published, self._network = published, network.eval()
        self._making = threading.Lock()
        side = published.card.tile_px
        self._tile, self._made = (side, side), self._make_runtime((side, side), wanted.runtime)
        self.concurrent = self._made.concurrent

    @property
    def runtime(self) -> str:
        """What computes: ``torch`` or ``openvino``."""
        return self._made.name

    @property
    def runtime_note(self) -> str:
        """Why OpenVINO is not in use where ``auto`` would have preferred it."""
        return self._made.note

    @property
    def recipe(self) -> Mapping[str, object]:
        """That of every encoder, with what computes it and whether the weights mean anything."""
        return {
            **super().recipe,
            "runtime": self._made.name,
            "runtime_version": self._made.version,
            "weights_origin": self.weights_origin,
        }

    def encode(self, images: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "n d"]:
        """Encode a batch of tiles of one size.

        Args:
            images: (n, h, w, c) of the dtype and channels that the encoder takes: uint8 RGB for bright-field ones.

        Returns:
            Float32, (n, dim), finite.

        Raises:
            ModalityError: If dtype, channels or axes are not what the encoder takes.
            TileSizeError: If it does not take tiles of this size.
            EncoderOutputError: If NaN or infinity, or vectors of another length came out.
        """
        self._check(images)
        if not len(images):
            return np.empty((0, self.card.dim), dtype=np.float32)
        features = self._runtime_for((images.shape[1], images.shape[2])).run(np.ascontiguousarray(images))
        if features.shape != (len(images), self.card.dim):
            raise EncoderOutputError(
                f"Encoder '{self.card.name}' gave {features.shape} for {len(images)} tiles; its card says "
                f"{self.card.dim} numbers per tile."
            )
        finite = np.isfinite(features)
        if not finite.all():
            row = int(np.flatnonzero(~finite.all(axis=1))[0])
            raise EncoderOutputError(
                f"Encoder '{self.card.name}' gave NaN or infinity for tile {row} of the batch in {self.precision} "
                f"({self._made.name}). Pass --precision fp32; if it stays, its weights are at fault."
            )
        return features

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """On a GPU as many tiles as fit into its memory, which is measured once."""
        return self._runtime_for((tile_shape[0], tile_shape[1])).batch_for(tile_shape)

    def _check(self, images: Shaped[np.ndarray, "..."]) -> None:
        dtype, channels = self._published.dtype, self._published.channels
        if images.ndim == 4 and images.shape[-1] == channels and images.dtype == dtype:
            return
        hint = "Pass the tiles of a source of that kind."
        if images.ndim == 3:
            hint = "Add a batch axis: images[None]."
        elif (dtype, channels) == ("uint8", 3):
            hint = "Pass --channels (and, unless it is 8-bit, --window LOW,HIGH) to see a slide as bright-field RGB."
        raise ModalityError(
            f"Encoder '{self.card.name}' takes {self.card.modality} tiles, {dtype} (n, h, w, {channels}). Got "
            f"{images.dtype} {images.shape}. {hint}"
        )

    def _runtime_for(self, tile: tuple[int, int]) -> Runtime:
        with self._making:
            if tile != self._tile:  # sizes do not take turns: one runtime is kept, as each holds the weights
                self._tile, self._made = tile, self._make_runtime(tile, self._made.name)
            return self._made

    def _make_runtime(self, tile: tuple[int, int], runtime: str) -> Runtime:
        return make_runtime(
            self._network,
            make_preprocess(self._published, tile),
            device=self.device,
            precision=self.precision,
            runtime=runtime,
            input_shape=(*tile, self._published.channels),
            cache_key=digest({**super().recipe, "tile": list(tile)}),
        )

    def __reduce__(self) -> str:
        raise TypeError(f"Encoder '{self.card.name}' holds a network and cannot be pickled. Load it where it is used.")


def load_published(published: Published, wanted: Wanted, *, weights: str | Path | None) -> NetworkEncoder:
    """As :func:`load_weighted`, for encoders that need not look at a slide first."""
    return load_weighted(NetworkEncoder, published, wanted, weights=weights)


def load_weighted(
    kind: Callable[..., EncoderT], published: Published, wanted: Wanted, *, weights: str | Path | None
) -> EncoderT:
    """Build a published encoder's network, give it weights, and make an encoder of it.

    Args:
        kind: Class of the encoder.
        published: Which.
        wanted: Where to run it, in which precision, with which runtime.
        weights: A file; ``"none"`` to fill the network by rule; None for the published weights.

    Raises:
        ConfigError: If the encoder cannot run with these settings.
        WeightsError: If the weights cannot be had, read or made to fit.
    """
    resolve_runtime(*wanted)  # before gigabytes are read for nothing
    card = published.card
    network = published.build()
    if weights == "none":
        side = card.input_px or card.tile_px
        weights_hash, origin = fill_network(network, (published.sees, side, side)), "filled"
        card = filled_card(card)
    else:
        path = fetch_weights(card) if weights is None else Path(weights)
        weights_hash = load_weights(network, path, published)
        known = card.sha256 in ("", weights_hash)
        if weights is None and not known:
            raise WeightsError(
                f"'{path}' is not the published file of '{card.name}': its SHA-256 is {weights_hash}, the card says "
                f"{card.sha256}. Delete it to download it again; to use it as it is, pass --weights {path}."
            )
        origin = "published" if weights is None or card.sha256 == weights_hash else "file"
    return kind(
        replace(published, card=card),
        network,
        wanted=wanted,
        weights_hash=weights_hash,
        weights_origin=origin,
    )


def make_preprocess(published: Published, tile: tuple[int, int]) -> nn.Module:
    """What stands before an encoder's network, for tiles of a height and width."""
    if published.preprocess is None:
        return Preprocess(published.card, tile, square_only=published.square_only)
    made: nn.Module = published.preprocess(published.card, tile)
    return made


def load_weights(network: nn.Module, path: Path, published: Published) -> str:
    """Give a network the tensors of a file; every tensor of both must find its like.

    Args:
        network: As :attr:`Published.build` made it.
        path: Of the file, in any layout that :func:`read_checkpoint` reads; of a folder where there are parts.
        published: How the file names things.

    Returns:
        SHA-256 of the file; of the parts' in turn where there are parts.

    Raises:
        WeightsError: If the file cannot be read, is of another network, or holds NaN or infinity.
    """
    if published.parts:
        return _load_parts(network, path, published)
    checkpoint = read_checkpoint(path)
    wanted = network.state_dict()
    layouts = [] if published.layouts is None else published.layouts()
    if any(layout.steps for layout in layouts):
        from microtome.encoders.key_maps import load_layout

        tensors = load_layout(checkpoint.content, layouts, encoder=published.card.name)
        fit = compare("", "", tensors, wanted)
    else:
        adapt = None if published.adapt is None else partial(_adapt, published.adapt, network)
        fit = fit_checkpoint(checkpoint, wanted, head=published.head, adapt=adapt)
    if not fit.is_whole:
        from microtome.encoders.timm_models import guess_architecture

        guess = guess_architecture(checkpoint)
        hint = f" It looks like timm's {guess}: --encoder timm:{guess}." if guess else ""
        raise WeightsError(
            f"Weights file '{path}' is not of the network of '{published.card.name}': {fit.explanation}.{hint}"
        )
    check_finite(path, fit.tensors)
    network.load_state_dict(dict(fit.tensors), strict=False)  # the fit is strict, but for counters of batches
    if published.settle is not None:
        published.settle(network, next(layout.name for layout in layouts if layout.recognises(checkpoint.content)))
    return checkpoint.sha256


def _load_parts(network: nn.Module, folder: Path, published: Published) -> str:
    missing = [file for file, *_ in published.parts if not (folder / file).is_file()]
    if missing:
        raise WeightsError(
            f"The weights of '{published.card.name}' are {len(published.parts)} files in one folder. '{folder}' lacks "
            f"{', '.join(missing)}. Put them there and pass --weights FOLDER."
        )
    hashes = {
        file: load_weights(network.get_submodule(part), folder / file, replace(published, parts=(), layouts=layouts))
        for file, part, layouts in published.parts
    }
    return digest(hashes)


def _adapt(
    rule: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]], network: nn.Module, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    return rule(tensors, network)
