"""One slide to its score: patches are read ahead in chunks, encoded, attended to; what may not be scored is refused."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from microtome.encoders.srh_dump import read_dump
from microtome.encoders.srh_model import SlideOutput, SrhModel
from microtome.errors import ChannelError, ConfigError, CoverageError, ModalityError, TileError
from microtome.storage import digest
from microtome.tasks.srh.thumbnails import CHUNK, shrink
from microtome.tiles.source import TileBatch
from microtome.tiles.srh import SRH_SIDE, SrhMosaic, SrhTiles

_AHEAD = 4  # chunks that are read before they are needed
_SATURATED = 65535
_SWAPPED = 0.9  # share of pixels with CH3 below CH2 that no slide has whose channels are in order
_LEAST_CHECKED = 4  # patches; fewer may be of anything
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PatchRules:
    """Which patches may be scored.

    Attributes:
        bad: ``error`` refuses a slide with a patch that cannot be read, is saturated, or is the same all over; ``skip``
            leaves such patches out and counts them.
        max_saturated: Share of a patch's pixels that may be at the end of the scale, 0..1.
        min_coverage: Least share of the patches that must be left, 0..1.
        check_order: Whether to refuse a slide whose channels look swapped.
    """

    bad: str = "error"
    max_saturated: float = 0.05
    min_coverage: float = 0.9
    check_order: bool = True


@dataclass(frozen=True, eq=False)
class ScoredSlide:
    """What scoring gives for a slide.

    Attributes:
        output: Logit, embedding and attention, over the patches that were scored.
        features: Vectors of these patches.
        grid: Row and column of each.
        boxes: Where they lie on the slide: x y w h, pixels.
        thumbnails: Of each, CH2 and CH3 area-averaged, raw values; None where there are no pixels.
        n_blank: Cells of a mosaic without an image.
        skipped: Row of the source → why its patch was left out.
        seconds: Where the time went: read (waiting for patches), tokenise, attend.
    """

    output: SlideOutput
    features: Float32[np.ndarray, "n d"]
    grid: Int64[np.ndarray, "n 2"]
    boxes: Int64[np.ndarray, "n 4"]
    thumbnails: Float32[np.ndarray, "n 2 t t"] | None = None
    n_blank: int = 0
    skipped: Mapping[int, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time that a block takes."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def score_tiles(source: SrhTiles, model: SrhModel, rules: PatchRules, *, workers: int = 2) -> ScoredSlide:
    """Score a slide from its patches.

    Args:
        source: The patches.
        model: With a patch encoder.
        rules: Which patches may be scored.
        workers: Threads that read.

    Raises:
        TileError: If a patch may not be scored and none may be left out, or too few are left.
        ChannelError: If the channels are others, or look swapped.
        ConfigError: If the model has no patch encoder.
    """
    if model.tokenizer is None:
        raise ConfigError(
            f"Model '{model.name}' has no patch encoder: it scores saved embeddings. Pass --tokenizer FILE, the "
            "checkpoint of the patch encoder's own training."
        )
    seconds: dict[str, float] = {}
    parts, thumbnails, kept = [], [], []
    judge = _Judge(source, rules)
    for batch in _read_ahead(source, workers, seconds):
        good = judge.judge(batch)
        if not good.any():
            continue
        images = batch.images if good.all() else np.ascontiguousarray(batch.images[good])
        thumbnails.append(shrink(images))
        with timed(seconds, "tokenise"):
            parts.append(model.tokenizer.encode(images))
        kept.append(batch.rows[good])
    judge.check_slide()
    rows, features = np.concatenate(kept), np.concatenate(parts)
    with timed(seconds, "attend"):
        output = model.see_slide(features, source.grid[rows])
    return ScoredSlide(
        output=output,
        features=features,
        grid=source.grid[rows],
        boxes=source.boxes[rows],
        thumbnails=np.concatenate(thumbnails),
        n_blank=judge.n_blank,
        skipped=judge.skipped,
        seconds=seconds,
    )


def slide_digest(source: SrhTiles, model: SrhModel, rules: PatchRules) -> str:
    """A digest of everything that decides a slide's score: pixels, model, rules."""
    return digest({**source.recipe, **model.recipe, "rules": repr(rules)})


def score_dump(path: Path, model: SrhModel) -> ScoredSlide:
    """Score saved embeddings of a slide.

    Raises:
        WeightsError: If the file cannot be read, or holds NaN.
        TileError: If it has no patch, or two at one place.
        ModalityError: If its vectors are of another length than the model's.
    """
    dump = read_dump(path)
    wanted = model.scorer.slide.norm.weight.shape[0]
    if dump.embeddings.shape[1] != wanted:
        raise ModalityError(
            f"'{path}' has vectors of {dump.embeddings.shape[1]} numbers; the slide model takes {wanted}: they are of "
            "another encoder. Dump them with FastGlioma's."
        )
    seconds: dict[str, float] = {}
    with timed(seconds, "attend"):
        output = model.see_slide(dump.embeddings, dump.grid)
    corners = dump.grid[:, ::-1] * SRH_SIDE
    boxes = np.concatenate([corners, np.full_like(corners, SRH_SIDE)], axis=1)
    return ScoredSlide(output, dump.embeddings, dump.grid, boxes, seconds=seconds)


def _read_ahead(source: SrhTiles, workers: int, seconds: dict[str, float]) -> Iterator[TileBatch]:
    """Chunks of a source in order, a few read before they are needed."""
    chunks = [np.arange(start, min(start + CHUNK, len(source))) for start in range(0, len(source), CHUNK)]
    with ThreadPoolExecutor(workers, thread_name_prefix="srh-read") as pool:
        waiting: list[Future[TileBatch]] = [pool.submit(source.read, rows) for rows in chunks[:_AHEAD]]
        try:
            for following in [*chunks[_AHEAD:], *[None] * min(_AHEAD, len(chunks))]:
                with timed(seconds, "read"):
                    batch = waiting.pop(0).result()
                if following is not None:
                    waiting.append(pool.submit(source.read, following))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


class _Judge:
    """Tells patches that may be scored from those that may not, and counts."""

    def __init__(self, source: SrhTiles, rules: PatchRules) -> None:
        self._source, self._rules = source, rules
        self._is_mosaic = isinstance(source, SrhMosaic)
        self.skipped: dict[int, str] = {}
        self.n_blank = self._n_good = 0
        self._below: list[float] = []

    def judge(self, batch: TileBatch) -> Bool[np.ndarray, " n"]:
        """Which patches of a batch may be scored.

        Raises:
            TileError: If one may not, and none may be left out.
        """
        good = batch.readable.copy()
        reasons: dict[int, str] = dict(batch.errors)
        for position, row in enumerate(batch.rows.tolist()):
            if not good[position]:
                continue
            why = self._fault(batch.images[position])
            if why == _BLANK and self._is_mosaic:
                good[position] = False
                self.n_blank += 1
            elif why:
                good[position] = False
                reasons[row] = f"Patch {self._name(row)} {why}"
        if reasons and self._rules.bad == "error":
            first = next(iter(reasons.values()))
            raise TileError(
                f"Slide '{self._source.slide_id}': {first} Remove it, image the field again, or pass --bad-patches "
                "skip to score the slide without such patches."
            )
        self.skipped.update(reasons)
        self._n_good += int(good.sum())
        return good

    def _name(self, row: int) -> str:
        row_, column = self._source.grid[row].tolist()
        files = getattr(self._source, "files", None)
        return f"'{files[row].name}'" if files else f"at row {row_}, column {column}"

    def _fault(self, image: Shaped[np.ndarray, "h w 2"]) -> str:
        seen = image[::2, ::2]
        if int(seen.min()) == int(seen.max()) and int(image.min()) == int(image.max()):
            return _BLANK
        share = float((seen == _SATURATED).mean())
        if share > self._rules.max_saturated:
            return f"is saturated: {share:.0%} of its pixels are at {_SATURATED}, the end of the scale."
        self._below.append(float((seen[..., 1] < seen[..., 0]).mean()))
        return ""

    def check_slide(self) -> None:
        """What can be told of the whole slide only.

        Raises:
            TileError: If no patch is left, or too few.
            ChannelError: If the channels look swapped.
        """
        name, n_wanted = self._source.slide_id, len(self._source) - self.n_blank
        if not self._n_good:
            reasons = "; ".join(list(self.skipped.values())[:_SHOWN]) or "every cell is blank"
            raise TileError(f"Slide '{name}' has no patch that can be scored: {reasons}. Image it again.")
        if self._n_good < self._rules.min_coverage * n_wanted:
            raise CoverageError(
                f"Slide '{name}': {n_wanted - self._n_good} of {n_wanted} patches cannot be scored, such as: "
                f"{'; '.join(list(self.skipped.values())[:_SHOWN])} The score would not stand for the slide; "
                "--min-coverage says how many may be missing."
            )
        below = float(np.mean(self._below))
        if self._rules.check_order and len(self._below) >= _LEAST_CHECKED and below > _SWAPPED:
            raise ChannelError(
                f"Slide '{name}': CH3 lies below CH2 in {below:.0%} of the pixels, as where the channels are swapped. "
                "CH2 (2845 per cm) comes first, CH3 (2930 per cm) second. Say how it is: --channel-order ch3,ch2, or "
                "ch2,ch3 if it is right as it is."
            )


_BLANK = "has one value all over: nothing was imaged."
