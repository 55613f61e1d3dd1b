"""Arrow columns of numbers, flags and texts.

``pyarrow.array`` imports pandas to see whether it was given a thing of pandas', which takes half a second: longer than
writing the tiles of a small slide. These are made from bytes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64


def integers(values: Int64[np.ndarray, " n"]) -> pa.Array:
    """A column of 64-bit integers."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def flags(values: Bool[np.ndarray, " n"]) -> pa.Array:
    """A column of truth values."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def texts(values: Sequence[str]) -> pa.Array:
    """A column of strings; bytes of file names that are no text are kept as Python keeps them, escaped."""
    encoded = [value.encode("utf-8", "backslashreplace") for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    kind, offsets = (pa.string(), ends.astype(np.int32)) if ends[-1] < 2**31 else (pa.large_string(), ends)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))])
