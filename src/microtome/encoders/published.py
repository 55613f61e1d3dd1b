"""An encoder said as data: its card, how its network is built, how its files name things.

Needs no torch until it is loaded, so that a family of cards is quick to import.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from microtome.encoders.base import Card, Encoder

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published encoder.

    Attributes:
        card: What is known about it.
        build: Makes the network without weights, a ``torch.nn.Module`` from images (n, c, h, w) to (n, dim), its
            pooling included; :func:`timm_network` says networks of timm. A function, so that torch is imported when
            it is called and not before.
        layouts: Gives the layouts in which its file is published, each a
            :class:`microtome.encoders.key_maps.KeyMap`; the first that recognises a file is taken. None where files
            have the network's own names; wrappers (``{"state_dict": ...}``) and prefixes (``module.``, ``backbone.``)
            are then found by looking.
        head: Names of a classifier that such a file may have and the network does without, ``fc.weight``.
        adapt: For networks that have rules of their own for older files: takes tensors without their prefix and the
            network, returns the network's.
        parts: For networks published as several files: name of the file and of the submodule that it fills, and what
            gives its layouts. Weights are then a folder that holds these files.
        settle: For layouts that say something no tensor says (an epsilon): takes the network and the name of the
            file's layout, and sets it.
        dtype: Of the tiles that it takes.
        channels: Of the tiles that it takes.
        sees: Channels of what the network sees.
        square_only: Whether oblong tiles are refused, as the card cannot say what the published transform does to them.
        norm: Whether tiles are normalised by the card's mean and standard deviation, or by those of their slide.
        preprocess: Takes the card and the tiles' height and width, makes what stands before the network: a module from
            (n, h, w, c) of the tiles' dtype to float32 (n, c, H, W). None for the
            :class:`microtome.encoders.preprocess.Preprocess` that the card describes.
    """

    card: Card
    build: Callable[[], Any]
    layouts: Callable[[], Sequence[Any]] | None = None
    head: frozenset[str] = frozenset()
    adapt: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None
    parts: tuple[tuple[str, str, Callable[[], Sequence[Any]]], ...] = ()
    settle: Callable[[Any, str], None] | None = None
    dtype: str = "uint8"
    channels: int = 3
    sees: int = 3
    square_only: bool = False
    norm: Literal["card", "slide"] = "card"
    preprocess: Callable[[Card, tuple[int, int]], Any] | None = None

    def load(self, *, device: str, weights: str | Path | None, precision: str | None, runtime: str = "auto") -> Encoder:
        """Load it.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``mps``.
            weights: A file; ``"none"`` to fill the network by rule; None for the published weights.
            precision: ``fp32``, ``bf16``, ``fp16``; None or ``auto`` for what is best on the device.
            runtime: ``auto``, ``torch`` or ``openvino``.

        Raises:
            ConfigError: If the encoder cannot run with these settings.
            WeightsError: If the weights cannot be had, read or made to fit.
        """
        from microtome.encoders.hardware import Wanted

        wanted = Wanted(device, precision, runtime)
        if self.norm == "slide":
            from microtome.encoders.slide_norm import load_slide_norm

            return load_slide_norm(self, wanted, weights=weights)
        from microtome.encoders.network import load_published

        return load_published(self, wanted, weights=weights)


@dataclass(frozen=True)
class TimmNetwork:
    """Builds a network of timm by name, its classifier left out; see :func:`timm_network`."""

    architecture: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> "nn.Module":
        """The network, without weights, ready to evaluate."""
        import timm

        arguments = dict(self.arguments)
        if isinstance(arguments.get("mlp_layer"), str):
            arguments["mlp_layer"] = getattr(timm.layers, arguments["mlp_layer"])
        network: nn.Module = timm.create_model(self.architecture, pretrained=False, **{"num_classes": 0, **arguments})
        return network.eval().requires_grad_(requires_grad=False)


def timm_network(architecture: str, **arguments: object) -> TimmNetwork:
    """Say a network of timm as data.

    Args:
        architecture: timm's name of it.
        arguments: Of its constructor; layers by name: ``mlp_layer="SwiGLUPacked"``, ``act_layer="silu"``.

    Example:
        >>> timm_network("vit_large_patch16_224", init_values=1e-5).architecture
        'vit_large_patch16_224'
    """
    return TimmNetwork(architecture, tuple(sorted(arguments.items())))


def by_name(*encoders: Published) -> dict[str, Published]:
    """The ``ENCODERS`` of a family's module."""
    return {encoder.card.name: encoder for encoder in encoders}
