"""Pickles of strangers, read without running them: numpy arrays, strings, numbers and plain containers.

Unpickling calls whatever the file names. Here nothing that a file names is ever called: each name that is admitted
stands for an inert record of our own, and arrays are made from these records once all of them are known to be sound.
Any other name raises.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Shaped

from microtome.errors import CorruptOutputError, MicrotomeError

_KINDS = "biufcSUO"  # of dtypes: numbers, text, and objects that are themselves plain
_MAX_HEADER = 10_000
_T = TypeVar("_T")


def load_plain(path: Path) -> Any:  # noqa: ANN401 - what a file holds
    """Read a pickle that holds only numpy arrays, numbers, strings and plain containers.

    Args:
        path: The file.

    Returns:
        What was pickled. Containers are list, tuple, dict, set and frozenset; arrays are numpy's, writeable.

    Raises:
        FileNotFoundError: If nothing is there.
        CorruptOutputError: If it is no pickle, is truncated, or names anything else.

    Example:
        >>> import pickle, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.pkl"
        >>> _ = file.write_bytes(pickle.dumps({"A12": 1}))
        >>> load_plain(file)
        {'A12': 1}
    """
    with path.open("rb") as file:
        return _explained(path, lambda: unpickle_plain(file))


def read_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    """Read a ``.npy`` file; an array of objects comes through the reader that runs nothing.

    Args:
        path: The file.

    Returns:
        The array: memory-mapped and read-only if it is of numbers or text, in memory if it is of objects.

    Raises:
        FileNotFoundError: If nothing is there.
        CorruptOutputError: If it is no such file, is truncated, or its objects are not plain.
    """
    return _explained(path, lambda: _read_npy(path))


def unpickle_plain(file: BufferedIOBase) -> Any:  # noqa: ANN401 - what a file holds
    """Read one pickle from an open file, as :func:`load_plain` does.

    Raises:
        pickle.UnpicklingError: If it names anything but numpy arrays and plain containers.
        Exception: Whatever the standard unpickler raises over bytes that are no pickle.
    """
    return _Finished().of(RestrictedUnpickler(file, _ADMITTED).load())


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows some names and refuses all others.

    Args:
        file: Where the pickle is.
        admitted: Module and name → what stands for it. It is called with what the file says, so it must be inert.
        load_persistent: What a persistent id becomes; None refuses them.
    """

    def __init__(
        self,
        file: BufferedIOBase,
        admitted: Mapping[tuple[str, str], object],
        load_persistent: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._admitted, self._load_persistent = admitted, load_persistent

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - the base class's signature
        """What stands for a name that the file gives.

        Raises:
            pickle.UnpicklingError: If it is not admitted.
        """
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is not admitted; only plain data is read from a pickle"
            ) from None

    def persistent_load(self, pid: Any) -> object:  # noqa: ANN401 - the base class's signature
        """What a reference to data outside of the pickle becomes.

        Raises:
            pickle.UnpicklingError: If none are admitted.
        """
        if self._load_persistent is None:
            raise pickle.UnpicklingError("it refers to data outside of itself")
        return self._load_persistent(pid)


class _Name:
    """Stands for a class that is only ever an argument (numpy.ndarray)."""


class _DType:
    """Stands for a dtype: its name, and its byte order from the state."""

    def __init__(self, name: object, *_: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds a dtype with fields or subarrays")
        self.order = str(state[1])

    def made(self) -> np.dtype[Any]:
        if (
            not isinstance(self.name, str)
            or self.name[:1] not in _KINDS
            or not self.name[1:].isdecimal() | (self.name == "O")
        ):
            raise pickle.UnpicklingError(f"it holds the dtype {self.name!r}")
        dtype = np.dtype(self.name)
        return dtype.newbyteorder(">") if self.order == ">" else dtype


class _Array:
    """Stands for an array: its shape, dtype and content from the state."""

    def __init__(self, *_: object) -> None:
        self.shape: object = None
        self.dtype: object = None
        self.fortran: object = False
        self.content: object = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state


class _Scalar:
    """Stands for one number of numpy's."""

    def __init__(self, dtype: object, content: object = b"") -> None:
        self.dtype, self.content = dtype, content


def _from_buffer(buffer: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(buffer) if isinstance(buffer, bytearray) else buffer))
    return array


def _encode(text: object, encoding: object) -> bytes:
    """How older pickles spell bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin1")


def _no_bytes(*arguments: object) -> bytes:
    """How older pickles spell no bytes at all."""
    if arguments:
        raise pickle.UnpicklingError("it makes bytes of something else")
    return b""


def _items(kind: Callable[[Iterable[Any]], object]) -> Callable[..., object]:
    def made(items: object = ()) -> object:
        if not isinstance(items, list | tuple):
            raise pickle.UnpicklingError("it makes a set of something other than a list")
        return kind(items)

    return made


def _dict(*items: object) -> dict[object, object]:
    """An OrderedDict: empty, filled by the file afterwards; or of a list of pairs."""
    return dict(items[0]) if items and isinstance(items[0], list) else {}


_ADMITTED: Mapping[tuple[str, str], object] = {
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Array), ("scalar", _Scalar))
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _dict,
    **{(home, "bytes"): _no_bytes for home in ("builtins", "__builtin__")},
    **{(home, "set"): _items(set) for home in ("builtins", "__builtin__")},
    **{(home, "frozenset"): _items(frozenset) for home in ("builtins", "__builtin__")},
}


class _Finished:
    """Turns records into arrays, each thing once, however often the file refers to it."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[object, object]] = {}  # the first is kept so that its id stays its own

    def of(self, thing: object) -> object:
        if thing is None or isinstance(thing, str | bytes | bytearray | int | float | complex):
            return thing
        if id(thing) not in self._done:
            self._done[id(thing)] = (thing, _Pending)
            self._done[id(thing)] = (thing, self._made(thing))
        if self._done[id(thing)][1] is _Pending:
            raise pickle.UnpicklingError("it holds a container that holds itself")
        return self._done[id(thing)][1]

    def _made(self, thing: object) -> object:
        if isinstance(thing, dict):
            return {self.of(key): self.of(value) for key, value in thing.items()}
        for kind in (list, tuple, set, frozenset):
            if isinstance(thing, kind):
                return kind(self.of(item) for item in thing)
        if isinstance(thing, _Array):
            return self._array(thing)
        if isinstance(thing, _Scalar):
            return self._scalar(thing)
        raise pickle.UnpicklingError("it holds something other than arrays, text, numbers and plain containers")

    def _array(self, record: _Array) -> Shaped[np.ndarray, "..."]:
        shape, dtype = record.shape, _dtype(record.dtype)
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape!r}")
        if dtype.hasobject:
            flat = self._objects(record.content)
        elif isinstance(record.content, bytes):
            flat = np.frombuffer(record.content, dtype).copy()
        else:
            raise pickle.UnpicklingError("it holds an array of numbers without its bytes")
        return flat.reshape(shape, order="F" if record.fortran else "C")

    def _objects(self, content: object) -> Shaped[np.ndarray, " n"]:
        if not isinstance(content, list):
            raise pickle.UnpicklingError("it holds an array of objects without its list")
        flat = np.empty(len(content), object)
        for index, item in enumerate(content):
            flat[index] = self.of(item)
        return flat

    def _scalar(self, record: _Scalar) -> object:
        dtype = _dtype(record.dtype)
        if dtype.hasobject or not isinstance(record.content, bytes) or len(record.content) != dtype.itemsize:
            raise pickle.UnpicklingError("it holds a number without its bytes")
        return np.frombuffer(record.content, dtype)[0] if dtype.itemsize else dtype.type()


class _Pending:
    """Marks what is being made, so that a container that holds itself is noticed."""


def _dtype(record: object) -> np.dtype[Any]:
    if not isinstance(record, _DType):
        raise pickle.UnpicklingError("it holds an array without a dtype")
    return record.made()


def _read_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    with path.open("rb") as file:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"its version of the format is {version}")
        shape, fortran, dtype = readers[version](file, max_header_size=_MAX_HEADER)
        if dtype == np.dtype(object):
            found = unpickle_plain(file)
            if not isinstance(found, np.ndarray) or found.dtype != dtype or found.size != np.prod(shape):
                raise ValueError("its content is not what its head says")
            return found.reshape(shape, order="F" if fortran else "C")
        offset = file.tell()
        if offset + int(np.prod(shape)) * dtype.itemsize > file.seek(0, 2):
            raise ValueError("it is truncated")
    array = np.load(path, mmap_mode="r" if np.prod(shape) and dtype.itemsize else None, allow_pickle=False)
    array.flags.writeable = False
    return np.asarray(array)


def _explained(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (FileNotFoundError, MicrotomeError):
        raise
    except Exception as error:
        reason = "it ends too early" if isinstance(error, EOFError) else str(error) or type(error).__name__
        with suppress(OSError):
            if path.stat().st_size == 0:
                reason = "it is empty"
        raise CorruptOutputError(
            f"'{path}' cannot be read: {reason}. Get a whole file, or save it again as plain arrays."
        ) from error
