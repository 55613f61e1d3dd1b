"""Networks compiled by OpenVINO for the CPU: the fastest bf16 there.

Preprocessing and network are two graphs: in one, the hint to compute in bf16 would hold for both, and resizing to
whole grey levels needs fp32.
"""

import logging
import platform
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor, nn

from microtome.encoders.base import USUAL_BATCH
from microtome.encoders.compiled_cache import cache_path, read_compiled, write_compiled
from microtome.encoders.drift import MIN_COSINE, random_tiles
from microtome.encoders.hardware import cpu_flags, runtime_version, usable_cores
from microtome.encoders.torch_runtime import TorchRuntime, placed
from microtome.errors import ConversionError, EncoderOutputError

_TILES = 16  # taken at once: more falls out of the CPU's caches
_CHECKED_TILES = 3  # compared with torch after a conversion
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_LARGEST_ERROR = {"fp32": 1e-3, "bf16": (2 * (1 - MIN_COSINE)) ** 0.5}  # of a vector's length
_SHOWN = 300  # characters of another library's error
_CONVERTING = threading.Lock()  # warnings and logging are the process's own


class OpenVinoRuntime:
    """A network compiled by OpenVINO, or taken from the cache where it was compiled before.

    What is newly compiled is compared with fp32 in torch on a few tiles, so that a graph that lost its meaning in
    the conversion is never used.

    Args:
        network: Gives (n, d); it is not changed.
        preprocess: Gives the network's input from tiles of its ``dtype``, uint8 if it names none.
        precision: ``fp32`` or ``bf16``.
        input_shape: Height, width and channels of the tiles.
        cache_key: Stands for network, weights and preprocessing.

    Raises:
        ConversionError: If OpenVINO cannot take the network, or computes something else than torch does.
    """

    name = "openvino"
    device = "cpu"
    concurrent = False  # it takes all cores itself
    note = ""

    def __init__(
        self,
        network: nn.Module,
        preprocess: nn.Module,
        *,
        precision: str,
        input_shape: tuple[int, int, int],
        cache_key: str,
    ) -> None:
        self.precision, self.version = precision, runtime_version("openvino")
        self._lock = threading.Lock()
        kind = np.dtype(getattr(preprocess, "dtype", np.uint8))
        self._takes = np.dtype(np.int32) if kind == np.uint16 else kind  # its exporter knows no uint16
        tiles = random_tiles(_CHECKED_TILES, input_shape, kind)
        key = compilation_key(network, preprocess, input_shape, cache_key)

        def raw() -> Tensor:
            return torch.from_numpy(tiles.astype(self._takes))

        def prepared() -> Tensor:
            inputs: Tensor = _for_export(preprocess)(raw())
            return inputs

        with _CONVERTING, torch.no_grad():
            self._graphs = (
                _Graph(preprocess, raw, "fp32", {**key, "stage": "preprocess"}),
                _Graph(network, prepared, precision, {**key, "stage": "network"}),
            )
            if any(graph.is_new for graph in self._graphs):
                self._check(TorchRuntime(network, preprocess, device="cpu", precision="fp32"), tiles)
            for graph in self._graphs:
                graph.keep()

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """The usual number: a processor gains nothing by more."""
        return USUAL_BATCH

    def run(self, images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
        """Compute the vectors of a batch; see :class:`microtome.encoders.runtime.Runtime`."""
        if not len(images):
            raise ValueError("A runtime needs at least one tile. Got an empty batch.")
        with self._lock:
            features = np.concatenate([self._infer(images[i : i + _TILES]) for i in range(0, len(images), _TILES)])
        if features.ndim != 2 or len(features) != len(images):
            raise EncoderOutputError(
                f"The network gave {features.shape} for {len(images)} tiles and not one vector per tile."
            )
        return features

    def _infer(self, images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "..."]:
        values: Any = images.astype(self._takes, copy=False)
        for graph in self._graphs:
            values = graph.infer(values)
        features: Float32[np.ndarray, "..."] = np.array(values, np.float32)  # its own memory is used again
        return features

    def _check(self, reference: TorchRuntime, tiles: Shaped[np.ndarray, "n h w c"]) -> None:
        """Compare with torch: all tiles at once, and one alone, since a graph may have learnt the batch's size."""
        expected = reference.run(tiles)
        try:
            found = np.concatenate([self.run(tiles), self.run(tiles[:1])])
        except (RuntimeError, ValueError) as error:
            raise _refusal("run", error) from error
        if found.shape[1:] != expected.shape[1:] or not np.isfinite(found).all():
            raise ConversionError(f"OpenVINO gives {found.shape[1:]} or NaN where torch gives {expected.shape[1:]}.")
        expected = np.concatenate([expected, expected[:1]])
        distance = np.linalg.norm(found - expected, axis=1)
        limit = _LARGEST_ERROR[self.precision] * np.linalg.norm(expected, axis=1)
        if not (distance <= limit).all():
            raise ConversionError(
                f"OpenVINO computes this network in {self.precision} with errors up to {float(distance.max()):.3g}; "
                f"the limit is {float(limit.min()):.3g}. Pass --runtime torch, or --precision fp32."
            )


def compilation_key(
    network: nn.Module, preprocess: nn.Module, input_shape: tuple[int, int, int], cache_key: str
) -> dict[str, object]:
    """Everything that decides what is compiled, but for the stage and its precision.

    Args:
        network: Its modules count; that its weights are in ``cache_key`` is the caller's to see to.
        preprocess: Its modules and its buffers count.
        input_shape: Height, width and channels of the tiles.
        cache_key: As for :class:`OpenVinoRuntime`.
    """
    return {
        "cache_key": cache_key,
        "modules": [str(network), str(preprocess)],
        "buffers": [buffer.numpy(force=True) for buffer in preprocess.buffers()],
        "versions": [runtime_version("openvino"), torch.__version__],
        "cpu": [platform.machine(), *sorted(cpu_flags())],
        "input_shape": input_shape,
    }


class _Graph:
    """One compiled graph with a request to run it, from the cache or new."""

    def __init__(
        self, module: nn.Module, make_example: Callable[[], Tensor], precision: str, key: dict[str, object]
    ) -> None:
        self._path = cache_path("openvino", {**key, "precision": precision})
        self._compiled = _import_compiled(read_compiled(self._path), precision)
        self.is_new = self._compiled is None
        if self._compiled is None:
            self._compiled = _compile(_for_export(module), make_example(), precision)
        self._request = self._compiled.create_infer_request()

    def keep(self) -> None:
        """Put it into the cache if it is new."""
        if self.is_new:
            write_compiled(self._path, bytes(self._compiled.export_model().getbuffer()))

    def infer(self, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """What comes out, in memory that the next call uses again."""
        found: np.ndarray = self._request.infer({0: values}, share_inputs=True, share_outputs=True)[0]
        return found


def _compile(module: nn.Module, example: Tensor, precision: str) -> Any:  # noqa: ANN401 - OpenVINO is an extra
    """Export a module for any number of images and compile it.

    Raises:
        ConversionError: If that cannot be done.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    try:
        with _quietly():
            many = ({0: torch.export.Dim("n")},)
            program = torch.export.export(module, (example,), dynamic_shapes=many, strict=False)
            # Not openvino.convert_model: it does just this, and reports its use over the network.
            decoder = TorchFXPythonDecoder.from_exported_program(program)  # must outlive the conversion
            front = FrontEndManager().load_by_framework("pytorch")
            model = front.convert(front.load(decoder))
            model.reshape([-1, *example.shape[1:]])
        compiled = openvino.Core().compile_model(model, "CPU", _settings(precision))
    except Exception as error:  # exporting runs the network's own code
        raise _refusal("convert", error) from error
    if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != _HINTS[precision]:
        raise ConversionError(f"OpenVINO does not compute in {precision} on this CPU. Pass --precision fp32.")
    return compiled


def _import_compiled(blob: bytes | None, precision: str) -> Any:  # noqa: ANN401 - OpenVINO is an extra
    """A compiled graph from its bytes; None without bytes, or where this OpenVINO does not take them."""
    import openvino

    if blob is None:
        return None
    try:
        return openvino.Core().import_model(BytesIO(blob), "CPU", _settings(precision))
    except RuntimeError:
        return None


def _settings(precision: str) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": usable_cores(),
        "NUM_STREAMS": 1,
    }


def _for_export(module: nn.Module) -> nn.Module:
    return placed(module, torch.device("cpu"), torch.float32, channels_last=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the deprecations and the log lines of libraries that talk to each other."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refusal(verb: str, error: BaseException) -> ConversionError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConversionError(f"OpenVINO cannot {verb} this network: {reason[:_SHOWN]}. Pass --runtime torch.")
