"""Stimulated Raman patches: small TIFF files of two raw 16-bit channels, one file per patch."""

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt16

from microtome.errors import ChannelError, CorruptSlideError, EmptyFileError, SlideOpenError

N_CHANNELS = 2
"""CH2 (2845 per cm) and CH3 (2930 per cm)."""

Shape = tuple[int, ...]


def read_srh_patch(path: Path, *, side: int | None = None) -> UInt16[np.ndarray, "2 h w"]:
    """Read a patch, channels first.

    Args:
        path: The file: (2, height, width), 16-bit unsigned.
        side: Height and width that it must have, in pixels; None for any.

    Returns:
        Raw values, CH2 first as stored.

    Raises:
        ChannelError: If its channels, bits or axes are others.
        SlideOpenError: If it has another size, or cannot be read; its subclass says why.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            check_srh_shape(path, tuple(series.shape), str(series.dtype), side=side)
            pixels: UInt16[np.ndarray, "2 h w"] = np.ascontiguousarray(series.asarray(), np.uint16)
    except (SlideOpenError, ChannelError):
        raise
    except FileNotFoundError as error:
        raise CorruptSlideError(f"Patch '{path}' is not there. Copy the slide's folder again.") from error
    except Exception as error:  # a parser raises what it likes on bytes that make no sense
        if path.is_file() and path.stat().st_size == 0:
            raise EmptyFileError(f"Patch '{path}' is an empty file. Copy it again from its source.") from error
        raise CorruptSlideError(
            f"Patch '{path}' cannot be read as TIFF ({type(error).__name__}: {error}). Copy it again from its source."
        ) from error
    return pixels


def check_srh_shape(path: Path, shape: Shape, dtype: str, *, side: int | None = None) -> None:
    """Make sure that an image is two raw 16-bit channels, channels first.

    Raises:
        ChannelError: If its channels, bits or axes are others.
        SlideOpenError: If its size is another.
    """
    what = f"It is {dtype} {shape}; SRH patches are uint16 ({N_CHANNELS}, height, width): CH2 first, CH3 second."
    if dtype == "uint8":
        raise ChannelError(f"'{path}' has 8-bit pixels. {what} Export the raw channels, not a picture for display.")
    if dtype != "uint16":
        raise ChannelError(f"'{path}' has pixels of type {dtype}. {what} Export the raw 16-bit channels.")
    if len(shape) == 3 and shape[-1] == N_CHANNELS and shape[0] != N_CHANNELS:
        raise ChannelError(f"'{path}' has its channels last. {what} Move them to the front.")
    if len(shape) != 3 or shape[0] != N_CHANNELS:
        n = shape[0] if len(shape) == 3 else 1 if len(shape) == 2 else shape
        raise ChannelError(f"'{path}' has {n} channel(s), not {N_CHANNELS}. {what} Export both channels as one file.")
    if side is not None and shape[1:] != (side, side):
        raise SlideOpenError(
            f"Patch '{path}' is {shape[2]} x {shape[1]} px; the model takes {side} x {side} px. Cut the field anew; "
            "resizing would change what the network sees."
        )
