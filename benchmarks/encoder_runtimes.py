"""Images per CPU-second of one network in each runtime and precision, as ratios to eager PyTorch in fp32.

Random weights, scaled so that activations stay in range; tiles are blocks of colour under noise, 224 px, 8 bit, of
which each runtime makes vectors from the pixels on. What the bare networks are given is the same. Rounds are
interleaved, so what else the machine does hits all of them. Drift is the least cosine similarity to fp32.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import timm
import torch
from harness import Job, Options, Report, interleaved, timed
from torch import nn

from microtome.encoders import openvino_runtime
from microtome.encoders.base import Card
from microtome.encoders.drift import measure_drift, random_tiles
from microtome.encoders.hardware import has_cpu_bf16, has_openvino, usable_cores
from microtome.encoders.preprocess import Preprocess
from microtome.encoders.runtime import Runtime, make_runtime

_NETWORKS = ("resnet18", "resnet50", "vit_small_patch16_224")
_TILE_PX = 224
_REFERENCE = "torch eager fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=list(_NETWORKS), help="names of timm")
    parser.add_argument("--batch", type=int, default=64, help="tiles per batch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, usable_cores()], help="numbers of threads to try")


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    report = Report("encoder_runtimes", options, __doc__ or "")
    arguments = options.extra
    tiles = random_tiles(16 if options.quick else arguments.batch, (_TILE_PX, _TILE_PX, 3))
    names = arguments.networks[:1] if options.quick else arguments.networks
    for threads in dict.fromkeys(arguments.threads):
        for name in names:
            jobs, drifts = make_jobs(name, scaled(name), plain_preprocess(), tiles, threads)
            samples = interleaved(jobs, options.rounds)
            report.rates(
                f"{name}, {threads} thread(s), batches of {len(tiles)}",
                {job: replace(sample, details={"drift": drifts[job]}) for job, sample in samples.items()},
                reference=_REFERENCE,
                unit="images",
                details={"min. cosine": "drift"},
            )
    report.write()


def make_jobs(
    name: str, network: nn.Module, preprocess: nn.Module, tiles: np.ndarray, threads: int
) -> tuple[dict[str, Job], dict[str, str]]:
    """One job for each bare way of torch and each runtime, all held to so many threads, and how far each drifts."""
    torch.set_num_threads(threads)
    openvino_runtime.usable_cores = lambda: threads  # type: ignore[assignment] - what the runtimes ask
    ways = {
        _REFERENCE: bare(network, preprocess, torch.float32, torch.contiguous_format),
        "torch eager fp32, channels last": bare(network, preprocess, torch.float32, torch.channels_last),
        "torch eager bf16, channels last": bare(network, preprocess, torch.bfloat16, torch.channels_last),
    }
    precisions = ("fp32", "bf16") if has_cpu_bf16() else ("fp32",)
    for runtime in ("torch", "openvino") if has_openvino() else ("torch",):
        for precision in precisions:
            made: Runtime = make_runtime(
                network,
                preprocess,
                device="cpu",
                precision=precision,
                runtime=runtime,
                input_shape=tiles.shape[1:],
                cache_key=f"benchmark {name}",
            )
            ways[f"microtome {runtime} {precision}"] = made.run
    few = tiles[:8]
    drifts = {way: f"{measure_drift(run, ways[_REFERENCE], few).min_cosine:.5f}" for way, run in ways.items()}
    return {way: timed(lambda run=run: run(tiles), n=len(tiles)) for way, run in ways.items()}, drifts


def bare(
    network: nn.Module, preprocess: nn.Module, dtype: torch.dtype, layout: torch.memory_format
) -> Callable[[np.ndarray], np.ndarray]:
    """What a person would write: the whole batch at once."""
    copy = deepcopy(network).to(dtype=dtype, memory_format=layout)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = preprocess(torch.from_numpy(images)).to(dtype=dtype, memory_format=layout)
            return copy(inputs).float().numpy()

    return run


def plain_preprocess() -> Preprocess:
    card = Card(
        name="plain",
        dim=1,
        input_px=_TILE_PX,
        tile_px=_TILE_PX,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return Preprocess(card, (_TILE_PX, _TILE_PX))


def scaled(name: str) -> nn.Module:
    """A network whose random weights keep activations in range, as trained ones do."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, pretrained=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, min(0.5, parameter[0].numel() ** -0.5))
    return network


if __name__ == "__main__":
    main()
