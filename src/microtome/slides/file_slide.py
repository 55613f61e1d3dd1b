"""What every reader of files shares: how it was asked to open, pickling by opening again, the fingerprint."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.errors import ChannelError, SlideChangedError, SlideError, UnreadableRegionError
from microtome.geometry import Box
from microtome.slides.base import Slide
from microtome.slides.fingerprint import fingerprint_file
from microtome.slides.resolution import Given, Metadata, resolve_mpp
from microtome.slides.view import View, make_view

if TYPE_CHECKING:
    from microtome.slides.probe import FileKind


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What a person says when opening a slide: its resolution, and how to see channels that are not 8-bit RGB."""

    given: Given | None = None
    channels: tuple[str | int, ...] | None = None
    window: tuple[float, float] | None = None


class FileSlide(Slide):
    """A slide that lies in a file.

    A reader's constructor opens the file, sets what :class:`Slide` lists, and ends with :meth:`_describe`.
    """

    _options: OpenOptions

    @classmethod
    @abstractmethod
    def decline(cls, kind: "FileKind") -> str | None:
        """Why this reader does not take a file of this kind; None where it tries."""

    @abstractmethod
    def __init__(self, path: Path, options: OpenOptions) -> None: ...

    def _describe(
        self, path: Path, options: OpenOptions, metadata: Metadata | None, properties: Mapping[str, str]
    ) -> None:
        """Set what follows from the options; ``channels``, ``dtype`` and ``levels`` are set already."""
        self.path, self._options, self.properties = path, options, properties
        self.resolution = resolve_mpp(path, metadata, options.given)
        self.view = self._make_view(options)
        stat = path.stat()
        self._stamp = (stat.st_size, stat.st_mtime_ns)

    def _make_view(self, options: OpenOptions) -> View | None:
        channels = options.channels
        if channels is None:
            if options.window is None:
                return None
            if len(self.channels) not in (1, 3):
                raise ChannelError(
                    f"Slide '{self.path.name}' has {len(self.channels)} channels, and a window without channels needs "
                    f"one or three. Say which of {', '.join(self.channels)[:200]} to see with channels= (--channels)."
                )
            channels = tuple(range(len(self.channels)))
        return make_view(self.channels, self.dtype, channels, options.window)

    @property
    def companions(self) -> tuple[Path, ...]:
        """Other files that belong to the slide and hold pixels or an index of them."""
        return ()

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the file's content (sampled), its companions' names and sizes; not of its path or date."""
        return fingerprint_file(self.path, self.companions)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.path, self._options, self.fingerprint), {"reader_note": self.reader_note}

    def _unreadable(self, level: int, box: Box, reason: object) -> SlideError:
        """The error for pixels that cannot be decoded; another one where the file is not the one that was opened."""
        self.check_unchanged()
        where = f"level {level}, " if level else ""
        return UnreadableRegionError(
            f"Slide '{self.path.name}': the region x={box.x} y={box.y} {box.width}×{box.height} px "
            f"({where}{self.reader}) cannot be decoded: {reason}. Copy the file again from its source "
            "or leave the region out."
        )

    def check_unchanged(self) -> None:
        """Compare the file's size and date with those at opening."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise SlideChangedError(
                f"Slide '{self.path}' went away while it was being read ({error.strerror}). Put it back and run again."
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != self._stamp:
            raise SlideChangedError(f"Slide '{self.path}' was changed while it was being read. Run again.")


def _reopen(kind: type[FileSlide], path: Path, options: OpenOptions, fingerprint: str) -> FileSlide:
    slide = kind(path, options)
    if slide.fingerprint != fingerprint:
        slide.close()
        raise SlideChangedError(
            f"Slide '{path}' is not the file that was opened before: its content differs. Run again."
        )
    return slide
