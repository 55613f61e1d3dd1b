"""Names that are safe as files, and files that are whole or absent."""

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from microtome.errors import ConfigError, MicrotomeError, OutputWriteError
from microtome.storage.recipe import plain_value

_SAFE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices, to Windows
_MAX_NAME_BYTES = 180  # leaves room for suffixes below the usual 255
_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.tmp")  # what written_whole writes to
_FLUSHED_AT_ONCE, _FLUSH_CHUNK = 16, 32
_WRITE_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ESTALE,
)  # fmt: skip


def safe_name(name: str, *, what: str = "slide_id") -> str:
    """Return ``name`` if it can be a file name on every system and cannot leave its folder; raise otherwise.

    Raises:
        ConfigError: If it is empty, too long, not encodable, a device name of Windows, has a path separator,
            a control or reserved character, a leading dot, or a trailing dot or space.

    Example:
        >>> safe_name("TCGA-3X-AAVA-01Z (2)")
        'TCGA-3X-AAVA-01Z (2)'
    """
    try:
        short = len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:  # a file name of undecodable bytes
        short = False
    whole = _SAFE_NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None
    if not whole or not short or name.startswith(".") or name != name.rstrip(". "):
        raise ConfigError(
            f"{what} {name!r} cannot be a file name: it must have 1 to {_MAX_NAME_BYTES} bytes of UTF-8, "
            'none of / \\ : * ? " < > | or control characters, no leading dot, no trailing dot or space, '
            "and not be a device name such as CON. Rename it."
        )
    return name


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; flush and rename it over ``path`` when the block succeeds.

    Args:
        path: Where the file is to be; its folder is made.

    Yields:
        Path to write to. It is removed if the block raises.

    Raises:
        OutputWriteError: If the file cannot be written or renamed (no space, read-only, no permission).
    """
    temporary = _temporary_name(path)
    try:
        with write_errors_explained(path, also=temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_unflushed(path: Path, data: bytes) -> None:
    """Write one of many small files, whole or absent to whoever looks, without waiting for the disk.

    A process that is killed leaves it whole or absent, but a machine that loses power may leave it short until
    :func:`flush_files` has returned. So a writer of many calls that before it writes the file that says that they are
    finished, and does not trust what it finds without that one.

    Args:
        path: Where the file is to be; its folder is there.
        data: All of it.

    Raises:
        OutputWriteError: As :func:`written_whole`.
    """
    temporary = _temporary_name(path)
    try:
        with write_errors_explained(path, also=temporary):
            temporary.write_bytes(data)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def flush_files(paths: Sequence[Path]) -> None:
    """Force the bytes of many files, and their names in their folders, to the disk.

    Many at once, because a disk settles together what waits together: that takes a fraction of the time of one
    after the other.

    Raises:
        OutputWriteError: If a disk turns out not to hold what it took.
    """
    chunks = [paths[start : start + _FLUSH_CHUNK] for start in range(0, len(paths), _FLUSH_CHUNK)]
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE, thread_name_prefix="flush") as pool:
        list(pool.map(_flush_chunk, chunks))
    for folder in {path.parent for path in paths}:
        _flush_folder(folder)


def _flush_chunk(paths: Sequence[Path]) -> None:
    for path in paths:
        with write_errors_explained(path):
            flush_to_disk(path)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


class LateErrorFile(FileIO):
    """A new file that takes every write, and says only when asked that one failed.

    For libraries that do not survive a failing write: HDF5 ends the process some time after the disk was full.

    Args:
        path: Where; a file that is there is emptied.

    Raises:
        OSError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - anything with bytes
        """Write all of it, or nothing more once a write has failed."""
        view = memoryview(data).cast("B")
        n_bytes = len(view)
        try:
            while view and self._error is None:  # a raw file may take less than all
                view = view[super().write(view) :]
        except OSError as error:
            self._error = error
        return n_bytes

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size, if that is possible."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def check(self) -> None:
        """Make sure that everything was written so far.

        Raises:
            OSError: If something was not.
        """
        if self._error is not None:
            raise self._error


@contextmanager
def write_errors_explained(path: Path, *, also: Path | None = None) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error that says what to do.

    Args:
        path: The output that is being written.
        also: Another name under which it is written meanwhile. An error that names any other file (an input,
            say) passes unchanged, and so does each of microtome's own.

    Raises:
        OutputWriteError: If there is no space, or no permission, or the folder is read-only or is no folder.
    """
    try:
        yield
    except MicrotomeError:
        raise
    except OSError as error:
        if error.errno not in _WRITE_ERRNOS or not _names_output(error, path, also):
            raise
        raise OutputWriteError(
            f"'{path}' cannot be written: {error.strerror}. Free space or choose another --out, then run "
            "again; finished files are kept."
        ) from error


def _names_output(error: OSError, path: Path, also: Path | None) -> bool:
    """Whether the file that an error names, if any, is the output, or a folder or hidden file of it."""
    if not isinstance(error.filename, str):
        return True
    named = Path(error.filename)
    if named in (path, also) or named in path.parents:
        return True
    return named.parent == path.parent and named.name.startswith(".")


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it.

    Only for who holds the claim on ``path``, since nobody else can be writing it then.
    """
    _remove_temporary(path.parent, of=path.name)


def remove_leftovers_in(folder: Path) -> None:
    """Remove what killed writers of any file in ``folder`` left there.

    Only for who holds a claim that stands for the whole folder.
    """
    _remove_temporary(folder, of=None)


def _remove_temporary(folder: Path, *, of: str | None) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.name, _TEMPORARY.fullmatch(entry.name)) for entry in entries]
        for name in [name for name, match in found if match and of in (None, match[1])]:
            with suppress(OSError):
                (folder / name).unlink()


def flush_to_disk(path: Path) -> None:
    """Force a file's bytes to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is journalled
        return
    with suppress(OSError):  # some network file systems refuse; the rename itself still holds
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole, indented; NaN and infinity are refused."""
    write_text(path, json.dumps(plain_value(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def hash_file(path: Path) -> str:
    """SHA-256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now_utc() -> str:
    """The present moment, ISO 8601, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
