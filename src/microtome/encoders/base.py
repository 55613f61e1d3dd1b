"""Pixels to vectors, and what is known about the weights that do it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float32, Shaped


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known about one published encoder: enough to feed it correctly and to cite it.

    Attributes:
        name: What :func:`microtome.load_encoder` takes.
        dim: Length of the vector.
        input_px: Side of the square that the network sees; None where any size will do.
        tile_px: Side of the tile to cut for it.
        mpp: µm/px it was made for: one value, several, or empty where any will do.
        mean: Per-channel mean subtracted after scaling to 0..1; empty where the encoder does its own.
        std: Per-channel divisor, likewise.
        resize: Side to which tiles are resized first; None for none.
        crop: Side of the centre crop; None for none.
        interpolation: Filter of the resize.
        size_policy: What happens to a tile of another size: ``error``, ``resize``, ``interpolate`` (positions), or
            ``any`` where every size is taken as it is.
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


class Encoder(ABC):
    """Tiles to vectors. The result for a tile never depends on the others in its batch.

    Attributes:
        card: What is known about it.
        device: Where it runs, for example ``"cpu"``.
        precision: Precision it computes in, for example ``"fp32"``.
        weights_hash: SHA-256 of the weights in use; empty where there are none.
        concurrent: Whether :meth:`encode` may be called from several threads at once and is faster so, as code on
            the CPU is that runs in one thread and lets go of the interpreter.
    """

    card: Card
    device: str
    precision: str
    weights_hash: str = ""
    concurrent: bool = False

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

    @property
    def recipe(self) -> Mapping[str, object]:
        """What decides the vectors beside the pixels, flat, for a digest: the whole card, weights, precision."""
        card = {f"card_{key}": value for key, value in asdict(self.card).items()}
        return {**card, "weights_sha256": self.weights_hash, "precision": self.precision}
