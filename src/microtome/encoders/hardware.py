"""What the machine can compute in, and which runtime suits it. Nothing is built here."""

import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from microtome.errors import ConfigError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")
RUNTIMES = ("torch", "openvino")
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_AMPERE = (8, 0)  # the first CUDA capability with bf16 matrix units


class Wanted(NamedTuple):
    """How a network is wanted to run, in the order that :func:`resolve_runtime` takes.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``bf16``, ``fp16``; None or ``auto`` for what is best on the device.
        runtime: ``auto``, ``torch`` or ``openvino``.
    """

    device: str = "auto"
    precision: str | None = None
    runtime: str = "auto"


class Choice(NamedTuple):
    """How a network will be run.

    Attributes:
        runtime: ``torch`` or ``openvino``.
        device: ``cpu``, ``cuda:0``, ``mps``, ...
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    runtime: str
    device: str
    precision: str


def resolve_runtime(device: str = "auto", precision: str | None = None, runtime: str = "auto") -> Choice:
    """Say how a network will be run, before anything is built.

    ``auto`` takes a GPU where there is one; bf16 where the hardware multiplies in it (CPUs with AMX or AVX512-BF16,
    GPUs from capability 8.0 on) and fp32 elsewhere; OpenVINO for bf16 on CPUs where it is installed, and torch for
    everything else.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``bf16``, ``fp16``; None or ``auto`` for what is best on the device.
        runtime: ``auto``, ``torch`` or ``openvino``.

    Returns:
        The choice, all of it by name.

    Raises:
        ConfigError: If there is no such device, precision or runtime here, or they do not go together.

    Example:
        >>> resolve_runtime("cpu", "fp32")
        Choice(runtime='torch', device='cpu', precision='fp32')
    """
    if precision not in (None, "auto", *PRECISIONS):
        raise ConfigError(f"There is no precision {precision!r}. There are: {', '.join(PRECISIONS)}.")
    if runtime not in ("auto", *RUNTIMES):
        raise ConfigError(f"There is no runtime {runtime!r}. There are: {', '.join(RUNTIMES)}.")
    found = resolve_device(device)
    fast = _has_bf16(found)
    chosen = ("bf16" if fast else "fp32") if precision in (None, "auto") else str(precision)
    if found == "cpu" and chosen == "fp16":
        raise ConfigError("fp16 is for GPUs, and the network is to run on the CPU. Pass --precision bf16 or fp32.")
    if runtime == "openvino":
        _check_openvino(found, chosen, fast=fast)
    if runtime == "auto":
        runtime = "openvino" if found == "cpu" and chosen == "bf16" and fast and has_openvino() else "torch"
    return Choice(runtime, found, chosen)


def resolve_device(device: str) -> str:
    """Name the device that ``auto`` or ``cuda`` stands for, having made sure that it is there.

    Returns:
        ``cpu``, ``mps``, or ``cuda:N``.

    Raises:
        ConfigError: If there is no such device here.
    """
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        return f"cuda:{torch.cuda.current_device()}" if n_gpus else "mps" if has_mps else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise ConfigError(f"There is no device {device!r}. There are: auto, cpu, cuda, cuda:0 and so on, mps.")
    if kind == "mps" and not has_mps:
        raise ConfigError("Device 'mps' is not there: this machine, or its PyTorch, has no Metal. Pass --device cpu.")
    if kind == "cuda":
        if not n_gpus:
            raise ConfigError(
                f"Device {device!r} is not there: PyTorch {torch.__version__} finds no GPU. Install its GPU build and "
                "the driver, or pass --device cpu."
            )
        index = int(number) if colon else torch.cuda.current_device()
        if index >= n_gpus:
            raise ConfigError(f"Device {device!r} is not there: the GPUs are cuda:0 to cuda:{n_gpus - 1}.")
        return f"cuda:{index}"
    return kind


def runtime_version(runtime: str) -> str:
    """Version of the library behind a runtime, for the recipe.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return metadata.version(runtime)
    except metadata.PackageNotFoundError:
        raise ConfigError(_HOW_TO_INSTALL) from None


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return find_spec("openvino") is not None


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of this CPU as Linux names them; empty on other systems."""
    try:
        return read_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def read_flags(cpuinfo: str) -> frozenset[str]:
    r"""Instruction sets that every core has, from the text of ``/proc/cpuinfo``.

    Example:
        >>> sorted(read_flags("model name : X\nflags : avx2 amx_bf16\n"))
        ['amx_bf16', 'avx2']
    """
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    cores = [frozenset(value.split()) for name, _, value in lines if name.strip() == "flags"]
    return frozenset.intersection(*cores) if cores else frozenset()


def has_cpu_bf16() -> bool:
    """Whether this CPU multiplies in bf16: AMX or AVX512-BF16."""
    return bool(_BF16_FLAGS & cpu_flags())


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the container's share of processor time.

    Returns:
        At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota = read_quota(_QUOTA.read_text(encoding="ascii"))
    except OSError:
        quota = None
    return max(1, cores if quota is None else min(cores, round(quota)))


def read_quota(cpu_max: str) -> float | None:
    """Cores that a container is held to, from the text of its ``cpu.max``; None for no limit.

    Example:
        >>> read_quota("150000 100000")
        1.5
    """
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _has_bf16(device: str) -> bool:
    if device == "cpu":
        return has_cpu_bf16()
    if device == "mps":
        return False
    import torch

    return _has_gpu_bf16(torch.device(device))


def _has_gpu_bf16(device: "torch.device") -> bool:
    import torch

    return torch.cuda.get_device_capability(device) >= _AMPERE


_HOW_TO_INSTALL = "OpenVINO is not installed. Run pip install 'microtome[cpu]', or pass --runtime torch."


def _check_openvino(device: str, precision: str, *, fast: bool) -> None:
    if not has_openvino():
        raise ConfigError(_HOW_TO_INSTALL)
    if device != "cpu":
        raise ConfigError(f"OpenVINO is for the CPU, and the device is {device}. Pass --device cpu or --runtime torch.")
    if precision == "bf16" and not fast:
        raise ConfigError(
            "OpenVINO needs AMX or AVX512-BF16 for bf16, and this CPU has neither. Pass --precision fp32, or --runtime "
            "torch for a slow bf16."
        )
