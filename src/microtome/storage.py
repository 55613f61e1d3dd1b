"""Files that are whole or absent, claims on them, and digests of what decided them. Knows no file format.

A file is written beside its place, flushed to the disk and renamed over it, so that a process killed at any
moment leaves either the old file, the new one, or none. A claim (``<output>.claim``) keeps two processes from
making the same output. A recipe is the flat set of values that decide an output; its digest travels with it.
"""

import errno
import hashlib
import json
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from microtome.errors import ClaimedError, ConfigError, OutputWriteError

CLAIM_HEARTBEAT_S = 10.0
CLAIM_EXPIRY_S = 60.0
_SAFE_NAME = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]+")
_MAX_NAME_BYTES = 180  # leaves room for suffixes below the usual 255


def safe_name(name: str, *, what: str = "slide_id") -> str:
    """Return ``name`` if it can be a file name on every system and cannot leave its folder; raise otherwise.

    Raises:
        ConfigError: If it is empty, too long, has a path separator, a control or reserved character, a leading
            dot, or a trailing dot or space.

    Example:
        >>> safe_name("TCGA-3X-AAVA-01Z (2)")
        'TCGA-3X-AAVA-01Z (2)'
    """
    whole = _SAFE_NAME.fullmatch(name) is not None
    if not whole or name.startswith(".") or name != name.rstrip(". ") or len(name.encode()) > _MAX_NAME_BYTES:
        raise ConfigError(
            f"{what} {name!r} cannot be a file name: it must have 1 to {_MAX_NAME_BYTES} bytes, none of "
            f'/ \\ : * ? " < > | or control characters, no leading dot and no trailing dot or space. Rename it.'
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


_WRITE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputWriteError) or error.errno not in _WRITE_ERRNOS:
            raise
        raise OutputWriteError(
            f"'{path}' cannot be written: {error.strerror}. Free space or choose another --out, then run again; "
            "finished files are kept."
        ) from error


def flush_to_disk(path: Path) -> None:
    """Force a file's bytes to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the rename itself still holds
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole, indented; NaN and infinity are refused."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a recipe comes in, plain JSON comes out
    """Reduce numpy, paths, tuples and dataclass-free containers to what JSON has."""
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": hash_array(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"A recorded value must be finite. Got {value}.")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"A {type(value).__name__} cannot be recorded. Give plain numbers, strings and containers.")


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes (C order)."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_text(recipe: Mapping[str, object]) -> str:
    """The canonical text of a recipe: JSON with sorted keys; arrays stand as dtype, shape and hash."""
    return json.dumps(_plain(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(recipe: Mapping[str, object]) -> str:
    """A digest of the *values* of a recipe: equal when, and only when, all of them are equal.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> digest({"tile_px": 224}) == digest({"tile_px": 224})
        True
        >>> digest({"tile_px": 224}) == digest({"tile_px": 225})
        False
    """
    return hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:32]


def recipe_changes(old: str, new: str) -> list[str]:
    """Name the values in which two recipe texts differ, as ``name: old → new``, for an error message."""
    before, after = json.loads(old), json.loads(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key, "absent"), after.get(key, "absent")
        if a != b:
            changes.append(f"{key}: {_short(a)} → {_short(b)}")
    return changes


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass
class Claim:
    """A claim on an output: ``<output>.claim``, created exclusively, refreshed by a heartbeat thread.

    A claim whose heartbeat is older than 60 s of the *file system's own* clock is dead (its process was killed)
    and is taken over. Works on local disks and NFS, which create exclusively.

    Use as a context manager around the making of ``output``.

    Raises:
        ClaimedError: On entering, if another living process holds the claim.
    """

    output: Path
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        """The claim's own file."""
        return self.output.with_name(self.output.name + ".claim")

    def __enter__(self) -> "Claim":
        with _explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._create():
                self._take_over_if_dead()
        self._thread = threading.Thread(target=self._beat, name=f"claim {self.output.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            if self.path.read_text(encoding="utf-8") == self._token:
                self.path.unlink()

    def _create(self) -> bool:
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(self._token)
        except FileExistsError:
            return False
        return True

    def _take_over_if_dead(self) -> None:
        age = self._age()
        if age is not None and age <= CLAIM_EXPIRY_S:
            raise ClaimedError(
                f"'{self.output}' is being made by another process (its claim was refreshed {age:.0f} s ago). "
                f"Wait for it; a dead process's claim expires after {CLAIM_EXPIRY_S:.0f} s."
            )
        # Rename first: of two processes that find the same dead claim, one rename wins.
        dead = self.path.with_name(f".{self.path.name}.{self._token}")
        with suppress(FileNotFoundError):
            self.path.rename(dead)
            dead.unlink()
        if not self._create():
            raise ClaimedError(f"'{self.output}' was just claimed by another process. Wait for it.")

    def _age(self) -> float | None:
        """Seconds since the last heartbeat by the file system's clock; None if the claim is gone."""
        probe = self.path.with_name(f".{self.path.name}.{self._token}.now")
        try:
            beat = self.path.stat().st_mtime
            probe.touch()
            return max(0.0, probe.stat().st_mtime - beat)
        except FileNotFoundError:
            return None
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(CLAIM_HEARTBEAT_S):
            with suppress(OSError):
                os.utime(self.path)


def now_utc() -> str:
    """The present moment, ISO 8601, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
