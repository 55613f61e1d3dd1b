"""Pictures of a stimulated Raman slide: its patches where they lie, values of patches as colours over them, a scale.

Every picture has a strip below it with a scale bar and, for maps, a colour bar with words at its ends.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from microtome.storage import written_whole
from microtome.viz.srh_stain import find_stain_range, virtual_stain

_LARGEST_PX = 1800  # longest side of a picture
_SMALLEST_CELL_PX = 4
_PER_PATCH = 4  # cells of the smoothed map across a patch
_SIGMA = 0.5  # of the smoothing, in patches
_OPACITY = 0.55
_STRIP_PX = 46
_BACKGROUND = (255, 255, 255)
_NICE = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_BAR_SHARE = 0.3  # most of the picture's width that the scale bar may take

_DIVERGING = ((0.0, (33, 72, 168)), (0.5, (247, 247, 247)), (1.0, (178, 24, 43)))  # blue, white, red
_RISING = ((0.0, (252, 253, 191)), (0.35, (252, 137, 97)), (0.7, (183, 55, 121)), (1.0, (45, 17, 96)))


@dataclass(frozen=True)
class Scale:
    """How values become colours, and what the ends mean.

    Attributes:
        name: What the values are.
        low: Value of the first colour.
        high: Of the last one.
        low_text: What it means.
        high_text: Likewise.
        colours: Stops, 0..1 → RGB.
    """

    name: str
    low: float
    high: float
    low_text: str
    high_text: str
    colours: tuple[tuple[float, tuple[int, int, int]], ...]


def few_shot_scale() -> Scale:
    """Of the likeness to support tiles: 0 normal, 1 tumour."""
    return Scale("likeness to support tiles", 0.0, 1.0, "normal", "tumour", _DIVERGING)


def attention_scale(relative: Float[np.ndarray, " n"]) -> Scale:
    """Of attention relative to the mean over the slide's patches."""
    high = max(2.0, float(np.percentile(relative, 99))) if len(relative) else 2.0
    return Scale("attention, times the mean", 0.0, high, "0", f"{high:.1f}", _RISING)


@dataclass(frozen=True, eq=False)
class Mosaic:
    """The virtual H&E of a slide, and where its patches lie on it.

    Attributes:
        picture: RGB; white where nothing was imaged.
        cells: x y w h of each patch, in the picture's pixels.
        px_per_px: Slide pixels per pixel of the picture.
        mpp: µm per slide pixel, or None.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    cells: Int64[np.ndarray, "n 4"]
    px_per_px: float
    mpp: float | None


def lay_mosaic(
    thumbnails: Float32[np.ndarray, "n 2 t t"] | None, boxes: Int64[np.ndarray, "n 4"], *, mpp: float | None
) -> Mosaic:
    """Put the patches of a slide where they lie.

    Args:
        thumbnails: Raw CH2 and CH3 of each patch; None where there are no pixels, which gives grey cells.
        boxes: x y w h of each patch, slide pixels.
        mpp: µm per slide pixel, if known.
    """
    side = int(boxes[:, 2].max())
    corner, end = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    own = side if thumbnails is None else thumbnails.shape[-1]
    cell = int(np.clip(_LARGEST_PX * side / float((end - corner).max()), _SMALLEST_CELL_PX, own))
    scale = cell / side
    places = np.rint((boxes[:, :2] - corner) * scale).astype(np.int64)
    width, height = (places.max(axis=0) + cell).tolist()
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    tiles = (
        _stained(thumbnails, cell) if thumbnails is not None else np.full((len(boxes), cell, cell, 3), 225, np.uint8)
    )
    for (x, y), tile in zip(places.tolist(), tiles, strict=True):
        picture[y : y + cell, x : x + cell] = tile
    return Mosaic(picture, np.concatenate([places, np.full_like(places, cell)], axis=1), side / cell, mpp)


def _stained(thumbnails: Float32[np.ndarray, "n 2 t t"], cell: int) -> UInt8[np.ndarray, "n c c 3"]:
    tiles = virtual_stain(thumbnails, find_stain_range(thumbnails))
    if cell == tiles.shape[1]:
        return tiles
    small = [np.asarray(Image.fromarray(t).resize((cell, cell), Image.Resampling.BOX)) for t in tiles]
    return np.stack(small)


def draw_slide(mosaic: Mosaic, title: str = "virtual H&E") -> UInt8[np.ndarray, "h w 3"]:
    """The slide as it is, with a scale bar."""
    return _with_strip(mosaic.picture, mosaic, title, None)


def draw_map(
    mosaic: Mosaic, grid: Int64[np.ndarray, "n 2"], values: Float[np.ndarray, " n"], scale: Scale
) -> UInt8[np.ndarray, "h w 3"]:
    """Values of patches as colours over the slide, smoothed, with a scale bar and a colour bar.

    Args:
        mosaic: The slide.
        grid: Row and column of each patch.
        values: Of each.
        scale: Their colours.
    """
    smooth = smooth_values(grid, values)
    share = np.clip((smooth - scale.low) / (scale.high - scale.low), 0, 1)
    picture = mosaic.picture.astype(np.float32)
    grey = picture.mean(axis=2, keepdims=True)
    drawn = mosaic.picture.copy()
    cell = int(mosaic.cells[0, 2])
    top = grid.min(axis=0)
    for (x, y, w, h), (row, column) in zip(mosaic.cells.tolist(), (grid - top).tolist(), strict=True):
        fine = _enlarged(share, row, column, cell)
        colour = _colours(fine, scale)
        here = np.s_[y : y + h, x : x + w]
        drawn[here] = np.rint((1 - _OPACITY) * grey[here] + _OPACITY * colour).astype(np.uint8)
    return _with_strip(drawn, mosaic, scale.name, scale)


def smooth_values(grid: Int64[np.ndarray, "n 2"], values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "r c"]:
    """Values of patches on a finer grid, Gaussian-smoothed over patches that exist; mean values are kept.

    Args:
        grid: Row and column of each patch.
        values: Of each.

    Returns:
        Four by four cells per patch, from the first row and column that have a patch; 0 far from any.
    """
    places = grid - grid.min(axis=0)
    shape = tuple((places.max(axis=0) + 1).tolist())
    weight, total = np.zeros(shape), np.zeros(shape)
    weight[tuple(places.T)] = 1
    total[tuple(places.T)] = values
    fine = [np.kron(a, np.ones((_PER_PATCH, _PER_PATCH))) for a in (total, weight)]
    kernel = _kernel()
    blurred = [_convolved(_convolved(a, kernel, 0), kernel, 1) for a in fine]
    smoothed: Float64[np.ndarray, "r c"] = np.divide(
        blurred[0], blurred[1], out=np.zeros_like(blurred[0]), where=blurred[1] > 1e-6
    )
    return smoothed


def _kernel() -> Float64[np.ndarray, " k"]:
    reach = int(np.ceil(3 * _SIGMA * _PER_PATCH))
    x = np.arange(-reach, reach + 1) / (_SIGMA * _PER_PATCH)
    weights = np.exp(-(x**2) / 2)
    scaled: Float64[np.ndarray, " k"] = weights / weights.sum()
    return scaled


def _convolved(
    values: Float64[np.ndarray, "r c"], kernel: Float64[np.ndarray, " k"], axis: int
) -> Float64[np.ndarray, "r c"]:
    reach = len(kernel) // 2
    pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
    padded, n = np.pad(values, pad), values.shape[axis]
    parts = (w * np.take(padded, np.arange(i, i + n), axis=axis) for i, w in enumerate(kernel))
    summed: Float64[np.ndarray, "r c"] = sum(parts, np.zeros_like(values))
    return summed


def _enlarged(share: Float64[np.ndarray, "r c"], row: int, column: int, side: int) -> Float32[np.ndarray, "s s"]:
    """The part of the fine map over one patch, in pixels; its edges go over into the neighbours'."""
    k = _PER_PATCH
    part = share[max(0, row * k - 1) : row * k + k + 1, max(0, column * k - 1) : column * k + k + 1]
    left, upper = int(column > 0), int(row > 0)
    image = Image.fromarray(np.ascontiguousarray(part, np.float32))
    box = (left, upper, left + k, upper + k)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _colours(share: Float[np.ndarray, "h w"], scale: Scale) -> Float64[np.ndarray, "h w 3"]:
    stops = np.array([at for at, _ in scale.colours])
    table = np.array([colour for _, colour in scale.colours], np.float64)
    return np.stack([np.interp(share, stops, table[:, c]) for c in range(3)], axis=-1)


def _with_strip(
    picture: UInt8[np.ndarray, "h w 3"], mosaic: Mosaic, title: str, scale: Scale | None
) -> UInt8[np.ndarray, "p q 3"]:
    """The picture over a strip with its scale bar, its title and its colours."""
    height, width = picture.shape[:2]
    whole = Image.new("RGB", (max(width, 420), height + _STRIP_PX), _BACKGROUND)
    whole.paste(Image.fromarray(picture), (0, 0))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    length, text = _scale_bar(mosaic, whole.width)
    y = height + 12
    pen.rectangle((4, y, 4 + length, y + 4), fill=(0, 0, 0))
    pen.text((4, y + 8), text, fill=(0, 0, 0), font=font)
    left = max(150, length + 30)
    if scale is None:
        pen.text((left, y - 4), title, fill=(60, 60, 60), font=font)
        return np.asarray(whole)
    ramp = np.linspace(0, 1, 120)[None].repeat(10, axis=0)
    start = left + int(font.getlength(scale.low_text)) + 6
    whole.paste(Image.fromarray(np.rint(_colours(ramp, scale)).astype(np.uint8)), (start, y - 2))
    pen.text((left, y - 6), scale.low_text, fill=(0, 0, 0), font=font)
    pen.text((start + 126, y - 6), scale.high_text, fill=(0, 0, 0), font=font)
    pen.text((left, y + 12), title, fill=(60, 60, 60), font=font)
    return np.asarray(whole)


def _scale_bar(mosaic: Mosaic, width: int) -> tuple[int, str]:
    """Length in pixels of the picture, and what it stands for."""
    if mosaic.mpp is None:
        side = int(mosaic.cells[0, 2])
        return side, f"{round(side * mosaic.px_per_px)} px"
    um_per_px = mosaic.px_per_px * mosaic.mpp
    fitting = [um for um in _NICE if um / um_per_px <= _BAR_SHARE * width] or [_NICE[0]]
    um = fitting[-1]
    return max(1, round(um / um_per_px)), f"{um / 1000:g} mm"  # the font that comes with Pillow has no µ


def jpeg_bytes(picture: UInt8[np.ndarray, "h w 3"], quality: int = 88) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_picture(path: Path, content: bytes) -> None:
    """Write a picture's bytes, whole.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
