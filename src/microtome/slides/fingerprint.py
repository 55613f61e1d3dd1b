"""What a file's content is, without reading all of it: a digest of its size and of samples spread over it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_WHOLE_BYTES = 2**21  # files up to this size are read whole
_SAMPLE_BYTES = 2**16
_N_SAMPLES = 16
_COMPANION_SAMPLES = 2  # a slide may have hundreds of companions


def fingerprint_file(path: Path, companions: Iterable[Path] = ()) -> str:
    """Digest a slide's content, so that an output knows which slide it was made from.

    The main file's size is taken, its head, its tail and chunks at even distances in between (all of it up to
    2 MiB); of companions their names and sizes, heads and tails. Neither path nor date counts: a copied slide keeps
    its fingerprint, a slide scanned again under the same name does not. A change of a few bytes in the middle of a
    large file is not seen.

    Args:
        path: The slide's main file.
        companions: Files that belong to it.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: If a file cannot be read.
    """
    state = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _samples(file, _N_SAMPLES):
            state.update(chunk)
    for companion in sorted(companions, key=lambda p: p.name):
        state.update(companion.name.encode())
        with companion.open("rb") as file:
            for chunk in _samples(file, _COMPANION_SAMPLES):
                state.update(chunk)
    return state.hexdigest()[:32]


def _samples(file: BinaryIO, n: int) -> Iterable[bytes]:
    size = file.seek(0, 2)
    yield size.to_bytes(8, "little")
    if size <= _WHOLE_BYTES:
        file.seek(0)
        yield file.read()
        return
    last = size - _SAMPLE_BYTES
    for index in range(n):
        file.seek(last * index // (n - 1))
        yield file.read(_SAMPLE_BYTES)
