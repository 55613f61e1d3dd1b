"""Open a slide with the first reader that takes it, and say why the others did not."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from microtome.errors import (
    ConfigError,
    SlideError,
    SlideOpenError,
    SlidePermissionError,
    UnsupportedFormatError,
)
from microtome.slides.base import Slide
from microtome.slides.file_slide import FileSlide, OpenOptions
from microtome.slides.listing import find_dicom_slide
from microtome.slides.probe import FileKind, probe
from microtome.slides.resolution import Given

Reader = Literal["auto", "direct", "openslide", "tifffile", "image", "cucim"]

_READERS = {  # in the order in which they are tried; imported when tried
    "direct": ("direct_reader", "DirectSlide"),
    "openslide": ("openslide_reader", "OpenSlideSlide"),
    "tifffile": ("tifffile_reader", "TiffSlide"),
    "image": ("image_reader", "ImageSlide"),
}
_BY_NAME = {"cucim": ("cucim_reader", "CucimSlide")}  # needs a library that is not installed with this one


@dataclass(frozen=True, slots=True)
class ReaderVerdict:
    """Whether a reader took a file, and why or why not."""

    reader: str
    took: bool
    reason: str


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    override_mpp: bool = False,
    mpp_source: str = "given",
    reader: Reader = "auto",
    channels: Sequence[str | int] | None = None,
    window: tuple[float, float] | None = None,
) -> Slide:
    """Open a slide.

    Args:
        path: The slide's file (of a slide in several files, the one that names the others), or a folder that holds
            one DICOM slide.
        mpp: Its resolution, µm per level-0 pixel, where the metadata does not say.
        override_mpp: Whether ``mpp`` wins over plausible metadata that says otherwise.
        mpp_source: What is recorded as the source of ``mpp``.
        reader: Take this reader alone instead of the first that takes the file.
        channels: Names or indices of one or three channels to see as grey or RGB.
        window: The values that become 0 and 255; needed with pixels that are not 8-bit.

    Returns:
        The open slide; close it or use it as a context manager.

    Raises:
        SlideOpenError: If the file cannot be opened; its subclass says why.
        MppConflictError: If ``mpp`` contradicts plausible metadata and ``override_mpp`` is not set.
        ChannelError: If a channel does not exist, or a window is needed.
        ConfigError: If an argument cannot be honoured.
    """
    options = _options(mpp, mpp_source, override_mpp, channels, window)
    if reader not in get_args(Reader):
        raise ConfigError(f"reader must be one of {', '.join(get_args(Reader))}. Got {reader!r}.")
    kind = _probe(Path(path))
    names = tuple(_READERS) if reader == "auto" else (reader,)
    verdicts: list[ReaderVerdict] = []
    errors: list[SlideOpenError] = []
    for name in names:
        slide = _try(name, kind, options, verdicts, errors)
        if slide is not None:
            return slide
    raise _refusal(kind, verdicts, errors)


def explain_readers(path: str | Path) -> list[ReaderVerdict]:
    """Say which reader takes a file and why the others do not.

    Args:
        path: As for :func:`open_slide`.

    Returns:
        One verdict per reader in the order in which they are tried; at most one took the file.

    Raises:
        SlideOpenError: If no reader is asked because of what the file is.
    """
    kind = _probe(Path(path))
    verdicts: list[ReaderVerdict] = []
    for name in _READERS:
        taken = next((v.reader for v in verdicts if v.took), None)
        if taken is None:
            slide = _try(name, kind, OpenOptions(), verdicts, [])
            if slide is not None:
                slide.close()
            continue
        reason = _reader(name).decline(kind) or f"not asked: {taken} comes first"
        verdicts.append(ReaderVerdict(name, took=False, reason=reason))
    return verdicts


def _options(
    mpp: float | None,
    source: str,
    override: bool,  # noqa: FBT001 - private, one caller
    channels: Sequence[str | int] | None,
    window: tuple[float, float] | None,
) -> OpenOptions:
    if override and mpp is None:
        raise ConfigError("override_mpp needs mpp (--override-mpp needs --mpp): there is nothing that could win.")
    if isinstance(channels, str):
        raise ConfigError(f"channels must be a list of names or indices. Got the text {channels!r}.")
    given = None if mpp is None else Given(mpp, source, override)
    return OpenOptions(given, None if channels is None else tuple(channels), window)


def _probe(path: Path) -> FileKind:
    try:
        if path.is_dir():
            path = find_dicom_slide(path) or path
    except PermissionError as error:
        raise SlidePermissionError(
            f"'{path}' lies in a folder that this user may not enter. Change its permissions."
        ) from error
    return probe(path)


def _reader(name: str) -> type[FileSlide]:
    module, cls = (_READERS | _BY_NAME)[name]
    found: type[FileSlide] = getattr(import_module(f"microtome.slides.{module}"), cls)
    return found


def _try(
    name: str,
    kind: FileKind,
    options: OpenOptions,
    verdicts: list[ReaderVerdict],
    errors: list[SlideOpenError],
) -> FileSlide | None:
    """Ask one reader; note its verdict."""
    reader = _reader(name)
    reason = reader.decline(kind)
    if reason is None:
        try:
            slide = reader(kind.path, options)
        except SlideOpenError as error:
            errors.append(error)
            reason = str(error)
        except PermissionError as error:
            raise SlidePermissionError(f"'{kind.path}' may not be read by this user ({error.strerror}).") from error
        else:
            slide.reader_note = slide.reader_note or " ".join(dict.fromkeys(str(e) for e in errors))
            verdicts.append(ReaderVerdict(name, took=True, reason="took it"))
            return slide
    verdicts.append(ReaderVerdict(name, took=False, reason=reason))
    return None


def _refusal(kind: FileKind, verdicts: list[ReaderVerdict], errors: list[SlideOpenError]) -> SlideError:
    """The error that says most: one of a class of its own before "unsupported"."""
    for error in errors:
        if type(error) is not UnsupportedFormatError:
            return error
    why = "; ".join(f"{v.reader}: {v.reason}" for v in verdicts)
    return UnsupportedFormatError(f"'{kind.path}' ({kind.format}) is taken by no reader; convert it to OME-TIFF. {why}")
