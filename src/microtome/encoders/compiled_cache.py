"""Compiled networks, kept between runs: files that are whole or absent, and thrown away when damaged."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from microtome.errors import OutputWriteError
from microtome.storage import digest, written_whole

_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Where compiled networks lie: ``MICROTOME_CACHE``, else ``microtome`` in the user's cache folder."""
    named = os.environ.get("MICROTOME_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microtome"


def cache_path(kind: str, key: dict[str, object]) -> Path:
    """Where a compiled network lies.

    Args:
        kind: Of the runtime; the name of a folder.
        key: Everything that decides the file's bytes.
    """
    return cache_folder() / kind / f"{digest(key)}.bin"


def read_compiled(path: Path) -> bytes | None:
    """What :func:`write_compiled` wrote; None if nothing is there, or not what was written. That is then removed."""
    try:
        with path.open("rb") as file:
            expected, blob = file.read(_DIGEST_BYTES), file.read()
    except OSError:
        return None
    if hashlib.sha256(blob).digest() == expected:
        return blob
    with suppress(OSError):
        path.unlink()
    return None


def write_compiled(path: Path, blob: bytes) -> bool:
    """Keep a compiled network; processes that keep the same one at once do not harm each other.

    Returns:
        Whether it could be written. A cache that is full or read-only costs time and nothing else.
    """
    with suppress(OutputWriteError):
        with written_whole(path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
        return True
    return False
