"""What is decided about one slide's features before any pixel is read: which tiles, what decides the result."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, Shaped

from microtome.encoders.base import Card, Encoder
from microtome.errors import ConfigError, EncoderError, ModalityError, SlideChangedError
from microtome.features.bag import Plain
from microtome.features.store import recipe_attributes
from microtome.features.writer import BagPlan
from microtome.storage import digest
from microtome.tiles.deepzoom import DeepZoomTiles
from microtome.tiles.grid import Grid
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.source import TileSource
from microtome.tiles.tile_set import TileSet

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """How features are extracted.

    Attributes:
        batch_size: Tiles per batch; None for what suits the encoder, within the memory. Every batch has this shape, the
            last one of a slide is padded.
        workers: Threads that decode; None for one per core.
        encoder_threads: Threads that encode; None for as many as workers where the encoder says that it gains by it,
            else the caller's own.
        memory_bytes: Budget for decoded tiles in flight, over all slides.
        n_tiles: Draw at most this many tiles of each slide; None for all.
        seed: Decides which tiles are drawn, together with the slide_id and nothing else.
        min_coverage: Least share of a slide's tiles that must be readable, 0..1.
        dtype: Of the stored features.
        overwrite: Replace features that were made with other settings, or are damaged.
        allow_mpp_mismatch: Take tiles whose resolution is not what the encoder was made for; that is recorded.
    """

    batch_size: int | None = None
    workers: int | None = None
    encoder_threads: int | None = None
    memory_bytes: int = 512 * MIB
    n_tiles: int | None = None
    seed: int = 0
    min_coverage: float = 0.9
    dtype: Literal["float32", "float16"] = "float32"
    overwrite: bool = False
    allow_mpp_mismatch: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "encoder_threads", "memory_bytes", "n_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1. Got {value}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative. Got {self.seed}.")
        if not 0 <= self.min_coverage <= 1:
            raise ConfigError(f"min_coverage must be a share from 0 to 1. Got {self.min_coverage}.")
        if self.dtype not in ("float32", "float16"):
            raise ConfigError(f"dtype must be float32 or float16. Got {self.dtype!r}.")


def sample_rows(slide_id: str, n: int, n_tiles: int | None, seed: int) -> Int64[np.ndarray, " k"]:
    """Choose tiles of a slide; the choice depends on the arguments alone, not on other slides or their order.

    Args:
        slide_id: Whose tiles.
        n: How many there are.
        n_tiles: How many to draw at most, without repetition; None for all.
        seed: Another one draws others.

    Returns:
        Rows of the source, ascending.

    Example:
        >>> sample_rows("A12", 5, None, 0)
        array([0, 1, 2, 3, 4])
        >>> len(sample_rows("A12", 1000, 3, 0))
        3
    """
    if n_tiles is None or n_tiles >= n:
        return np.arange(n, dtype=np.int64)
    entropy = int.from_bytes(hashlib.sha256(f"{seed}\0{slide_id}".encode()).digest()[:16], "little")
    drawn = np.random.default_rng(entropy).choice(n, n_tiles, replace=False)
    return np.sort(drawn).astype(np.int64)


def features_recipe(
    source: TileSource, encoder: Encoder, options: ExtractOptions, rows: Int64[np.ndarray, " n"]
) -> dict[str, object]:
    """What decides the features: everything that decides pixels and vectors, the tiles drawn, and the dtype.

    Not in it: batch size, threads, memory, and the least coverage, which decide whether and how fast, not what.
    """
    pixels, vectors = source.recipe, encoder.recipe
    both = pixels.keys() & vectors.keys()
    if both:
        raise ConfigError(f"Tiles and encoder both record {', '.join(sorted(both))}. One of them must rename it.")
    drawn = len(rows) < len(source)
    unsuited = {} if suits_mpp(encoder, source.mpp) else {"mpp_mismatch": True}
    return {
        **pixels,
        **vectors,
        **unsuited,
        "features_dtype": options.dtype,
        "sample_n_tiles": options.n_tiles if drawn else None,
        "sample_seed": options.seed if drawn else None,
        "sample_rows": rows if drawn else None,
    }


def suits_mpp(encoder: Encoder, mpp: float | None) -> bool:
    """Whether an encoder was made for tiles of this resolution, within 10 %; what nobody knows is no objection.

    Weights make the difference: an encoder without them (``texture``) measures at any resolution.
    """
    return mpp is None or not encoder.weights_hash or encoder.card.suits(mpp)


def check_mpp(what: str, encoder: Encoder, mpp: float | None, *, allow_mismatch: bool) -> None:
    """Refuse tiles of a resolution that the encoder was not made for.

    Args:
        what: Whose tiles, for the message.
        encoder: What is to encode them.
        mpp: Their resolution, µm/px; None where nobody knows.
        allow_mismatch: Whether they are taken all the same.

    Raises:
        ConfigError: If it differs by more than 10 % and that is not allowed.
    """
    if encoder.weights_hash:
        check_card_mpp(what, encoder.card, mpp, allow_mismatch=allow_mismatch)


def check_card_mpp(what: str, card: Card, mpp: float | None, *, allow_mismatch: bool) -> None:
    """The same before weights are loaded, of an encoder that has some; arguments and errors as in :func:`check_mpp`."""
    if allow_mismatch or mpp is None or card.suits(mpp):
        return
    made_for = ", ".join(f"{one:g}" for one in card.mpp)
    raise ConfigError(
        f"Tiles of {what} are of {mpp:g} µm/px, but encoder '{card.name}' was made for {made_for} µm/px. Lay "
        "them at such a resolution (--tile-mpp), or pass --allow-mpp-mismatch, which is recorded."
    )


def batch_that_suits(source: TileSource, encoder: Encoder, memory_bytes: int) -> int:
    """Tiles per batch where nobody says it: what the encoder likes, while memory holds four such batches."""
    tile_bytes = prod(source.tile_shape) * source.dtype.itemsize
    return max(1, min(encoder.batch_for(source.tile_shape), memory_bytes // (4 * tile_bytes)))


def plan_bag(
    slide_id: str, source: TileSource, encoder: Encoder, options: ExtractOptions
) -> tuple[BagPlan, dict[str, object]]:
    """Plan one slide.

    Args:
        slide_id: Name of the output.
        source: Its tiles.
        encoder: What encodes them.
        options: How.

    Returns:
        What will be written, and the recipe.

    Raises:
        ModalityError: If the encoder was made for another kind of image.
        ConfigError: If tiles and encoder record a value under the same name, or the encoder was made for another
            resolution.
    """
    card = encoder.card
    if card.modality != source.modality:
        raise ModalityError(
            f"The tiles of '{slide_id}' are {source.modality} ({source.tile_shape[2]} channel(s) of {source.dtype}), "
            f"but encoder '{card.name}' takes {card.modality}. Choose an encoder made for them, or say how to see them "
            "as bright-field RGB (--channels, --window)."
        )
    if card.dim < 1:
        raise EncoderError(f"The card of encoder '{card.name}' has dimension {card.dim}. It must be at least 1.")
    check_mpp(f"'{slide_id}'", encoder, source.mpp, allow_mismatch=options.allow_mpp_mismatch)
    rows = sample_rows(slide_id, len(source), options.n_tiles, options.seed)
    recipe = features_recipe(source, encoder, options, rows)
    plan = BagPlan(
        recipe_digest=digest(recipe),
        rows=rows,
        boxes=np.asarray(source.boxes, np.int64)[rows].reshape(-1, 4),
        dim=card.dim,
        dtype=options.dtype,
        batch_size=options.batch_size or batch_that_suits(source, encoder, options.memory_bytes),
        attrs=_file_attributes(slide_id, source, encoder, recipe),
        coords_attrs=_coords_attributes(slide_id, source, recipe),
        columns={name: column[rows] for name, column in _columns(source).items()},
    )
    return plan, recipe


def _file_attributes(
    slide_id: str, source: TileSource, encoder: Encoder, recipe: Mapping[str, object]
) -> dict[str, Plain]:
    """What a person wants to know of a file without reading its recipe; what is not known is left out."""
    known: dict[str, object] = {
        "slide_id": slide_id,
        "encoder": encoder.card.name,
        "precision": encoder.precision,
        "weights_origin": encoder.weights_origin or None,
        "modality": source.modality,
        "mpp": source.mpp,
        "slide_mpp": recipe.get("slide_mpp"),
        "slide_mpp_source": recipe.get("slide_mpp_source"),
        "slide_size": recipe.get("tile_slide_size"),
        "n_tiles_total": len(source),
        "sample_n_tiles": recipe["sample_n_tiles"],
        "sample_seed": recipe["sample_seed"],
        **recipe_attributes(recipe),
    }
    return _known(known)


def _coords_attributes(slide_id: str, source: TileSource, recipe: Mapping[str, object]) -> dict[str, Plain]:
    """Attributes under the names of CLAM and Trident, as far as they are true."""
    height, width, _ = source.tile_shape
    sides = np.unique(np.asarray(source.boxes)[:, 2:])
    level = recipe.get("tile_level")
    if level is None and height == width and sides.tolist() == [width]:
        level = 0  # a tile at a resolution that is the slide's own
    return _known(
        {
            "name": slide_id,
            "patch_size": width if width == height else None,
            "patch_level": level,
            "overlap": _overlap(source),
        }
    )


def _columns(source: TileSource) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    """What some sources know of their tiles beside the boxes."""
    if isinstance(source, DeepZoomTiles):
        return {"deepzoom_address": source.addresses}
    if isinstance(source, TileSet):
        return {"name": source.ids}
    return {}


def _overlap(source: TileSource) -> int | None:
    """By how many output pixels neighbours overlap, where tiles lie on a grid."""
    if isinstance(source, SlideTiles) and isinstance(source.tiles.grid, Grid):
        return source.tiles.grid.tile_px - source.tiles.grid.stride
    return None


def _known(values: Mapping[str, object]) -> dict[str, Plain]:
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | bool | list)}


class FileWatch:
    """Notices when the file behind a source is replaced, changed or deleted while it is read.

    Sources without a slide file (arrays, tile folders) are not watched.
    """

    def __init__(self, source: TileSource) -> None:
        path = source.slide.path if isinstance(source, SlideTiles | DeepZoomTiles) else None
        self._path = path if path is not None and path.is_file() else None
        self._state = None if self._path is None else _state(self._path)

    def check(self) -> None:
        """Compare with how the file was.

        Raises:
            SlideChangedError: If it is not the same.
        """
        if self._path is not None and _state(self._path) != self._state:
            raise SlideChangedError(
                f"Slide file '{self._path}' was changed, replaced or deleted while it was read. Run again once it is "
                "in place."
            )


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
