"""How 16-bit or many-channel pixels are seen as 8-bit RGB: which channels, and which range of values."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from microtome.errors import ChannelError, ConfigError

_DISPLAY_COLOURS = np.array(  # up to six channels, as fluorescence viewers colour them
    [[0.2, 0.4, 1.0], [0.1, 1.0, 0.1], [1.0, 0.15, 0.1], [1.0, 0.9, 0.1], [0.1, 0.9, 0.9], [1.0, 0.2, 1.0]]
)


@dataclass(frozen=True, slots=True)
class View:
    """One or three channels (indices) seen as grey or RGB; values from ``low`` to ``high`` become 0..255."""

    channels: tuple[int, ...]
    low: float
    high: float

    def __post_init__(self) -> None:
        if len(self.channels) not in (1, 3):
            raise ConfigError(f"channels must name one or three channels. Got {len(self.channels)}.")
        if not self.high > self.low:
            raise ConfigError(f"window must rise. Got {self.low:g} to {self.high:g}.")

    @property
    def recipe(self) -> dict[str, object]:
        """What decides the pixels, for a digest."""
        return {"view_channels": list(self.channels), "view_window": [self.low, self.high]}

    def apply(self, pixels: Shaped[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
        """Native pixels as 8-bit RGB."""
        return self.apply_window(pixels[:, :, list(self.channels)])

    def apply_window(self, chosen: Shaped[np.ndarray, "h w n"]) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of :attr:`channels` alone, in their order, as 8-bit RGB."""
        if chosen.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            scaled = (chosen.astype(np.float32) - self.low) * (255.0 / (self.high - self.low))
            chosen = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return np.repeat(chosen, 3, axis=2) if len(self.channels) == 1 else chosen


def make_view(
    names: tuple[str, ...],
    dtype: np.dtype[np.generic],
    channels: tuple[str | int, ...],
    window: tuple[float, float] | None,
) -> View:
    """Resolve channel names or indices against a slide's own.

    Raises:
        ChannelError: If a channel is unknown, or the data is not 8-bit and no window is given.
    """
    indices = tuple(_channel_index(names, channel) for channel in channels)
    if window is None:
        if dtype != np.uint8:
            raise ChannelError(
                f"The slide's pixels are {dtype}. Pass window=(low, high) (--window LOW,HIGH), the values that become "
                "0 and 255."
            )
        window = (0.0, 255.0)
    return View(indices, float(window[0]), float(window[1]))


def _channel_index(names: tuple[str, ...], channel: str | int) -> int:
    """A whole number is an index; text is a name, or else an index in digits."""
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    digits = str(channel)
    if digits.isdecimal() and int(digits) < len(names):
        return int(digits)
    shown = ", ".join(names)
    raise ChannelError(
        f"There is no channel {channel!r}. The slide has {shown[:300]}{'...' if len(shown) > 300 else ''} "
        f"(0 to {len(names) - 1})."
    )


def display_image(pixels: Shaped[np.ndarray, "h w c"], *, rgb: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Stretch and colour many channels for eyes only; up to six channels are shown.

    Args:
        pixels: Native pixels of any real dtype.
        rgb: Whether they are red, green and blue, which are stretched alike so that white stays white.
    """
    if rgb:
        low, high = np.percentile(pixels, 1.0), np.percentile(pixels, 99.8)
        stretched = np.clip((pixels.astype(np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0)
        return _bytes(stretched)
    shown = pixels[:, :, : len(_DISPLAY_COLOURS)].astype(np.float64)
    low = np.percentile(shown, 1.0, axis=(0, 1))
    high = np.percentile(shown, 99.8, axis=(0, 1))
    stretched = np.clip((shown - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    if shown.shape[2] == 1:
        return np.repeat(_bytes(stretched), 3, axis=2)
    mixed = stretched @ _DISPLAY_COLOURS[: shown.shape[2]]
    return _bytes(np.clip(mixed, 0.0, 1.0))


def _bytes(shares: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.rint(shares * 255).astype(np.uint8)
    return out
