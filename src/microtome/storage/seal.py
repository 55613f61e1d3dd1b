"""A seal at the end of a file that says whether its bytes are still those that were written.

The HDF5 library trusts what it parses: one wrong byte in a file's index can make it crash or loop without end. So
our own files end with a seal, 64 bytes behind what HDF5 calls the end of the file, which it and every other reader
ignore. It holds a checksum of everything but one part that may be left out: pixels or features are too large to be
read whenever a file is opened, and cannot mislead the parser.
"""

import struct
import zlib
from pathlib import Path

_MARK = b"microtome seal 1"
_SEAL = struct.Struct("<16sQQII8x16s")  # mark, start and length of what is left out, checksums of file and seal, mark
_BLOCK_BYTES = 4 * 1024 * 1024


def seal_file(path: Path, start: int = 0, n_bytes: int = 0) -> None:
    """Append a seal.

    Args:
        path: The file.
        start: Where the part begins that the checksum leaves out.
        n_bytes: How long that part is; 0 if nothing is left out.
    """
    size = path.stat().st_size
    parts = (_MARK, start, n_bytes, _checksum(path, start, n_bytes, size))
    with path.open("ab") as file:
        file.write(_SEAL.pack(*parts, zlib.crc32(_SEAL.pack(*parts, 0, _MARK)), _MARK))


def is_sealed(path: Path) -> bool:
    """Whether a file ends with a seal, whole or damaged."""
    return _read_seal(path) is not None


def seal_holds(path: Path) -> bool:
    """Whether a sealed file is as it was written, but for the part that the checksum leaves out."""
    found = _read_seal(path)
    if found is None:
        return False
    first, start, n_bytes, checksum, own, last = _SEAL.unpack(found)
    if first != _MARK or last != _MARK or zlib.crc32(_SEAL.pack(_MARK, start, n_bytes, checksum, 0, _MARK)) != own:
        return False
    size = path.stat().st_size - _SEAL.size
    return bool(start + n_bytes <= size and _checksum(path, start, n_bytes, size) == checksum)


def _read_seal(path: Path) -> bytes | None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < _SEAL.size:
            return None
        file.seek(size - _SEAL.size)
        found = file.read(_SEAL.size)
    return found if found.startswith(_MARK) or found.endswith(_MARK) else None


def _checksum(path: Path, start: int, n_bytes: int, size: int) -> int:
    checksum = zlib.crc32(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for begin, end in ((0, start), (start + n_bytes, size)):
            file.seek(begin)
            for left in range(end - begin, 0, -_BLOCK_BYTES):
                checksum = zlib.crc32(file.read(min(_BLOCK_BYTES, left)), checksum)
    return checksum
