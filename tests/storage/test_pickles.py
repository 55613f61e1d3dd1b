"""Pickles are read without being run: what is plain comes back, all else raises, nothing is called."""

import builtins
import functools
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microtome.errors import CorruptOutputError
from microtome.storage.pickles import load_plain, read_npy

EASY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(), max_size=3)
        | st.sets(st.text(), max_size=3)
    ),
    max_leaves=8,
)
DTYPES = st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i8", "u2", ">i4", "?", "c16", "U3", "S2", "U0"])


def load(path: Path, value: Any, protocol: int) -> Any:
    path.write_bytes(pickle.dumps(value, protocol))
    return load_plain(path)


@EASY
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_containers_come_back(tmp_path, value, protocol):
    assert load(tmp_path / "x.pkl", value, protocol) == value


@EASY
@given(
    array=DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))), data=st.data()
)
def test_arrays_come_back_to_the_bit(tmp_path, array, data):
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    found = load(tmp_path / "x.pkl", {"x": array}, data.draw(st.integers(0, 5)))["x"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_and_ordered_dicts(tmp_path, protocol):
    value = OrderedDict([("a", np.float32(2.5)), ("b", np.int64(-3)), ("c", np.bool_(True))])
    found = load(tmp_path / "x.pkl", value, protocol)
    assert found == {"a": 2.5, "b": -3, "c": True}
    assert isinstance(found["a"], np.float32)


def test_names_of_older_numpy_are_known(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(np.array(["a", "ü"], object), 2).replace(b"numpy._core", b"numpy.core"))
    assert load_plain(path).tolist() == ["a", "ü"]


class _Runs:
    """What it says is called by an unpickler that trusts the file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _evil(flag: Path) -> dict[str, Any]:
    return {
        "shell": _Runs(os.system, f"touch {flag}"),
        "eval": _Runs(builtins.eval, f"open({str(flag)!r}, 'w')"),
        "open": _Runs(open, str(flag), "w"),
        "partial": _Runs(functools.partial, open, str(flag), "w"),
        "getattr": _Runs(builtins.getattr, "", "join"),
        "in an array": np.array([_Runs(os.system, f"touch {flag}")], object),
        "numpy load": _Runs(np.load, str(flag)),
        "a class": Path("x"),
        "a method by a dotted name": np.ndarray.tofile,
        "memmap": _Runs(np.memmap, str(flag), "u1", "w+", 0, (9,)),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", _evil(Path("x")))
def test_a_malicious_pickle_raises_and_calls_nothing(tmp_path, kind, protocol):
    flag, path = tmp_path / "flag", tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(["harmless", _evil(flag)[kind]], protocol))
    with pytest.raises(CorruptOutputError, match="not admitted"):
        load_plain(path)
    assert not flag.exists()


def test_a_malicious_array_of_objects_raises(tmp_path):
    flag, path = tmp_path / "flag", tmp_path / "x.npy"
    np.save(path, np.array([_Runs(os.system, f"touch {flag}")], object), allow_pickle=True)
    with pytest.raises(CorruptOutputError, match="not admitted"):
        read_npy(path)
    assert not flag.exists()


_FORGED = {
    "reference to elsewhere": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a dtype with objects in it": pickle.dumps(np.zeros(1, [("a", "O")]), 2),
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "an array without a state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
    "a dtype alone": pickle.dumps(np.dtype("f4"), 2),
    "the class itself": b"\x80\x02cnumpy\nndarray\n.",
    "a codec that unpacks": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.",
    "extension registry": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("kind", _FORGED)
def test_forged_pickles_raise(tmp_path, kind):
    path = tmp_path / "x.pkl"
    path.write_bytes(_FORGED[kind])
    with pytest.raises(CorruptOutputError):
        load_plain(path)


def test_references_that_multiply_do_not_take_for_ever(tmp_path):
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    found = load(tmp_path / "x.pkl", value, 4)
    assert found[0] is found[1]


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.pkl"
    whole = pickle.dumps({"x": np.arange(5.0), "y": ["a", {1, 2}]}, 4)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptOutputError):
            load_plain(path)


@EASY
@given(seed=st.integers(0, 2**32 - 1), protocol=st.integers(0, 5))
def test_damaged_bytes_give_plain_data_or_our_error(tmp_path, seed, protocol):
    rng, path = np.random.default_rng(seed), tmp_path / "x.pkl"
    data = bytearray(pickle.dumps({"x": np.arange(3.0), "y": np.array(["a"], object), "z": [1, "b"]}, protocol))
    for where in rng.integers(0, len(data), 3):
        data[where] = rng.integers(0, 256)
    path.write_bytes(bytes(data))
    try:
        found = load_plain(path)
    except CorruptOutputError:
        return
    _assert_plain(found)


def _assert_plain(value: Any) -> None:
    assert value is None or isinstance(
        value,
        str
        | bytes
        | bytearray
        | int
        | float
        | complex
        | list
        | tuple
        | dict
        | set
        | frozenset
        | np.generic
        | np.ndarray,
    )
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _assert_plain(item)
    if isinstance(value, dict):
        for key, item in value.items():
            _assert_plain(key)
            _assert_plain(item)


# -- .npy -----------------------------------------------------------------------------------------------------


@EASY
@given(array=DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))))
def test_npy_comes_back_to_the_bit(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = read_npy(tmp_path / "x.npy")
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not found.flags.writeable


@pytest.mark.parametrize("names", [[], ["a"], ["ü", "字/x", ""]])
def test_npy_of_objects_comes_back(tmp_path, names):
    np.save(tmp_path / "x.npy", np.array(names, object), allow_pickle=True)
    assert read_npy(tmp_path / "x.npy").tolist() == names


def test_npy_truncated_or_lying_raises(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100.0))
    whole = path.read_bytes()
    for length in (0, 3, 50, 128, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptOutputError, match=r"x\.npy"):
            read_npy(path)
    path.write_bytes(whole.replace(b"(100,)", b"(10**9,)")[:500])
    with pytest.raises(CorruptOutputError):
        read_npy(path)


def test_absent_is_absent(tmp_path):
    for read in (load_plain, read_npy):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "no")
