"""Images per second of published encoders, in each precision and runtime, beside plain timm in fp32.

The whole encoder from 8-bit tiles on, weights filled by rule: speed does not hang on their values. Plain timm is what
a person would write: the same network, eager, fp32, the whole batch at once, from normalised tensors. Drift is the
least cosine similarity to the encoder's own fp32 with torch; filled weights say less about it than trained ones. Rounds
are interleaved, so what else the machine does hits all ways alike.
"""

import argparse
import gc
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from harness import Job, Options, Report, interleaved, timed

from microtome.encoders.drift import measure_drift, random_tiles
from microtome.encoders.filled import fill_network
from microtome.encoders.hardware import has_cpu_bf16, has_openvino
from microtome.encoders.network import make_preprocess
from microtome.encoders.published import Published
from microtome.encoders.registry import find_published
from microtome.errors import ConfigError, ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from microtome.encoders.base import Encoder

_ENCODERS = ("resnet50", "ctranspath", "prostate-small", "phikon")
_QUICK = ("resnet50",)
_PLAIN = "plain timm fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoders", nargs="+", help=f"names ({' '.join(_ENCODERS)}); uni and larger take gigabytes")
    parser.add_argument("--batch", type=int, help="tiles per batch (32; on a GPU 256)")
    parser.add_argument("--device", help="cpu, cuda:0 (a GPU where there is one)")


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    arguments = options.extra
    device = arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    batch = arguments.batch or (4 if options.quick else 32 if device == "cpu" else 256)
    report = Report("encoder_zoo", options, __doc__ or "")
    for name in arguments.encoders or (_QUICK if options.quick else _ENCODERS):
        published = find_published(name, None)
        if not isinstance(published, Published):
            raise SystemExit(f"{name} is no network")
        tiles = random_tiles(batch, (published.card.tile_px,) * 2 + (published.channels,), np.dtype(published.dtype))
        jobs, drifts = make_jobs(published, tiles, device, quick=options.quick)
        samples = interleaved(jobs, options.rounds)
        report.rates(
            f"{name} ({published.card.parameters:g} M), batches of {batch} tiles on {where(device)}",
            {way: replace(sample, details={"drift": drifts.get(way, "")}) for way, sample in samples.items()},
            reference=_PLAIN,
            unit="images",
            details={"min. cosine": "drift"},
        )
        del jobs
        gc.collect()
    report.write()


def where(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} threads"


def make_jobs(
    published: Published, tiles: np.ndarray, device: str, *, quick: bool
) -> tuple[dict[str, Job], dict[str, str]]:
    """One job per way to run it, and how far each drifts from fp32."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    exact: Encoder | None = None
    for runtime, precision in wanted_ways(device, quick=quick):
        try:
            encoder = published.load(device=device, weights="none", precision=precision, runtime=runtime)
        except (ConfigError, ConversionError) as error:
            print(f"  {published.card.name} {runtime} {precision}: left out: {error}")
            continue
        exact = exact or encoder
        ways[f"microtome {runtime} {precision}"] = encoder.encode
    if exact is None:
        raise SystemExit(f"{published.card.name} does not run in fp32")
    few = tiles[:4]
    drifts = {way: f"{measure_drift(encode, exact.encode, few).min_cosine:.6f}" for way, encode in ways.items()}
    jobs = {_PLAIN: plain(published, tiles, device)}
    jobs |= {way: timed(lambda encode=encode: encode(tiles), n=len(tiles)) for way, encode in ways.items()}
    return jobs, drifts


def wanted_ways(device: str, *, quick: bool) -> list[tuple[str, str]]:
    """Runtimes and precisions, fp32 with torch first."""
    if device.startswith("cuda"):
        return [("torch", precision) for precision in ("fp32", "bf16", "fp16")]
    runtimes = ("torch", "openvino") if has_openvino() and not quick else ("torch",)
    return list(product(runtimes, ("fp32", "bf16") if has_cpu_bf16() else ("fp32",)))


def plain(published: Published, tiles: np.ndarray, device: str) -> Job:
    """The same network without any of this project's runtime; its input is made beforehand."""
    side = published.card.input_px or published.card.tile_px
    network = published.build()
    fill_network(network, (published.sees, side, side))
    network = network.to(device)
    inputs = make_preprocess(published, tiles.shape[1:3])(torch.from_numpy(tiles)).to(device)

    def run() -> None:
        with torch.inference_mode():
            network(inputs).cpu()

    return timed(run, n=len(tiles))


if __name__ == "__main__":
    main()
