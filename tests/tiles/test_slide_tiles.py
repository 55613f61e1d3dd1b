import numpy as np
import pytest

from microtome.errors import TileError
from microtome.geometry import Box
from microtome.slides.resolution import Given
from microtome.slides.view import View
from microtome.testing.array_slide import ArraySlide
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.tiles.fakes import noise_slide

GRID = Grid(tile_px=64, mpp=0.5, bounds="pad")


def crops(slide, boxes, fill=255):
    """Tiles cut by hand; what lies outside is ``fill``."""
    image = slide.read_raw(Box.of(slide.size))
    padded = np.pad(image, ((0, 100), (0, 100), (0, 0)), constant_values=fill)
    return np.stack([padded[y : y + h, x : x + w] for x, y, w, h in boxes])


def source(slide, grid=GRID, **options):
    return SlideTiles(slide, lay_tiles(slide, None, grid), **options)


class TestRgb(TileSourceContract):
    @pytest.fixture
    def case(self):
        slide = noise_slide(200, 150, downsamples=(2,))
        boxes = lay_tiles(slide, None, GRID).boxes
        image = slide.read(Box.of(slide.size))
        other = image.copy()
        other[0, 0, 0] ^= 1
        return TileSourceCase(
            open=lambda: source(noise_slide(200, 150, downsamples=(2,))),
            expected=crops(slide, boxes),
            others={
                "pixels": lambda: source(ArraySlide(other)),
                "stride": lambda: source(slide, Grid(tile_px=64, mpp=0.5, bounds="pad", stride_px=63)),
                "bounds": lambda: source(slide, Grid(tile_px=64, mpp=0.5)),
                "output size": lambda: source(slide, Grid(tile_px=32, mpp=1.0, bounds="pad")),
                "level": lambda: source(slide, Grid(tile_px=64, mpp=None, level=0, bounds="pad")),
                "slide's mpp": lambda: source(ArraySlide(image, mpp=0.25), Grid(tile_px=64, mpp=0.25, bounds="pad")),
                "mpp's source": lambda: source(ArraySlide(image, mpp=None, given=Given(0.5))),
                "view": lambda: source(ArraySlide(image, view=View((0, 1, 2), 0.0, 200.0))),
                "fill": lambda: source(slide, fill="black"),
                "resample": lambda: source(slide, resample="lanczos"),
            },
        )


class TestTwoChannels16Bit(TileSourceContract):
    @pytest.fixture
    def case(self):
        slide = noise_slide(200, 150, channels=2, dtype=np.uint16)
        return TileSourceCase(
            open=lambda: source(noise_slide(200, 150, channels=2, dtype=np.uint16)),
            expected=crops(slide, lay_tiles(slide, None, GRID).boxes, fill=0),
            others={
                "pixels": lambda: source(noise_slide(200, 150, channels=2, dtype=np.uint16, seed=1)),
                "view": lambda: source(
                    noise_slide(200, 150, channels=2, dtype=np.uint16, view=View((1,), 0.0, 65535.0))
                ),
            },
        )

    def test_channels_come_raw(self, source):
        assert source.modality == "multichannel"
        assert source.dtype == np.uint16
        assert source.tile_shape == (64, 64, 2)


class TestBroken(TileSourceContract):
    @pytest.fixture
    def case(self):
        broken = (Box(70, 10, 3, 3), Box(130, 100, 1, 1))
        slide = noise_slide(200, 150)
        boxes = lay_tiles(slide, None, GRID).boxes
        rows = {i for i, b in enumerate(boxes) if any(Box.from_row(b).intersection(hole) for hole in broken)}
        assert len(rows) == 2
        return TileSourceCase(
            open=lambda: source(noise_slide(200, 150, broken=broken)),
            expected=crops(slide, boxes),
            broken=frozenset(rows),
            others={"pixels": lambda: source(noise_slide(200, 150, broken=broken, seed=1))},
        )


def test_errors_say_what_and_where():
    batch = source(noise_slide(200, 150, broken=(Box(0, 0, 5, 5),), name="A12")).read(np.array([1, 0]))
    assert list(batch.errors) == [0]
    assert "A12" in batch.errors[0]


def test_a_view_makes_rgb_of_channels():
    slide = noise_slide(200, 150, channels=2, dtype=np.uint16, view=View((1,), 0.0, 65535.0))
    with source(slide) as tiles:
        assert tiles.modality == "brightfield"
        images = tiles.read(np.arange(3)).images
        np.testing.assert_array_equal(images[0], slide.read(Box(0, 0, 64, 64)))


def test_fill_is_honoured():
    slide = noise_slide(70, 64)
    for fill, value in (("white", 255), ("black", 0)):
        image = source(slide, fill=fill).read(np.array([1])).images[0]
        assert (image[:, 6:] == value).all()
        np.testing.assert_array_equal(image[:, :6], slide.read(Box(64, 0, 6, 64)))


def test_tiles_of_another_slide_are_refused():
    tiles = lay_tiles(noise_slide(200, 150), None, GRID)
    with pytest.raises(TileError, match="200 × 150 px"):
        SlideTiles(noise_slide(200, 151), tiles)
    with pytest.raises(TileError, match=r"0\.25 µm/px"):
        SlideTiles(noise_slide(200, 150, mpp=0.25), tiles)
    with pytest.raises(TileError, match="unknown mpp"):
        SlideTiles(noise_slide(200, 150, mpp=None), tiles)


def test_modality_is_known_where_a_region_is_damaged():
    dark = np.zeros((600, 600, 3), np.uint8)
    dark[:50, :50] = 120
    assert source(ArraySlide(dark, broken=(Box(300, 300, 9, 9),))).modality == "fluorescence"
    assert source(ArraySlide(255 - dark, broken=(Box(300, 300, 9, 9),))).modality == "brightfield"
