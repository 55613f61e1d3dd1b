"""Networks run by PyTorch itself: fp32 is the reference, everything else is measured against it."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor, nn

from microtome.encoders.base import USUAL_BATCH
from microtome.encoders.hardware import runtime_version, usable_cores
from microtome.errors import ConfigError, EncoderError, EncoderOutputError

# Tiles that a CPU takes at once: activations of more fall out of its caches (ResNet18 bf16: 85 per CPU-second in
# sixteens, 65 in sixty-fours).
_CPU_TILES = 16
_PROBED, _MOST_TILES = 8, 512
_GPU_CALLS = 2  # batches on their way to a GPU at once: one computes while the other is copied into pinned memory
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TF32_OFF = threading.Lock()  # the switch belongs to the process


class TorchRuntime:
    """A network in eager PyTorch.

    On CPUs all of the network computes in the precision; on GPUs in autocast, which keeps norms and softmax in fp32.
    Preprocessing is fp32 always. A batch that does not fit into the GPU's memory is halved until it does, and later
    ones are cut as small at once.

    Args:
        network: Gives (n, d); it is not changed, and shares its tensors with the runtime where these need no change.
        preprocess: Gives the network's input from tiles.
        device: ``cpu``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        note: Why another runtime was not taken.
    """

    name = "torch"

    def __init__(
        self, network: nn.Module, preprocess: nn.Module, *, device: str, precision: str, note: str = ""
    ) -> None:
        self.device, self.precision, self.note = device, precision, note
        self.version = runtime_version("torch")
        self._device, self._dtype = torch.device(device), _DTYPES[precision]
        on_cpu = self._device.type == "cpu"
        self.concurrent = self._device.type == "cuda"
        self._weights_dtype = self._dtype if on_cpu else torch.float32
        self._channels_last = has_overlapping_convolutions(network)
        self._network = placed(network, self._device, self._weights_dtype, channels_last=self._channels_last)
        self._preprocess = placed(preprocess, self._device, torch.float32, channels_last=False)
        self._most: int | None = _CPU_TILES if on_cpu else None
        self._suited: dict[tuple[int, int, int], int] = {}
        self._measuring = threading.Lock()
        self._turns = threading.BoundedSemaphore(_GPU_CALLS) if self.concurrent else nullcontext()
        if on_cpu and torch.get_num_threads() > usable_cores():  # torch counts cores that a container may not use
            torch.set_num_threads(usable_cores())

    def run(self, images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
        """Compute the vectors of a batch; see :class:`microtome.encoders.runtime.Runtime`."""
        if not len(images):
            raise ValueError("A runtime needs at least one tile. Got an empty batch.")
        staged = self._stage(images)
        with self._turns, torch.inference_mode():
            features = torch.cat(self._forward_fitting(staged)).to("cpu", torch.float32)
        if features.ndim != 2 or len(features) != len(images):
            raise EncoderOutputError(
                f"The network gave {tuple(features.shape)} for {len(images)} tiles and not one vector per tile."
            )
        return features.numpy()

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """Tiles per batch: on a GPU as many as fit, found by running one tile and a few; else the usual number."""
        if self._device.type != "cuda":
            return USUAL_BATCH
        with self._measuring:
            if tile_shape not in self._suited:
                one, few = (self._peak_bytes((n, *tile_shape)) for n in (1, _PROBED))
                free, _ = torch.cuda.mem_get_info(self._device)
                self._suited[tile_shape] = batch_that_fits(one, few, free // _GPU_CALLS)
            return self._suited[tile_shape]

    def _peak_bytes(self, shape: tuple[int, ...]) -> int:
        """Memory of the GPU that a batch takes at its peak, beyond what is taken already."""
        images = np.zeros(shape, np.uint8 if shape[-1] == 3 else np.uint16)
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.run(images)
        return int(torch.cuda.max_memory_allocated(self._device)) - before

    def _stage(self, images: Shaped[np.ndarray, "n h w c"]) -> Shaped[Tensor, "n h w c"]:
        """The pixels in memory that the device copies from by itself; on CPUs where they are, if that can be."""
        if self._device.type == "cpu" and images.flags.c_contiguous and images.flags.writeable:
            return torch.from_numpy(images)
        # Pinned memory is given back to a pool and taken from it again only once the copy out of it is done.
        kind = torch.from_numpy(np.empty(0, images.dtype)).dtype
        staged = torch.empty(images.shape, dtype=kind, pin_memory=self._device.type == "cuda")
        np.copyto(staged.numpy(), images)
        return staged

    def _forward_fitting(self, staged: Shaped[Tensor, "n h w c"]) -> list[Tensor]:
        """The vectors of tiles in parts as large as fit into memory."""
        done: list[Tensor] = []
        waiting = list(torch.split(staged, self._most or len(staged)))
        while waiting:
            part = waiting[0]
            features = self._try_forward(part)
            if features is not None:
                done.append(features)
                del waiting[0]
                continue
            if len(part) == 1:
                raise EncoderError(
                    f"One tile of {part.shape[2]}×{part.shape[1]} px does not fit into the memory of {self.device} "
                    "with this network. Free memory there, or pass --device cpu."
                )
            self._most = min(self._most or len(part), (len(part) + 1) // 2)
            waiting[:1] = torch.split(part, self._most)
            _empty_cache(self._device)
        return done

    def _try_forward(self, part: Shaped[Tensor, "n h w c"]) -> Tensor | None:
        """The vectors; None where memory ran out, with everything that was taken given back."""
        try:
            return self._forward(part)
        except torch.OutOfMemoryError:
            return None
        except RuntimeError as error:
            if self.precision == "fp32":
                raise
            raise ConfigError(
                f"The network cannot compute in {self.precision} on {self.device}: {_first_line(error)} Pass "
                "--precision fp32."
            ) from error

    def _forward(self, part: Shaped[Tensor, "n h w c"]) -> Tensor:
        pixels = part.to(self._device, non_blocking=True)
        with _exact_fp32(self._device):
            inputs = self._preprocess(pixels)
        layout = torch.channels_last if self._channels_last and inputs.ndim == 4 else torch.preserve_format
        with self._arithmetic():
            features: Tensor = self._network(inputs.to(self._weights_dtype, memory_format=layout))
        return features

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return _exact_fp32(self._device)
        if self._device.type == "cpu":  # all of the network is in that precision
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


def batch_that_fits(one: int, few: int, free: int) -> int:
    """Tiles of which a batch fits into memory with a fifth to spare: a power of two, at most 512.

    Args:
        one: Bytes that one tile takes at the peak.
        few: Bytes that eight tiles take.
        free: Bytes that there are for a batch.

    Example:
        >>> batch_that_fits(100, 800, 20_000)
        128
    """
    per_tile = max(1, (few - one) / (_PROBED - 1), few / _PROBED)  # kernels may round up: never the kinder guess
    fits = int(0.8 * free / per_tile)
    return min(_MOST_TILES, 1 << max(0, fits.bit_length() - 1)) if fits else 1


def has_overlapping_convolutions(network: nn.Module) -> bool:
    """Whether a network convolves beyond cutting an image into patches, and so gains by the channels-last layout."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(module.kernel_size != module.stride and module.kernel_size != (1, 1) for module in convolutions)


def placed(network: nn.Module, device: torch.device, dtype: torch.dtype, *, channels_last: bool) -> nn.Module:
    """A copy of a network for inference, elsewhere or in another type.

    Args:
        network: Stays as it is.
        device: Of the copy.
        dtype: Of the copy's floating-point tensors.
        channels_last: Whether images and kernels are to lie channels last in memory.

    Returns:
        The copy; tensors that need no change are shared with the original.
    """

    def place(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        layout = torch.channels_last if channels_last and tensor.ndim == 4 else torch.preserve_format
        return tensor.detach().to(device, kind, memory_format=layout)

    memo: dict[int, object] = {id(p): nn.Parameter(place(p), requires_grad=False) for p in network.parameters()}
    memo |= {id(buffer): place(buffer) for buffer in network.buffers()}
    return deepcopy(network, memo).eval()


@contextmanager
def _exact_fp32(device: torch.device) -> Iterator[None]:
    """Make sure that fp32 is fp32: no TF32, no bf16 in its name, the same kernels each time."""
    if device.type != "cuda":
        if torch.get_float32_matmul_precision() != "highest":
            raise ConfigError(
                "torch.set_float32_matmul_precision has loosened fp32 in this process, and fp32 is the reference. Set "
                "it to 'highest'."
            )
        yield
        return
    with _TF32_OFF:
        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        finally:
            matmul.allow_tf32 = before


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if line.endswith(".") else line + "."
