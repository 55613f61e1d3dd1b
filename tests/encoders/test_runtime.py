"""Networks run by torch; what needs a GPU is tried with stand-ins on the CPU."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from microtome.encoders import runtime as runtime_module
from microtome.encoders import torch_runtime
from microtome.encoders.drift import MIN_COSINE, measure_drift, random_tiles
from microtome.encoders.hardware import Choice
from microtome.encoders.runtime import make_runtime
from microtome.encoders.torch_runtime import TorchRuntime, has_overlapping_convolutions
from microtome.errors import ConfigError, EncoderError, EncoderOutputError
from tests.encoders.networks import Means, Normalise, Small, real_tiles, scaled, small

TILES = random_tiles(37, (24, 20, 3))


def on_cpu(network, precision="fp32"):
    return TorchRuntime(network, Normalise(), device="cpu", precision=precision)


def eager(network, images):
    with torch.inference_mode():
        return network(Normalise()(torch.from_numpy(images))).numpy()


def test_fp32_is_what_the_network_gives():
    network = small()
    np.testing.assert_allclose(on_cpu(network).run(TILES), eager(network, TILES), rtol=1e-5, atol=1e-7)


def test_means_are_those_of_numpy():
    images = random_tiles(3, (9, 7, 3))
    expected = (images.mean(axis=(1, 2)) / 255 - [0.6, 0.5, 0.6]) / 0.25
    found = on_cpu(Means()).run(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_comes_out_twice_whatever_the_memory_layout(precision):
    runtime = on_cpu(small(), precision)
    first = runtime.run(TILES)
    np.testing.assert_array_equal(runtime.run(TILES), first)
    frozen = TILES.copy()
    frozen.setflags(write=False)
    planar = np.ascontiguousarray(TILES.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (frozen, planar, np.concatenate([TILES, TILES], axis=2)[:, :, :20]):
        np.testing.assert_array_equal(runtime.run(same), first)
    np.testing.assert_array_equal(TILES, frozen)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33])
def test_any_number_of_tiles(n):
    network = small()
    runtime = on_cpu(network)
    np.testing.assert_allclose(runtime.run(TILES[:n]), eager(network, TILES[:n]), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="at least one tile"):
        runtime.run(TILES[:0])


def test_16_bit_tiles_are_not_cut():
    class Raw(nn.Module):
        def forward(self, images):
            return images.permute(0, 3, 1, 2).to(torch.float32)

    images = random_tiles(2, (5, 5, 2), np.dtype(np.uint16))
    images.setflags(write=False)
    found = TorchRuntime(Means(), Raw(), device="cpu", precision="fp32").run(images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_stays_as_it_was(precision):
    network = small().train()
    before = copy.deepcopy(network.state_dict())
    runtime = on_cpu(network, precision)
    runtime.run(TILES)
    assert network.training
    assert network.calls == []
    assert all(p.dtype == torch.float32 and p.requires_grad for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_training_mode_does_not_leak_into_vectors():
    np.testing.assert_array_equal(on_cpu(small().train()).run(TILES), on_cpu(small()).run(TILES))


def test_what_needs_no_change_is_not_copied():
    network = nn.Sequential(nn.Linear(3, 4))
    runtime = TorchRuntime(network, nn.Identity(), device="cpu", precision="fp32")
    for own, original in zip(runtime._network.parameters(), network.parameters(), strict=True):
        assert own.data_ptr() == original.data_ptr()


def test_preprocessing_stays_fp32_where_the_network_is_bf16():
    class Preprocess(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("third", torch.tensor(1 / 3), persistent=False)

        def forward(self, images):
            assert self.third.dtype == torch.float32
            return images.permute(0, 3, 1, 2).to(torch.float32) * self.third * 3  # whole numbers again, if in fp32

    class Largest(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.bfloat16
            return x.amax(dim=(2, 3))

    images = random_tiles(2, (6, 6, 3))
    runtime = TorchRuntime(Largest(), Preprocess(), device="cpu", precision="bf16")
    np.testing.assert_array_equal(runtime.run(images), images.max(axis=(1, 2)))  # bf16 holds whole numbers to 256


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_bf16_drifts_less_than_promised(name, shared):
    network, tiles = scaled(name), real_tiles(shared)
    runtimes = [on_cpu(network, precision) for precision in ("bf16", "fp32")]
    drift = measure_drift(runtimes[0].run, runtimes[1].run, tiles)
    assert drift.min_cosine >= MIN_COSINE
    assert drift.min_cosine < 1 - 1e-8, "bf16 was not used"
    features = runtimes[1].run(tiles)
    assert np.corrcoef(features).min() < 0.9999, "tiles must differ for the comparison to say something"


def test_a_network_that_cannot_compute_in_bf16_is_refused():
    class Insists(Small):
        def forward(self, x):
            return super().forward(x.float())

    assert np.isfinite(on_cpu(Insists().eval()).run(TILES)).all()
    with pytest.raises(ConfigError, match=r"cannot compute in bf16 on cpu.*--precision fp32"):
        on_cpu(Insists().eval(), "bf16").run(TILES)


def test_an_error_of_the_network_in_fp32_passes():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        on_cpu(Broken()).run(TILES)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3,)])
def test_what_is_not_one_vector_per_tile_is_refused(shape):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.zeros(shape)

    with pytest.raises(EncoderOutputError, match="one vector per tile"):
        on_cpu(Odd()).run(TILES[:2])


def test_threads_may_share_it():
    runtime = on_cpu(small())
    batches = [random_tiles(5, (24, 20, 3), seed=seed) for seed in range(8)]
    alone = [runtime.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(runtime.run, batches), alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_loosened_fp32_is_not_taken_for_the_reference(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    with pytest.raises(ConfigError, match="fp32 is the reference"):
        on_cpu(small()).run(TILES)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(3, 8, 7, stride=2, padding=3)], True),
        ([nn.Conv2d(3, 8, 16, stride=16), nn.Linear(8, 8)], False),  # a vision transformer's stem
        ([nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 7, padding=3, groups=8)], True),
        ([nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, stride=2)], False),
        ([nn.Linear(3, 8)], False),
    ],
)
def test_channels_last_is_for_networks_that_convolve(layers, expected):
    assert has_overlapping_convolutions(nn.Sequential(*layers)) is expected


# -- memory that runs out, tried without a GPU --------------------------------------------------------------


class Hungry(Means):
    """Has memory for so many tiles at once."""

    def __init__(self, most):
        super().__init__()
        self.most, self.tried = most, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return super().forward(x)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_that_do_not_fit_are_halved_until_they_do(most, precision):
    network = Hungry(most)
    runtime = on_cpu(network, precision)
    found = runtime.run(TILES)
    np.testing.assert_array_equal(found, on_cpu(Means(), precision).run(TILES))
    network.tried.clear()
    np.testing.assert_array_equal(runtime.run(TILES), found)
    assert max(network.tried) <= most, "what did not fit once is not tried again"


def test_a_tile_that_does_not_fit_alone_is_said():
    with pytest.raises(EncoderError, match=r"One tile of 20×24 px does not fit into the memory of cpu"):
        on_cpu(Hungry(0)).run(TILES)


# -- what is decided for GPUs, without one ------------------------------------------------------------------


class Staged(TorchRuntime):
    """A runtime that believes to be on a GPU, as far as that goes without one."""

    def __init__(self, network, precision):
        super().__init__(network, Normalise(), device="cpu", precision="fp32")
        self._device, self.precision, self._dtype = torch.device("cuda"), precision, torch.bfloat16


def test_tiles_are_staged_in_pinned_memory_for_gpus(monkeypatch):
    runtime, asked, original = Staged(small(), "bf16"), [], torch.empty

    def empty(*shape, pin_memory, **settings):
        asked.append(pin_memory)
        return original(*shape, **settings)

    monkeypatch.setattr(torch, "empty", empty)
    staged = runtime._stage(TILES[::2])
    assert asked == [True]
    np.testing.assert_array_equal(staged.numpy(), TILES[::2])


@pytest.mark.parametrize(
    ("per_tile", "overhead", "free", "batch"),
    [(10, 0, 2_000, 128), (10, 300, 2_000, 32), (10, 0, 10**9, 512), (1_000, 0, 2_000, 1), (10**6, 0, 2_000, 1)],
)
def test_a_batch_fills_a_gpu_but_not_to_the_brim(monkeypatch, per_tile, overhead, free, batch):
    """Two batches are there at once; a fifth is left; overhead of the probe counts as if every eight tiles had it."""
    runtime, tried = Staged(small(), "bf16"), []

    def run(images):
        tried.append(images.shape)

    monkeypatch.setattr(runtime, "run", run)
    for name, value in {
        "synchronize": lambda _: None,
        "memory_allocated": lambda _: 7_000,
        "reset_peak_memory_stats": lambda _: None,
        "max_memory_allocated": lambda _: 7_000 + overhead + per_tile * tried[-1][0],
        "mem_get_info": lambda _: (2 * free, 10**12),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert runtime.batch_for((24, 20, 3)) == batch
    assert tried == [(1, 24, 20, 3), (8, 24, 20, 3)]
    assert runtime.batch_for((24, 20, 3)) == batch
    assert len(tried) == 2, "measured once"


def test_on_a_processor_nothing_is_measured():
    assert on_cpu(small()).batch_for((24, 20, 3)) == 64


def test_low_precision_on_gpus_is_autocast_and_fp32_switches_tf32_off(monkeypatch):
    asked = []

    def autocast(kind, dtype):
        asked.append((kind, dtype))
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    Staged(small(), "bf16")._arithmetic()
    assert asked == [("cuda", torch.bfloat16)]
    with Staged(small(), "fp32")._arithmetic():
        assert not torch.backends.cudnn.allow_tf32
    assert len(asked) == 1


def test_tf32_is_off_while_fp32_computes_and_back_afterwards():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.allow_tf32, matmul.allow_tf32 = True, True
        with torch_runtime._exact_fp32(torch.device("cuda")):
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
            assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


# -- the choice ---------------------------------------------------------------------------------------------


def test_torch_by_name_is_torch():
    runtime = make_runtime(
        small(), Normalise(), device="cpu", precision="bf16", runtime="torch", input_shape=(24, 20, 3), cache_key="x"
    )
    assert (runtime.name, runtime.device, runtime.precision, runtime.note) == ("torch", "cpu", "bf16", "")
    assert runtime.version.split("+")[0] == torch.__version__.split("+")[0]
    assert not runtime.concurrent


def test_the_choice_is_asked_for_what_was_passed(monkeypatch):
    asked = []

    def resolve(*wanted):
        asked.append(wanted)
        return Choice("torch", "cpu", "fp32")

    monkeypatch.setattr(runtime_module, "resolve_runtime", resolve)
    make_runtime(small(), Normalise(), device="auto", precision=None, input_shape=(24, 20, 3), cache_key="x")
    assert asked == [("auto", None, "auto")]
