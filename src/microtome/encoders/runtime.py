"""What runs an encoder's network: one interface, a runtime per library."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped
from torch import nn

from microtome.encoders.hardware import Choice, Wanted, resolve_runtime
from microtome.errors import ConversionError

__all__ = ["Choice", "Runtime", "Wanted", "make_runtime", "resolve_runtime"]


@runtime_checkable
class Runtime(Protocol):
    """A network with its preprocessing, ready to run. Threads may share it.

    Attributes:
        name: ``torch`` or ``openvino``.
        version: Of that library.
        device: Where it runs.
        precision: What the network computes in; its preprocessing is always fp32.
        concurrent: Whether it gains by being called from several threads.
        note: Why it is not the runtime that ``auto`` would have preferred; empty where it is.
    """

    name: str
    version: str
    device: str
    precision: str
    concurrent: bool
    note: str

    def run(self, images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
        """Compute the vectors of a batch.

        Args:
            images: At least one tile, of the size that the runtime was made for.

        Returns:
            One vector per tile. Whether they are finite is the caller's to check.

        Raises:
            ConfigError: If the network cannot compute in this precision.
            EncoderError: If not even one tile fits into the device's memory.
            EncoderOutputError: If what comes out is not one vector per tile.
        """
        ...

    def batch_for(self, tile_shape: tuple[int, int, int]) -> int:
        """Tiles per batch that suit the device; arguments as in :meth:`microtome.encoders.base.Encoder.batch_for`."""
        ...


def make_runtime(
    network: nn.Module,
    preprocess: nn.Module,
    *,
    device: str = "auto",
    precision: str | None = None,
    runtime: str = "auto",
    input_shape: tuple[int, int, int],
    cache_key: str,
) -> Runtime:
    """Make a network ready to run.

    Where ``auto`` would take OpenVINO and that cannot convert the network, or computes something else than torch
    does, torch takes its place and the runtime's ``note`` says why. A runtime asked for by name is had or refused:
    pass the name of the first one when making others for the same recipe.

    Args:
        network: Gives (n, d) from what the preprocessing gives. It is not changed.
        preprocess: Gives the network's input, float32, from (n, h, w, c) of its ``dtype``, uint8 if it names none.
        device: As for :func:`resolve_runtime`.
        precision: Likewise.
        runtime: Likewise.
        input_shape: Height, width and channels of the tiles.
        cache_key: Stands for the network, its weights and the preprocessing: what is compiled is kept under it.

    Raises:
        ConfigError: If device, precision and runtime cannot be had together.
        ConversionError: If OpenVINO was asked for by name and cannot run the network as torch does.
    """
    choice = resolve_runtime(device, precision, runtime)
    note = ""
    if choice.runtime == "openvino":
        from microtome.encoders.openvino_runtime import OpenVinoRuntime

        try:
            return OpenVinoRuntime(
                network, preprocess, precision=choice.precision, input_shape=input_shape, cache_key=cache_key
            )
        except ConversionError as error:
            if runtime != "auto":
                raise
            note = str(error)
    from microtome.encoders.torch_runtime import TorchRuntime

    return TorchRuntime(network, preprocess, device=choice.device, precision=choice.precision, note=note)
