"""Pixels to vectors, and what is known about the weights that do it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Shaped

USUAL_BATCH = 64
"""Tiles per batch where the device does not say otherwise."""

MPP_TOLERANCE = 0.1
"""Share by which the resolution of tiles may differ from what an encoder was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known about one published encoder: enough to feed it correctly and to cite it.

    Attributes:
        name: What :func:`microtome.load_encoder` takes.
        dim: Length of the vector.
        input_px: Side of the square that the network sees; None where any size will do.
        tile_px: Side of the tile to cut for it, as its authors and users do; the published transform may resize it.
        mpp: µm/px of the tiles it was made for: one value, several (the usual one first), or empty where any will do.
        mean: Per-channel mean subtracted after scaling to 0..1; empty where the encoder does its own.
        std: Per-channel divisor, likewise.
        resize: Side to which tiles are resized first: the shorter one where there is a crop, else both; None for none.
        crop: Side of the centre crop; None for none.
        interpolation: Filter of the resize: ``bilinear``, ``bicubic``, ``lanczos``, ``box``, ``hamming``, ``nearest``.
        size_policy: What happens to a tile of another size than ``tile_px``: ``error``, ``resize`` (as the published
            transform does), ``interpolate`` (taken at its own size, positions interpolated), or ``any`` where every
            size is taken as it is.
        modality: Kind of image it takes: ``brightfield``, ``fluorescence``, ``srh``.
        pooling: How tokens or maps become one vector.
        precision: Precision of the reference result.
        repo: Where the weights are published; empty where there are none.
        file: File in it.
        revision: Commit or version of it.
        sha256: Hash of the file.
        licence: Licence of the weights.
        gated: Whether access must be asked for.
        paper: Where it is described.
        citation: One line to cite.
        code: Where the original implementation is.
        trained_on: Data sets that it saw, for leakage warnings.
        intended_use: What it is for, and what not.
        parameters: Of the network, in millions; 0 where there are none or nobody says.
        url: Where weights are published that are on no Hugging Face repository.
        layouts: Of the files that it takes, by name in :data:`microtome.encoders.key_maps.KEY_MAPS`: each says which
            tensors must be there, and which others may.
        variants: Other features of the same weights: ``<name>:<variant>``, several joined with commas.
        aliases: Other names that mean this encoder, above all those of the original repositories.
        unconfirmed: What of the above nobody has seen in code, model card or file yet.
        unavailable: Why it is listed but cannot be loaded; empty where it can.
    """

    name: str
    dim: int
    input_px: int | None
    tile_px: int
    mpp: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | None = None
    crop: int | None = None
    interpolation: str = ""
    size_policy: str = "error"
    modality: str = "brightfield"
    pooling: str = ""
    precision: str = "fp32"
    repo: str = ""
    file: str = ""
    revision: str = ""
    sha256: str = ""
    licence: str = ""
    gated: bool = False
    paper: str = ""
    citation: str = ""
    code: str = ""
    trained_on: tuple[str, ...] = ()
    intended_use: str = ""
    parameters: float = 0.0
    url: str = ""
    layouts: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    unavailable: str = ""

    @property
    def link(self) -> str:
        """A link that gives the file itself, so that it can be downloaded without a hand; empty where there is none.

        That is a ``url`` whose path ends in the name of the file; others are pages.
        """
        path = self.url.partition("?")[0]
        return self.url if self.file and not self.repo and path.endswith(f"/{self.file}") else ""

    @property
    def access(self) -> str:
        """How its weights are had, in words."""
        page = self.url or f"https://huggingface.co/{self.repo}"
        if self.unavailable:
            return f"cannot be loaded: {self.unavailable}"
        if self.repo and self.gated:
            return f"gated: open {page}, accept its terms, then 'hf auth login'"
        if self.repo or self.link:
            return f"open: {page}"
        if self.url:
            asked = "ask for" if self.gated else "download"
            return f"by hand: {asked} {self.file or 'the file'} at {page}, then pass --weights FILE"
        return "never released: pass a file of your own with --weights" if self.parameters else "built in"

    def suits(self, mpp: float) -> bool:
        """Whether tiles of this resolution (µm/px) are what it was made for, within 10 %."""
        return not self.mpp or any(abs(mpp / made_for - 1) <= MPP_TOLERANCE for made_for in self.mpp)


@runtime_checkable
class SlideTilesToMeasure(Protocol):
    """The tiles of one slide, as every source of tiles has them."""

    def __len__(self) -> int:
        """Number of tiles."""
        ...

    def read(self, rows: Int[np.ndarray, " n"]) -> Any:  # noqa: ANN401 - a batch; its class lives elsewhere
        """Read some: an object with ``images`` (n h w c) and ``readable`` (n)."""
        ...


class Encoder(ABC):
    """Tiles to vectors. The result for a tile never depends on the others in its batch.

    Attributes:
        card: What is known about it.
        device: Where it runs, for example ``"cpu"``.
        precision: Precision it computes in, for example ``"fp32"``.
        weights_hash: SHA-256 of the weights in use; empty where there are none.
        weights_origin: Where they are from: ``published``, ``file``, ``filled`` (by rule, without meaning), or empty
            where there are none.
        concurrent: Whether :meth:`encode` may be called from several threads at once and is faster so, as code on
            the CPU is that runs in one thread and lets go of the interpreter.
        takes: Dtype and number of channels of the tiles that it takes.
        measured: What :meth:`for_slide` found on the slide, kept with its features.
    """

    card: Card
    device: str
    precision: str
    weights_hash: str = ""
    weights_origin: str = ""
    concurrent: bool = False
    takes: tuple[str, int] = ("uint8", 3)
    measured: Mapping[str, Any] = MappingProxyType({})

    def for_slide(self, tiles: SlideTilesToMeasure) -> "Encoder":
        """The encoder for the tiles of one slide: itself, unless it looks at the slide first."""
        return self

    @abstractmethod
    def encode(self, images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
        """Encode a batch of tiles.

        Args:
            images: Pixels as the card wants them, 8-bit RGB for bright-field encoders. Any n, 0 included.

        Returns:
            One vector per tile, finite.

        Raises:
            ModalityError: If dtype or channels are not what the encoder takes.
            EncoderOutputError: If NaN or infinity came out.
        """

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """Tiles per batch that suit the device.

        Args:
            tile_shape: Height, width and channels of the tiles.
        """
        return USUAL_BATCH

    @property
    def runtime_note(self) -> str:
        """Why the runtime that ``auto`` would have preferred is not in use; empty where it is."""
        return ""

    @property
    def recipe(self) -> Mapping[str, object]:
        """What decides the vectors beside the pixels, flat, for a digest: the whole card, weights, precision."""
        card = {f"card_{key}": value for key, value in asdict(self.card).items()}
        return {**card, "weights_sha256": self.weights_hash, "precision": self.precision}


@runtime_checkable
class Loadable(Protocol):
    """One encoder of a family: its card, and how to load it. Making one imports no network library."""

    @property
    def card(self) -> Card:
        """What is known about it."""

    def load(self, *, device: str, weights: str | Path | None, precision: str | None, runtime: str = "auto") -> Encoder:
        """Load it; the arguments are those of :func:`microtome.load_encoder`.

        Raises:
            ConfigError: If the encoder cannot run with these settings.
            WeightsError: If the weights cannot be had, read or made to fit.
        """
