"""Features from one program's files to another's: what can be kept is, and what cannot is said."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import microtome
from microtome.config import ConvertConfig
from microtome.errors import (
    ClaimedError,
    ConfigError,
    CorruptOutputError,
    MicrotomeError,
    OutputWriteError,
    RecipeMismatchError,
)
from microtome.features.formats.format import Format
from microtome.features.formats.histossl import HISTOSSL, place, side_in
from microtome.features.formats.places import Places, with_places, with_slide
from microtome.features.formats.registry import find_files, find_format
from microtome.features.formats.table import ADDRESS, FeatureTable, same_content
from microtome.storage import Claim, Progress, digest, hash_file, now_utc, open_progress, recipe_text, write_json

RECORD = "convert.json"
Status = Literal["done", "skipped", "failed", "claimed"]
"""Done now, there already, failed, or being made by another process."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of one slide's features.

    Attributes:
        slide_id: Whose they are.
        source: The file that was read.
        path: The file that holds them now; None where it failed before that was known.
        status: How it ended.
        n_tiles: Number of rows.
        losses: What the source holds and the new format cannot.
        notes: What the source holds and was not read, and why.
        error: Why it failed.
    """

    slide_id: str
    source: Path
    path: Path | None
    status: Status
    n_tiles: int = 0
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of all of them.

    Attributes:
        source_format: What was read.
        target_format: What was written.
        out: Where.
        slides: One entry per slide, in the order of their names.
    """

    source_format: str
    target_format: str
    out: Path
    slides: tuple[Converted, ...]

    def having(self, status: Status) -> list[Converted]:
        """Those that ended so."""
        return [slide for slide in self.slides if slide.status == status]

    @property
    def failed(self) -> list[Converted]:
        """Those that failed."""
        return self.having("failed")

    @property
    def losses(self) -> Mapping[str, int]:
        """What is lost, and for how many slides."""
        return Counter(loss for slide in self.slides for loss in slide.losses)

    @property
    def notes(self) -> Mapping[str, int]:
        """What was not read, and of how many slides."""
        return Counter(note for slide in self.slides for note in slide.notes)


def convert(config: ConvertConfig, *, progress: Progress | None = None) -> Conversion:
    """Convert a file or folder of features into another format.

    A bad file fails alone. What is there already with the same content is skipped, so that an interrupted call is
    repeated; other content is refused unless it may be overwritten. ``convert.json`` beside the outputs records the
    settings, and of each slide the source's hash and what was lost.

    Args:
        config: Settings of ``microtome convert``.
        progress: Where progress is shown; by default the terminal, or plain lines in a log.

    Returns:
        What became of each slide.

    Raises:
        ConfigError: If the source holds no features, or of several formats, or a setting cannot be honoured.
        DuplicateSlideError: If two files are of one slide.
        OutputWriteError: If the output folder cannot be written.

    Example:
        >>> import tempfile, numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> store = microtome.FeatureStore(folder / "features")
        >>> boxes = np.array([[0, 0, 448, 448]])
        >>> _ = store.write("A12", np.ones((1, 4), np.float32), boxes, recipe={})
        >>> done = convert(ConvertConfig(source=store.folder, to="clam-pt", out=folder, quiet=True))
        >>> done.slides[0].path.name, list(done.losses)
        ('A12.pt', ['coordinates', 'tile size', 'recipe'])
    """
    source, target = find_files(config.source, None if config.from_ is None else find_format(config.from_))
    kind = find_format(config.to)
    job = _Job(config, source, kind, _slide_facts(config), None if config.coords is None else Places(config.coords))
    shown = progress or open_progress(quiet=config.quiet)
    done: list[Converted] = []
    shown.start("convert", len(target))
    try:
        for slide_id, path in target.items():
            done.append(job.convert(slide_id, path))
            if done[-1].error is not None:
                shown.note(f"{slide_id}: {done[-1].error}")
            shown.advance(n_slides=1, n_tiles=done[-1].n_tiles)
    finally:
        result = Conversion(source.name, kind.name, config.out, tuple(done))
        shown.finish()
        _record(config, result)
    return result


@dataclass(frozen=True)
class _SlideFacts:
    """Size and resolution of slides, by opening them."""

    find: Callable[[str], tuple[tuple[int, int], float | None, str] | None]


def _slide_facts(config: ConvertConfig) -> _SlideFacts | None:
    """How to look at slides; None where none were named."""
    if not config.slides and config.cohort is None:
        return None
    from microtome.tasks.run import list_entries  # opening slides takes a while to import
    from microtome.tasks.work import open_entry

    entries = {entry.slide_id: entry for entry in list_entries(config)[0]}

    def find(slide_id: str) -> tuple[tuple[int, int], float | None, str] | None:
        if slide_id not in entries:
            return None
        with open_entry(entries[slide_id], config) as slide:
            known = slide.resolution
            return (slide.size.width, slide.size.height), known.mpp, known.source

    return _SlideFacts(find)


@dataclass(frozen=True)
class _Job:
    config: ConvertConfig
    source: Format
    target: Format
    slides: _SlideFacts | None
    places: Places | None

    def convert(self, slide_id: str, path: Path) -> Converted:
        """Convert one file; whatever is wrong with it is its own affair, but a full disk is everybody's."""
        output = None
        try:
            output = self.target.path(self.config.out, slide_id)
            if output.exists() and output.samefile(path):
                raise ConfigError(f"'{path}' would be written over itself. Choose another --out.")
            with Claim(output):
                return self._convert(slide_id, path, output)
        except ClaimedError as error:
            return Converted(slide_id, path, output, "claimed", notes=(str(error),))
        except OutputWriteError:
            raise
        except (MicrotomeError, OSError, ValueError, MemoryError) as error:
            return Converted(slide_id, path, output, "failed", error=str(error) or type(error).__name__)

    def _convert(self, slide_id: str, path: Path, output: Path) -> Converted:
        found = self._read(slide_id, path)
        dtype = self.target.dtype_for(found, self.config.dtype)
        losses = self.target.losses(found, dtype)
        decided = self.target.prepare(self._decided(found, path, dtype))
        wanted = self._cast(decided, dtype).only(self.target.holds)
        made = not self._is_finished(output, wanted)
        if made:
            self.target.write(output, wanted)
        return Converted(slide_id, path, output, "done" if made else "skipped", len(found), losses, found.notes)

    def _read(self, slide_id: str, path: Path) -> FeatureTable:
        """The source's table, with what the settings add to it."""
        table = self.source.read(path, slide_id)
        if self.places is not None:
            table = with_places(table, self.places.find(slide_id))
        facts = None if self.slides is None else self.slides.find(slide_id)
        if facts is not None:
            table = with_slide(table, *facts)
        elif self.slides is not None:
            table = replace(table, notes=(*table.notes, "no slide was found"))
        table = self._sided(table)
        table = place(table, self.config.tile_px or side_in(path))
        table.check()
        return table

    def _sided(self, table: FeatureTable) -> FeatureTable:
        """The table with the side of its tiles, where it is given for boxes that are to become addresses.

        Raises:
            ConfigError: If it decides nothing, or is another than the table's own.
        """
        side = self.config.tile_px
        if side is None or ADDRESS in table.columns:
            return table
        if self.target.name != HISTOSSL.name:
            raise ConfigError(
                "tile_px is the side of DeepZoom tiles, and there are no DeepZoom addresses. Leave it out."
            )
        if table.attrs.get("patch_size", side) != side:
            raise ConfigError(f"Tiles of '{table.slide_id}' are {table.attrs['patch_size']} px. Got tile_px {side}.")
        return replace(table, attrs={**table.attrs, "patch_size": side})

    def _decided(self, table: FeatureTable, path: Path, dtype: str) -> FeatureTable:
        """The table with a recipe: its own where nothing was changed, otherwise one that names the source."""
        own = table.attrs.get("recipe")
        settings = (self.places, self.config.tile_px)
        if own is not None and np.dtype(dtype).itemsize >= table.features.dtype.itemsize and not any(settings):
            return table
        recipe: dict[str, object] = {
            "imported_from": self.source.name,
            "source_name": path.name,
            "source_sha256": [hash_file(file) for file in (path, *self.source.more_files(path))],
            "features_dtype": dtype,
        }
        if own is not None:
            recipe["source_recipe"] = own
        if self.places is not None:
            recipe["coords_sha256"] = hash_file(self.places.find(table.slide_id).path)
        recipe |= {name: table.attrs.get(name) for name in ("slide_size", "patch_size", "slide_mpp")}
        attrs = {"recipe": recipe_text(recipe), "recipe_digest": digest(recipe)}
        return replace(table, attrs={**table.attrs, **attrs})

    def _cast(self, table: FeatureTable, dtype: str) -> FeatureTable:
        """The features in another dtype.

        Raises:
            ConfigError: If they do not fit it.
        """
        if table.features.dtype == dtype:
            return table
        with np.errstate(over="ignore"):
            features = table.features.astype(dtype)
        if not np.isfinite(features).all():
            raise ConfigError(f"Features up to {np.abs(table.features).max():g} do not fit {dtype}. Keep float32.")
        return replace(table, features=features)

    def _is_finished(self, output: Path, wanted: FeatureTable) -> bool:
        """Whether the output is there with this very content.

        Raises:
            RecipeMismatchError: If something else is there and may not be overwritten.
            CorruptOutputError: If it cannot be read and may not be overwritten.
        """
        if not output.exists():
            return False
        try:
            there = self.target.read(output, wanted.slide_id)
        except (CorruptOutputError, ConfigError) as error:
            if self.config.overwrite:
                return False
            raise CorruptOutputError(
                f"'{output}' is there and cannot be read: {error} Pass --overwrite to replace it."
            ) from error
        if same_content(there.only(self.target.holds), wanted):
            return True
        if not self.config.overwrite:
            raise RecipeMismatchError(
                f"'{output}' is there and holds something else than '{self.config.source}' gives. Pass --overwrite to "
                "replace it, or choose another --out."
            )
        return False


def _record(config: ConvertConfig, result: Conversion) -> None:
    slides: Sequence[Mapping[str, object]] = [asdict(slide) for slide in result.slides]
    write_json(
        config.out / RECORD,
        {
            "microtome_version": microtome.__version__,
            "finished": now_utc(),
            "config": config.model_dump(mode="json"),
            "source_format": result.source_format,
            "target_format": result.target_format,
            "losses": dict(result.losses),
            "slides": slides,
        },
    )
