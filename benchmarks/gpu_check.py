"""To be run by a person on a machine with a GPU: what the tests cannot try without one.

    python benchmarks/gpu_check.py [--device cuda:0] [--networks resnet18 vit_base_patch16_224] [--batch 256]

It prints images per second in each precision, what pinned staging memory is worth, what overlapping two batches is
worth, the drift from fp32 on the CPU, and whether a batch that does not fit into memory is halved. It ends with 1 if
something is not as it must be.
"""

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from encoder_runtimes import plain_preprocess, scaled
from torch import nn

from microtome.encoders.drift import MIN_COSINE, measure_drift, random_tiles
from microtome.encoders.hardware import resolve_runtime
from microtome.encoders.torch_runtime import TorchRuntime
from microtome.errors import ConfigError

_TILE_PX = 224
_SECONDS = 3.0  # of measuring, each
_SPARE_BYTES = 512 * 2**20  # left free where memory is to run out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "vit_base_patch16_224"], help="names of timm")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    try:
        chosen = resolve_runtime(options.device)
    except ConfigError as error:
        print(error)
        return 1
    device = torch.device(chosen.device)
    if device.type != "cuda":
        print(f"{options.device} is no NVIDIA or AMD GPU: there is nothing to check.")
        return 1
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; auto takes {chosen.precision}")
    tiles = random_tiles(options.batch, (_TILE_PX, _TILE_PX, 3))
    outcomes = [check_network(name, chosen.device, tiles) for name in options.networks]
    outcomes.append(check_memory(chosen.device, tiles))
    print("all as it must be" if all(outcomes) else "SOMETHING IS WRONG: see above")
    return 0 if all(outcomes) else 1


def check_network(name: str, device: str, tiles: np.ndarray) -> bool:
    """Throughput and drift in each precision."""
    network, preprocess = scaled(name), plain_preprocess()
    reference = TorchRuntime(network, preprocess, device="cpu", precision="fp32")
    good = True
    print(f"\n{name}, batches of {len(tiles)}")
    for precision in ("fp32", "bf16", "fp16"):
        runtime = TorchRuntime(network, preprocess, device=device, precision=precision)
        plain = pageable(network, preprocess, device, precision)
        drift = measure_drift(runtime.run, reference.run, tiles[:16]).min_cosine
        same = np.array_equal(runtime.run(tiles), runtime.run(tiles))
        limit = 1 - 1e-5 if precision == "fp32" else MIN_COSINE
        fine = drift >= limit and (same or precision != "fp32")
        good = good and fine
        rates = {
            "pinned": rate(partial(runtime.run, tiles), len(tiles)),
            "two at once": rate_of_two(runtime, tiles),
            "not pinned": rate(partial(plain.run, tiles), len(tiles)),
        }
        said = ", ".join(f"{way} {images:,.0f}/s" for way, images in rates.items())
        print(f"  {precision}: {said}; min. cosine {drift:.6f}, twice the same: {same}{'' if fine else '  <-- WRONG'}")
    return good


def check_memory(device: str, tiles: np.ndarray) -> bool:
    """A batch beyond the GPU's memory must be halved and give what small batches give."""
    runtime = TorchRuntime(scaled("resnet18"), plain_preprocess(), device=device, precision="fp32")
    expected = np.concatenate([runtime.run(tiles[i : i + 8]) for i in range(0, len(tiles), 8)])
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    hold = torch.empty(max(0, free - _SPARE_BYTES), dtype=torch.uint8, device=device)
    found = runtime.run(tiles)
    del hold
    torch.cuda.empty_cache()
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    halved = runtime._most is not None
    fine = error < 1e-4
    print(f"\nwith {_SPARE_BYTES / 2**20:.0f} MiB free: batches of {runtime._most or len(tiles)}, error {error:.1e}")
    if not halved:
        print("  memory did not run out; pass a larger --batch to see it halved")
    return fine


def pageable(network: nn.Module, preprocess: nn.Module, device: str, precision: str) -> TorchRuntime:
    """A runtime that copies from ordinary memory."""
    runtime = TorchRuntime(network, preprocess, device=device, precision=precision)
    runtime._stage = torch.from_numpy  # type: ignore[method-assign] - what is compared
    return runtime


def rate(job: Callable[[], object], n: int) -> float:
    """Images per second, warm."""
    for _ in range(3):
        job()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        job()
        done += n
    return done / (time.perf_counter() - began)


def rate_of_two(runtime: TorchRuntime, tiles: np.ndarray) -> float:
    """Images per second from two threads, as the pipeline calls it."""
    with ThreadPoolExecutor(2) as pool:
        return rate(lambda: list(pool.map(runtime.run, (tiles, tiles))), 2 * len(tiles))


if __name__ == "__main__":
    sys.exit(main())
