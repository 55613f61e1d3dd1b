"""Ways to spoil bytes, each decided by a generator alone."""

import struct

import numpy as np

_EDGES = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_TABLES, _OFFSETS, _COUNTS = 347, (273, 324), (279, 325)


def spoil_bytes(data: bytes, rng: np.random.Generator, start: int = 0, stop: int | None = None) -> bytes:
    """Some bytes between two places exchanged, a run of them removed, doubled or zeroed, or the end cut off."""
    stop = len(data) if stop is None else min(stop, len(data))
    if stop <= start:
        return data
    out = bytearray(data)
    at = int(rng.integers(start, stop))
    reach = min(stop - at, int(rng.integers(1, 64)))
    kind = int(rng.integers(8))
    if kind == 0:
        return bytes(out[:at])
    if kind == 1:
        del out[at : at + reach]
    elif kind == 2:
        out[at:at] = out[at : at + reach]
    elif kind == 3:
        out[at : at + reach] = bytes(reach)
    else:
        for place in rng.integers(start, stop, int(rng.choice([1, 2, 8]))):
            out[int(place)] = int(rng.choice(np.array([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])))
    return bytes(out)


def spoil_head(data: bytes, rng: np.random.Generator) -> bytes:
    """As :func:`spoil_bytes`, more often near both ends, where indices and headers are."""
    share = rng.random()
    if share < 0.5:
        return spoil_bytes(data, rng, 0, 600)
    return spoil_bytes(data, rng, max(0, len(data) - 600)) if share < 0.75 else spoil_bytes(data, rng)


def spoil_tiff(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three entries of a little-endian classic TIFF's index changed, or what they point to."""
    out = bytearray(data)
    entries = _entries(data)
    for _ in range(int(rng.integers(1, 4))):
        at, tag, kind, count, value = entries[int(rng.integers(len(entries)))]
        part = int(rng.integers(7))
        if part == 0:
            struct.pack_into("<H", out, at, int(rng.choice([entry[1] for entry in entries])))
        elif part == 1:
            struct.pack_into("<H", out, at + 2, int(rng.integers(20)))
        elif part == 2:
            struct.pack_into("<I", out, at + 4, _number(rng, count))
        elif part == 3 or count * _width(kind) <= 4:
            struct.pack_into("<I", out, at + 8, _number(rng, value))
        elif part == 4 and tag == _TABLES:
            out[value : value + count] = spoil_bytes(bytes(out[value : value + count]), rng)[:count].ljust(count, b"\0")
        elif tag in (*_OFFSETS, *_COUNTS) and _width(kind) == 4:
            place = value + 4 * int(rng.integers(count))
            struct.pack_into("<I", out, place, _number(rng, struct.unpack_from("<I", data, place)[0]))
        else:
            out = bytearray(spoil_bytes(bytes(out), rng))
            return bytes(out)
    return bytes(out)


def _number(rng: np.random.Generator, old: int) -> int:
    near = old + int(rng.integers(-3, 4))
    return int(rng.choice(np.array([*_EDGES, near, old * 2, old // 2, int(rng.integers(2**32))]))) % 2**32


def _width(kind: int) -> int:
    return {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}.get(kind, 1)


def _entries(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """Place, tag, type, count and value of each entry of each page."""
    found: list[tuple[int, int, int, int, int]] = []
    (page,) = struct.unpack_from("<I", data, 4)
    while page:
        (n,) = struct.unpack_from("<H", data, page)
        places = range(page + 2, page + 2 + 12 * n, 12)
        found.extend((at, *struct.unpack_from("<HHII", data, at)) for at in places)
        (page,) = struct.unpack_from("<I", data, page + 2 + 12 * n)
    return found
