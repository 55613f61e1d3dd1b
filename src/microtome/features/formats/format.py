"""What a feature format is: its layout, what it holds, and the two functions that read and write it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from microtome.errors import ConfigError
from microtome.features.formats.table import FeatureTable, Part, part_of
from microtome.storage import safe_name

_SLIDE_SUFFIX = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|bif|vms|vmu|svslide|dcm|vsi|czi|qptiff)$", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """One format of feature files.

    Attributes:
        name: What it is called on the command line.
        made_by: Programs that write it.
        layout: Where a slide's file lies in a folder; ``{slide_id}`` stands for the slide.
        holds: What it holds beside the features.
        dtypes: Of features, those it can hold.
        default_dtype: What it is written with unless asked otherwise; None for the source's own.
        read: Path and slide_id → the table; errors are microtome's own.
        write: Path and table → nothing; the file is whole or absent.
        note: What else a person should know.
        more_files: File → the others that belong to it.
        prepare: Table → the table in the format's own terms, such as addresses for boxes; raises where there are none.
    """

    name: str
    made_by: str
    layout: str
    holds: frozenset[Part]
    dtypes: tuple[str, ...]
    default_dtype: str | None
    read: Callable[[Path, str], FeatureTable]
    write: Callable[[Path, FeatureTable], None]
    note: str = ""
    more_files: Callable[[Path], tuple[Path, ...]] = field(default=lambda _: ())
    prepare: Callable[[FeatureTable], FeatureTable] = field(default=lambda table: table)

    def path(self, folder: Path, slide_id: str) -> Path:
        """Where a slide's file is, or will be.

        Raises:
            ConfigError: If the slide_id cannot be a file name, or would be read back as another one.
        """
        path = folder / self.layout.format(slide_id=safe_name(slide_id))
        if self.slide_id(path) != slide_id:
            raise ConfigError(
                f"slide_id {slide_id!r} would be read back from {self.name} as {self.slide_id(path)!r}. Rename it."
            )
        return path

    @property
    def is_folder_per_slide(self) -> bool:
        """Whether the slide's name is that of a folder."""
        return "{slide_id}/" in self.layout

    def slide_id(self, path: Path) -> str:
        """Whose features a file holds, by its name or its folder's. HistoSSL's folders carry the slide's suffix."""
        if not self.is_folder_per_slide:
            return path.stem
        return plain_slide_name(path.absolute().parent.name)

    def dtype_for(self, table: FeatureTable, asked: str | None) -> str:
        """The dtype to write features with.

        Raises:
            ConfigError: If it is not one that the format holds, or would narrow values without being asked for.
        """
        own = table.features.dtype.name
        dtype = asked or self.default_dtype or (own if own in self.dtypes else self.dtypes[0])
        if dtype not in self.dtypes:
            raise ConfigError(f"{self.name} holds {' or '.join(self.dtypes)} features. Got dtype {dtype!r}.")
        if asked is None and np.dtype(dtype).itemsize < table.features.dtype.itemsize:
            raise ConfigError(
                f"The features of '{table.slide_id}' are {own}, and {self.name} holds {dtype}. Pass --dtype {dtype} to "
                "round them."
            )
        return dtype

    def losses(self, table: FeatureTable, dtype: str) -> tuple[str, ...]:
        """What of a table the format does not hold, in words."""
        lost = [part for part in Part if part in table.parts - self.holds]
        named = [_named(part, table) for part in lost]
        if Part.ADDRESSES in self.holds and Part.COORDS in lost:
            placed = (_named(part, table) for part in (Part.COORDS, Part.SIZE, Part.SIZES))
            named = [name for name in named if name not in placed]
            named.insert(0, "coordinates in pixels (kept as DeepZoom addresses)")
        if np.dtype(dtype).itemsize < table.features.dtype.itemsize:
            named.insert(0, f"precision of features ({table.features.dtype.name} to {dtype})")
        return tuple(named)


def plain_slide_name(name: str) -> str:
    """A slide file's name without its suffix.

    Example:
        >>> plain_slide_name("TCGA-3X.0.svs"), plain_slide_name("A.1")
        ('TCGA-3X.0', 'A.1')
    """
    return _SLIDE_SUFFIX.sub("", name)


def _named(part: Part, table: FeatureTable) -> str:
    if part is Part.OTHER:
        names = sorted(name for name in table.attrs if part_of(name) is Part.OTHER)
        return f"attributes {', '.join(names)}"
    if part is Part.UNREADABLE:
        return f"{len(table.unreadable)} unreadable tile(s)"
    if part is Part.SIZE:
        return "tile size"
    return part.value
