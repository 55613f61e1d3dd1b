"""What the samples of a TIFF page mean: grey, RGB, palette, alpha, inverted, of few bits, or only channels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from microtome.errors import UnsupportedFormatError

Page = Any
"""A page (or light frame of one) of tifffile, which has no types of its own that say more."""

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _MASK, _SEPARATED, _YCBCR = 0, 1, 2, 3, 4, 5, 6
_GREY = (_MIN_IS_WHITE, _MIN_IS_BLACK, _MASK)
_JPEG = (7, 34892, 33007, 33003, 33005, 34712, 50001)  # compressions whose decoders give RGB for YCbCr
_ASSOCIATED, _STRAIGHT = 1, 2
_WHOLE_BITS = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Colour:
    """How stored samples become native channels.

    Attributes:
        names: Names of the samples of a pixel after conversion; one empty name for grey.
        dtype: dtype after conversion.
        stored_max: Largest stored value, for inversion; None where nothing is inverted.
        palette: 8-bit RGB by stored value, shape (n, 3); None without a palette.
        alpha: Index of the sample that is opacity; None without one.
        premultiplied: Whether colours are multiplied by opacity already.
    """

    names: tuple[str, ...]
    dtype: np.dtype[Any]
    stored_max: int | None = None
    palette: Shaped[np.ndarray, "n 3"] | None = None
    alpha: int | None = None
    premultiplied: bool = False

    def convert(self, stored: Shaped[np.ndarray, "h w s"]) -> Shaped[np.ndarray, "h w c"]:
        """Stored samples as native channels."""
        if self.palette is not None:
            return np.asarray(self.palette[np.minimum(stored[:, :, 0], len(self.palette) - 1)])
        pixels = stored.astype(self.dtype, copy=False)
        if self.stored_max is not None:
            pixels = (self.stored_max - pixels).astype(self.dtype)
        if self.alpha is not None:
            pixels = compose_on_white(pixels, alpha=self.alpha, premultiplied=self.premultiplied)
        return pixels


def compose_on_white(
    pixels: Shaped[np.ndarray, "h w s"], *, alpha: int, premultiplied: bool = False
) -> Shaped[np.ndarray, "h w c"]:
    """Compose unsigned integer pixels on white by their opacity, which is dropped.

    Args:
        pixels: Colours and opacity; opaque is the dtype's largest value.
        alpha: Index of the opacity.
        premultiplied: Whether colours are multiplied by opacity already.

    Returns:
        Colours, same dtype.
    """
    colours = pixels[:, :, :alpha]
    opacity = pixels[:, :, alpha : alpha + 1]
    full = int(np.iinfo(pixels.dtype).max)
    if int(opacity.min()) == full:
        return np.ascontiguousarray(colours)
    wide = colours.astype(np.uint64) * (full if premultiplied else opacity.astype(np.uint64))
    composed = (wide + full * (full - opacity.astype(np.uint64)) + full // 2) // full
    return np.asarray(np.minimum(composed, full).astype(pixels.dtype))


def page_colour(key: Page, path: Path, *, is_channel: bool) -> Colour:
    """Find out what a page's samples mean.

    Args:
        key: The page.
        path: The file, for the error sentence.
        is_channel: Whether the page is one channel of several or of a microscope; its palette then only says how
            to show it.

    Raises:
        UnsupportedFormatError: If they are colours of a space that is not converted here (CIE L*a*b*, LogLuv), or
            inverted floating point, or a palette of another shape.
    """
    photometric, samples, bits = int(key.photometric), int(key.samplesperpixel), int(key.bitspersample)
    dtype = np.dtype(key.dtype)
    native = dtype if bits in _WHOLE_BITS else np.dtype(np.uint16 if dtype.itemsize <= 2 else dtype)
    if photometric == _PALETTE and samples == 1 and key.colormap is not None:
        if np.ndim(key.colormap) != 2 or len(key.colormap) != 3:
            raise _unsupported(path, "a palette that is no table of red, green and blue")
        if not is_channel:
            return Colour(("R", "G", "B"), np.dtype(np.uint8), palette=_palette(key.colormap))
        return Colour(("",), native)
    if photometric in (_RGB, _YCBCR) and samples >= 3:
        if photometric == _YCBCR and int(key.compression) not in _JPEG:
            raise _unsupported(path, "YCbCr that is not JPEG")
        return _with_extras(("R", "G", "B"), native, key)
    if photometric == _SEPARATED:
        inks = ("C", "M", "Y", "K")
        return Colour(tuple(inks[i] if i < len(inks) else f"ink {i}" for i in range(samples)), native)
    if photometric not in (*_GREY, _RGB):
        raise _unsupported(path, f"colours of photometric interpretation {photometric}")
    if photometric == _MIN_IS_WHITE:
        if dtype.kind not in ("b", "u"):
            raise _unsupported(path, f"inverted {dtype} values")
        names = ("",) if samples == 1 else tuple(f"S{i}" for i in range(samples))
        return Colour(names, native, stored_max=2**bits - 1)
    return _with_extras(("",), native, key)


def _unsupported(path: Path, what: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(f"'{path}' holds {what}, which is not converted here. Save it as RGB.")


def _with_extras(colours: tuple[str, ...], dtype: np.dtype[Any], key: Page) -> Colour:
    """Colours followed by samples that are opacity or channels of their own."""
    n, extras = len(colours), [int(e) for e in key.extrasamples]
    samples = int(key.samplesperpixel)
    if samples == n:
        return Colour(colours, dtype)
    if samples == n + 1 and extras and extras[0] in (_ASSOCIATED, _STRAIGHT) and dtype.kind == "u":
        return Colour(colours, dtype, alpha=n, premultiplied=extras[0] == _ASSOCIATED)
    named = colours if n > 1 else ("S0",)
    return Colour((*named, *(f"S{i}" for i in range(n, samples))), dtype)


def _palette(colormap: np.ndarray) -> Shaped[np.ndarray, "n 3"]:
    """16-bit colours by value as 8-bit; files that wrote 8-bit values there are common, and taken as such."""
    colours = np.asarray(colormap).T
    shift = 8 if int(colours.max()) > 255 else 0
    return (colours >> shift).astype(np.uint8)
