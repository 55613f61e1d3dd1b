"""All formats, and how to tell which one a file or folder is of."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from microtome.errors import ConfigError, DuplicateSlideError
from microtome.features.formats.clam_h5 import CLAM_H5
from microtome.features.formats.clam_pt import CLAM_PT
from microtome.features.formats.format import Format
from microtome.features.formats.histoencoder import CHUNK, FEATURES, HISTOENCODER
from microtome.features.formats.histossl import FEATURES_NPY, HISTOSSL
from microtome.features.formats.hub import MICROTOME
from microtome.features.formats.safetensors_file import SAFETENSORS
from microtome.features.formats.table import Part
from microtome.features.formats.tiles_npy import TILE_FEATURES, TILES_NPY
from microtome.storage.seal import is_sealed

FORMATS: Mapping[str, Format] = {
    each.name: each for each in (MICROTOME, CLAM_H5, CLAM_PT, HISTOSSL, HISTOENCODER, SAFETENSORS, TILES_NPY)
}
_HOME = {CLAM_H5.name: "h5_files", CLAM_PT.name: "pt_files"}
"""Where a format's files lie in a folder that may hold others too."""


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"There is no format {name!r}. There are {', '.join(FORMATS)}.")
    return FORMATS[name]


def format_of(path: Path) -> Format | None:
    """What a file is, by its name; an ``.h5`` by whether it is sealed. None where it is no feature file."""
    by_name = {FEATURES_NPY: HISTOSSL, TILE_FEATURES: TILES_NPY, FEATURES: HISTOENCODER}
    if path.name in by_name:
        return by_name[path.name]
    if CHUNK.fullmatch(path.name):
        return HISTOENCODER
    if path.suffix in (".h5", ".hdf5"):
        return MICROTOME if is_sealed(path) else CLAM_H5
    return {".pt": CLAM_PT, ".safetensors": SAFETENSORS}.get(path.suffix)


def find_files(source: Path, wanted: Format | None = None) -> tuple[Format, dict[str, Path]]:
    """List the feature files of a source.

    Args:
        source: A file, or a folder that is searched to its depth.
        wanted: The format; None to tell it from the files.

    Returns:
        The format, and by slide_id each slide's file (of a table in parts the first), in the order of names.

    Raises:
        ConfigError: If there is no feature file, or they are of several formats.
        DuplicateSlideError: If two files are of one slide.
    """
    if source.is_file():
        found = wanted or format_of(source)
        if found is None:
            raise ConfigError(f"'{source}' is no feature file by its name. Say what it is with --from.")
        return found, {found.slide_id(source): source}
    if not source.is_dir():
        raise ConfigError(f"'{source}' is neither a file nor a folder of features.")
    by_format: dict[str, list[Path]] = {}
    for path in _walk(source, wanted):
        found = _as(path, wanted)
        if found is not None:
            by_format.setdefault(found.name, []).append(path)
    if not by_format:
        raise ConfigError(f"'{source}' holds no features{f' of {wanted.name}' if wanted else ''}.")
    if len(by_format) > 1:
        counts = ", ".join(f"{name} ({len(paths)})" for name, paths in by_format.items())
        raise ConfigError(f"'{source}' holds features of several formats: {counts}. Choose one with --from.")
    ((name, paths),) = by_format.items()
    return FORMATS[name], _by_slide(FORMATS[name], paths)


def _as(path: Path, wanted: Format | None) -> Format | None:
    found = format_of(path)
    if wanted is None or found is wanted:
        return found
    # what is said to be ours and is not sealed is damaged: reading it will say so
    return wanted if wanted in (MICROTOME, CLAM_H5) and found in (MICROTOME, CLAM_H5) else None


def _walk(source: Path, wanted: Format | None) -> Iterator[Path]:
    home = source / _HOME.get(wanted.name, "") if wanted is not None else source
    root = home if home.is_dir() else source
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.is_file():
            yield path


def _by_slide(kind: Format, paths: list[Path]) -> dict[str, Path]:
    slides: dict[str, Path] = {}
    for path in sorted(paths, key=_part_number):
        slide_id = kind.slide_id(path)
        other = slides.setdefault(slide_id, path)
        if other is path or (
            CHUNK.fullmatch(other.name) and CHUNK.fullmatch(path.name) and other.parent == path.parent
        ):
            continue
        raise DuplicateSlideError(
            f"Two files hold features of {slide_id!r}: '{other}' and '{path}'. Convert one folder at a time."
        )
    return dict(sorted(slides.items()))


def _part_number(path: Path) -> tuple[int, Path]:
    match = CHUNK.fullmatch(path.name)
    return (int(match[1]) if match else 0), path


def formats_table() -> str:
    """The table of all formats and what else is to be known of them, in Markdown, for the documentation."""
    kinds = list(FORMATS.values())
    lines = [
        "| | " + " | ".join(f"`{kind.name}`" for kind in kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
        "| written by | " + " | ".join(kind.made_by for kind in kinds) + " |",
        "| file | " + " | ".join(f"`{re.sub('[{]slide_id[}]', '<slide_id>', kind.layout)}`" for kind in kinds) + " |",
        "| features | " + " | ".join(", ".join(kind.dtypes) for kind in kinds) + " |",
        "| written as | " + " | ".join(kind.default_dtype or "the source's" for kind in kinds) + " |",
    ]
    lines += [
        f"| {part} | " + " | ".join("yes" if part in kind.holds else "" for kind in kinds) + " |" for part in Part
    ]
    notes = [f"- `{kind.name}`: {kind.note}" for kind in kinds if kind.note]
    return "\n".join([*lines, "", *notes])
