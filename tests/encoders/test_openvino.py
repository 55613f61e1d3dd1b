"""Networks run by OpenVINO."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from microtome.encoders import hardware, openvino_runtime
from microtome.encoders.base import Card
from microtome.encoders.compiled_cache import cache_folder, cache_path, read_compiled, write_compiled
from microtome.encoders.drift import MIN_COSINE, measure_drift, random_tiles
from microtome.encoders.hardware import has_cpu_bf16
from microtome.encoders.openvino_runtime import OpenVinoRuntime, compilation_key
from microtome.encoders.preprocess import Preprocess
from microtome.encoders.runtime import make_runtime
from microtome.encoders.torch_runtime import TorchRuntime
from microtome.errors import ConfigError, ConversionError, EncoderOutputError
from microtome.storage import digest
from tests.encoders.networks import Means, Normalise, Small, real_tiles, scaled, small

SHAPE = (24, 20, 3)
TILES = random_tiles(37, SHAPE)

needs_bf16 = pytest.mark.skipif(not has_cpu_bf16(), reason="this CPU has no bf16")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def compilations(monkeypatch):
    """Counts what is compiled anew."""
    done = []
    original = openvino_runtime._compile

    def compile_anew(module, example, precision):
        done.append(precision)
        return original(module, example, precision)

    monkeypatch.setattr(openvino_runtime, "_compile", compile_anew)
    return done


def compiled(network, precision="fp32", *, preprocess=None, shape=SHAPE, key="a key"):
    preprocess = preprocess or Normalise()
    return OpenVinoRuntime(network, preprocess, precision=precision, input_shape=shape, cache_key=key)


def reference(network, preprocess=None):
    return TorchRuntime(network, preprocess or Normalise(), device="cpu", precision="fp32")


def made(network, runtime, precision="fp32"):
    return make_runtime(
        network, Normalise(), device="cpu", precision=precision, runtime=runtime, input_shape=SHAPE, cache_key="k"
    )


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 37])
def test_fp32_is_torchs_for_any_number_of_tiles(n):
    network = small()
    runtime = compiled(network)
    np.testing.assert_allclose(runtime.run(TILES[:n]), reference(network).run(TILES[:n]), rtol=1e-4, atol=1e-5)
    assert runtime.run(TILES[:n]).dtype == np.float32
    with pytest.raises(ValueError, match="at least one tile"):
        runtime.run(TILES[:0])


def test_results_are_not_overwritten_by_the_next_batch():
    runtime = compiled(small())
    first = runtime.run(TILES[:5])
    kept = first.copy()
    runtime.run(TILES[5:10])
    np.testing.assert_array_equal(first, kept)


def test_memory_layout_does_not_matter():
    runtime = compiled(small())
    first = runtime.run(TILES)
    frozen = TILES.copy()
    frozen.setflags(write=False)
    planar = np.ascontiguousarray(TILES.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (frozen, planar, np.concatenate([TILES, TILES], axis=2)[:, :, :20]):
        np.testing.assert_array_equal(runtime.run(same), first)
    np.testing.assert_array_equal(frozen, TILES)


@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_bf16_drifts_less_than_promised(name, shared):
    network, tiles = scaled(name), real_tiles(shared)
    runtime = compiled(network, "bf16", shape=(224, 224, 3))
    drift = measure_drift(runtime.run, reference(network).run, tiles)
    assert drift.min_cosine >= MIN_COSINE
    assert drift.min_cosine < 1 - 1e-8, "bf16 was not used"


@needs_bf16
def test_resizing_is_exact_where_the_network_is_bf16():
    """Pillow's grey levels are whole numbers, and a resize in bf16 would miss many of them."""
    card = Card(
        name="x", dim=3, input_px=16, tile_px=24, mean=(0.5,) * 3, std=(0.25,) * 3, resize=16,
        interpolation="bicubic", size_policy="resize",
    )  # fmt: skip
    preprocess = Preprocess(card, (24, 24))
    runtime = compiled(small(), "bf16", preprocess=preprocess, shape=(24, 24, 3))
    tiles = random_tiles(4, (24, 24, 3))
    expected = preprocess(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(runtime._graphs[0].infer(tiles), expected, atol=1e-6)


def test_16_bit_tiles_are_not_cut():
    class Raw(nn.Module):
        dtype = np.dtype(np.uint16)

        def forward(self, images):
            return images.permute(0, 3, 1, 2).to(torch.float32)

    images = random_tiles(2, (5, 5, 2), Raw.dtype)
    found = compiled(Means(), preprocess=Raw(), shape=(5, 5, 2)).run(images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-5)


def test_the_network_stays_as_it_was():
    network = small().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = compiled(network).run(TILES)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    np.testing.assert_allclose(found, reference(small()).run(TILES), rtol=1e-4, atol=1e-5)


def test_threads_may_share_it():
    runtime = compiled(small())
    batches = [random_tiles(5, SHAPE, seed=seed) for seed in range(8)]
    alone = [runtime.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(runtime.run, batches), alone, strict=True):
            np.testing.assert_array_equal(one, other)


# -- the cache ----------------------------------------------------------------------------------------------


def test_what_was_compiled_is_taken_from_the_cache(cache, compilations):
    first = compiled(small()).run(TILES)
    assert len(compilations) == 2
    assert len(list(cache.iterdir())) == 2
    np.testing.assert_array_equal(compiled(small()).run(TILES), first)
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", ["flip", "stranger"])
def test_a_damaged_entry_is_made_again(cache, compilations, damage):
    first = compiled(Means()).run(TILES)
    for path in sorted(cache.iterdir()):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        if damage == "stranger":  # whole, and nothing that OpenVINO knows
            write_compiled(path, b"not a network")
    np.testing.assert_array_equal(compiled(Means()).run(TILES), first)
    assert len(compilations) == 4
    compiled(Means())
    assert len(compilations) == 4


def test_everything_that_decides_the_graph_is_in_its_key(monkeypatch):
    def key(network=None, preprocess=None, shape=SHAPE, name="k"):
        return digest(compilation_key(network or small(), preprocess or Normalise(), shape, name))

    other = Normalise()
    other.mean.add_(0.25)
    seen = [key(), key(name="l"), key(shape=(20, 24, 3)), key(nn.Sequential(small())), key(preprocess=other)]
    monkeypatch.setattr(openvino_runtime, "runtime_version", lambda name: "2099.1")
    seen.append(key())
    monkeypatch.setattr(openvino_runtime, "cpu_flags", lambda: frozenset({"avx2"}))
    seen.append(key())
    monkeypatch.setattr(torch, "__version__", "99.0")
    seen.append(key())
    assert len(set(seen)) == len(seen)
    assert key(small(seed=1)) == key(small(seed=2)), "weights are the caller's to name"


@needs_bf16
def test_precisions_do_not_share_an_entry(compilations):
    compiled(small())
    compiled(small(), "bf16")
    assert compilations == ["fp32", "fp32", "bf16"]  # preprocessing is fp32 for both


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "file"))
    network = small()
    np.testing.assert_allclose(compiled(network).run(TILES), reference(network).run(TILES), rtol=1e-4, atol=1e-5)


def test_many_writers_of_one_entry_leave_one_whole_file(tmp_path):
    path, gate = tmp_path / "entry.bin", threading.Barrier(8)
    blobs = [bytes([i]) * 100_000 for i in range(8)]

    def write(blob):
        gate.wait()
        return write_compiled(path, blob)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, blobs))
    assert read_compiled(path) in blobs
    assert [p.name for p in tmp_path.iterdir()] == ["entry.bin"]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:20], lambda c: b"", lambda c: c + b"x"])
def test_a_damaged_file_is_removed_and_an_absent_one_is_none(tmp_path, damage):
    path = tmp_path / "entry.bin"
    assert read_compiled(path) is None
    write_compiled(path, b"blob")
    assert read_compiled(path) == b"blob"
    path.write_bytes(damage(path.read_bytes()))
    assert read_compiled(path) is None
    assert not path.exists()


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_path("x", {"a": 1}).parent == cache_folder() / "x"
    assert cache_path("x", {"a": 1}) != cache_path("x", {"a": 2})
    monkeypatch.delenv("MICROTOME_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "microtome"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "microtome"


# -- networks that cannot be had ----------------------------------------------------------------------------


class Sorts(Small):
    """Asks a tensor for its value, which no exported graph can."""

    def forward(self, x):
        return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)


class LearnsTheBatch(Means):
    """Fine for one batch, another thing for another: a graph that keeps a number it saw."""

    def forward(self, x):
        factor = 3 if torch.compiler.is_exporting() else 1
        return super().forward(x) * factor


def test_auto_goes_on_with_torch_where_conversion_fails(cache, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    network = Sorts().eval()
    runtime = made(network, "auto", "bf16")
    assert (runtime.name, runtime.precision) == ("torch", "bf16")
    assert "OpenVINO cannot convert" in runtime.note
    assert runtime.run(TILES).shape == (37, 8)
    assert not cache.exists() or len(list(cache.iterdir())) == 0


def test_by_name_a_failed_conversion_is_an_error(cache):
    with pytest.raises(ConversionError, match=r"OpenVINO cannot convert this network: .*--runtime torch"):
        made(Sorts().eval(), "openvino")


def test_a_graph_that_computes_something_else_is_never_used_or_kept(cache):
    for _ in range(2):
        with pytest.raises(ConversionError, match="errors up to"):
            made(LearnsTheBatch(), "openvino")
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cpu_that_silently_computes_in_another_precision_is_noticed(monkeypatch):
    monkeypatch.setitem(openvino_runtime._HINTS, "fp32", "f16")
    monkeypatch.setattr(
        openvino_runtime, "_settings", lambda precision: {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    )
    with pytest.raises(ConversionError, match="does not compute in fp32"):
        compiled(small())


def test_what_is_not_one_vector_per_tile_is_refused():
    class Maps(nn.Module):
        def forward(self, x):
            return x.mean(dim=2)

    with pytest.raises(EncoderOutputError, match="one vector per tile"):
        compiled(Maps())


def test_without_openvino_its_name_is_refused_and_auto_is_torch(monkeypatch):
    monkeypatch.setattr(hardware, "has_openvino", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'microtome\[cpu\]'"):
        made(small(), "openvino")
    assert made(small(), "auto", "bf16").name == "torch"


@needs_bf16
def test_auto_is_openvino_in_bf16_here():
    runtime = made(small(), "auto", None)
    assert (runtime.name, runtime.device, runtime.precision, runtime.note) == ("openvino", "cpu", "bf16", "")


def test_choosing_imports_neither_library(tmp_path):
    """Recipes are written before anything runs; --help must not pay for OpenVINO."""
    import subprocess

    code = (
        "import sys; import microtome.encoders.runtime, microtome.encoders.torch_runtime; "
        "from microtome.encoders.hardware import resolve_runtime; resolve_runtime('cpu'); "
        "assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MICROTOME_CACHE": str(tmp_path)})


def test_nothing_is_reported_over_the_network(monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")

    def refuse(*args, **kwargs):
        raise AssertionError("telemetry was started")

    monkeypatch.setattr(telemetry.Telemetry, "init", refuse)
    monkeypatch.setattr(telemetry.Telemetry, "send_event", refuse)
    compiled(small())
