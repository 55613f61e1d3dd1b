"""What every slide must do. Subclass :class:`SlideContract` in a test module and say what to open.

Example::

    class TestMyReader(SlideContract):
        @pytest.fixture
        def case(self, tmp_path):
            return SlideCase(open=lambda: MySlide(tmp_path / "a.xyz", OpenOptions()), level0=pixels)
"""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.slides.base import Slide
from microtome.storage import digest, recipe_text

# The slide is only read, so examples may share it; each subclass is a test of its own, so nothing is replayed across.
_MANY = settings(
    max_examples=12,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@dataclass(frozen=True)
class SlideCase:
    """A slide under test, at least 16 × 16 px.

    Attributes:
        open: Opens it anew.
        level0: Its native pixels at level 0, (h, w, channels), where they are known exactly.
        associated: Names of the associated images that it must have.
    """

    open: Callable[[], Slide]
    level0: np.ndarray | None = None
    associated: tuple[str, ...] = ()


def _boxes(data: st.DataObject, within: Box, max_px: int = 150) -> Box:
    """A box inside of ``within``."""
    width = data.draw(st.integers(1, min(max_px, within.width)), label="width")
    height = data.draw(st.integers(1, min(max_px, within.height)), label="height")
    x = data.draw(st.integers(within.x, within.right - width), label="x")
    y = data.draw(st.integers(within.y, within.bottom - height), label="y")
    return Box(x, y, width, height)


def _crop(image: np.ndarray, of: Box, part: Box) -> np.ndarray:
    return image[part.y - of.y : part.bottom - of.y, part.x - of.x : part.right - of.x]


def _whole_levels(slide: Slide) -> list[int]:
    """Levels that lie on whole level-0 pixels on both axes."""
    whole = [level.downsample_x == level.downsample_y == int(level.downsample_x) for level in slide.levels]
    return [index for index, is_whole in enumerate(whole) if is_whole]


def _is_seen(slide: Slide) -> bool:
    """Whether it can be read as 8-bit RGB."""
    return slide.is_rgb or slide.view is not None


class SlideContract:
    """Tests of one slide; ``case`` says which."""

    @pytest.fixture
    def case(self) -> SlideCase:
        """The slide under test."""
        raise NotImplementedError("a subclass says what to open")

    @pytest.fixture
    def slide(self, case: SlideCase, request: pytest.FixtureRequest) -> Slide:
        """It, open."""
        slide = case.open()
        request.addfinalizer(slide.close)  # noqa: PT021 - a checked generator is no generator function to pytest
        return slide

    def test_describes_itself(self, slide: Slide) -> None:
        assert slide.size == slide.levels[0].size
        assert (slide.levels[0].downsample_x, slide.levels[0].downsample_y) == (1.0, 1.0)
        assert slide.size.width >= 16
        assert slide.size.height >= 16
        sizes = [level.size.area for level in slide.levels]
        assert sizes == sorted(sizes, reverse=True)
        for level in slide.levels:
            assert level.downsample_x == pytest.approx(slide.size.width / level.size.width, rel=1e-9)
            assert level.downsample_y == pytest.approx(slide.size.height / level.size.height, rel=1e-9)
        assert Box.of(slide.size).contains(slide.bounds)
        assert len(set(slide.channels)) == len(slide.channels) > 0
        assert slide.modality in {"brightfield", "fluorescence", "multichannel"}
        assert slide.name in slide.path.name
        assert slide.path.name in repr(slide)

    def test_native_pixels(self, slide: Slide, case: SlideCase) -> None:
        for index, level in enumerate(slide.levels):
            box = Box(0, 0, min(level.size.width, 500), min(level.size.height, 500))
            pixels = slide.read_native(index, box)
            assert pixels.shape == (box.height, box.width, len(slide.channels))
            assert pixels.dtype == slide.dtype
        if case.level0 is not None:
            assert case.level0.shape == (slide.size.height, slide.size.width, len(slide.channels))
            np.testing.assert_array_equal(slide.read_native(0, Box.of(slide.size)), case.level0)

    @_MANY
    @given(data=st.data())
    def test_a_part_read_alone_is_the_part_of_the_whole(self, slide: Slide, data: st.DataObject) -> None:
        outer = _boxes(data, slide.bounds)
        inner = _boxes(data, outer)
        whole, part = slide.read_raw(outer), slide.read_raw(inner)
        np.testing.assert_array_equal(part, _crop(whole, outer, inner))

    @_MANY
    @given(data=st.data())
    def test_the_same_at_every_level_of_whole_downsample(self, slide: Slide, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(_whole_levels(slide)))
        size = slide.levels[index].size
        outer = _boxes(data, Box.of(size))
        inner = _boxes(data, outer)
        whole, part = slide.read_native(index, outer), slide.read_native(index, inner)
        np.testing.assert_array_equal(part, _crop(whole, outer, inner))

    @_MANY
    @given(data=st.data())
    def test_a_level_comes_as_it_is_where_it_has_the_asked_resolution(self, slide: Slide, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(_whole_levels(slide)))
        step = int(slide.levels[index].downsample_x)
        x, y, right, bottom = slide.bounds.x, slide.bounds.y, slide.bounds.right, slide.bounds.bottom
        inside = Box(-(-x // step), -(-y // step), right // step - -(-x // step), bottom // step - -(-y // step))
        at = _boxes(data, inside)
        box = Box(at.x * step, at.y * step, at.width * step, at.height * step)
        np.testing.assert_array_equal(slide.read_raw(box, size=at.size), slide.read_native(index, at))

    @_MANY
    @given(data=st.data())
    def test_gives_exactly_the_size_asked_for(self, slide: Slide, data: st.DataObject) -> None:
        reach = Box(-50, -50, slide.size.width + 100, slide.size.height + 100)
        box = _boxes(data, reach, max_px=reach.width)
        size = Size(data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130)))
        assert slide.read_raw(box, size=size).shape == (size.height, size.width, len(slide.channels))
        if _is_seen(slide):
            image = slide.read(box, size=size)
            assert image.shape == (size.height, size.width, 3)
            assert image.dtype == np.uint8
            taken = np.full_like(image, 77)
            slide.read_into(box, taken)
            np.testing.assert_array_equal(taken, image)

    @pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
    def test_takes_every_filter(self, slide: Slide, resample: str) -> None:
        whole = slide.read_raw(slide.bounds, size=slide.bounds.size.fitted(24), resample=resample)  # type: ignore[arg-type] # parametrised
        assert whole.dtype == slide.dtype

    def test_averages_areas(self, slide: Slide) -> None:
        """Against numpy: a third of the resolution of the smallest level on whole pixels, which serves it."""
        index, factor = _whole_levels(slide)[-1], 3
        step = int(slide.levels[index].downsample_x)
        x, y = -(-slide.bounds.x // step), -(-slide.bounds.y // step)
        width = min(slide.bounds.right // step - x, 300) // factor
        height = min(slide.bounds.bottom // step - y, 300) // factor
        box, size = Box(x, y, width * factor, height * factor), Size(width, height)
        box0 = Box(box.x * step, box.y * step, box.width * step, box.height * step)
        assert slide.best_level(box0, size) == index
        native = slide.read_native(index, box).astype(np.float64)
        expected = native.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
        got = slide.read_raw(box0, size=size)
        tolerance = 0.51 if slide.dtype.kind in "iu" else 1e-3 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got.astype(np.float64), expected, atol=tolerance, rtol=0)

    @pytest.mark.parametrize(("fill", "value"), [("white", 255), ("black", 0)])
    def test_fills_what_lies_outside(self, slide: Slide, fill: str, value: int) -> None:
        bounds = slide.bounds
        across = Box(bounds.x - 7, bounds.y - 5, 20, 20)
        outside = Box(bounds.right + 10, bounds.bottom + 10, 9, 9)
        if _is_seen(slide):
            image = slide.read(across, fill=fill)  # type: ignore[arg-type] # parametrised
            assert (image[:5] == value).all()
            assert (image[:, :7] == value).all()
            inner = Box(bounds.x, bounds.y, 13, 15)
            np.testing.assert_array_equal(image[5:, 7:], slide.read(inner))
            assert (slide.read(outside, fill=fill) == value).all()  # type: ignore[arg-type] # parametrised
        raw = slide.read_raw(outside, fill=fill)  # type: ignore[arg-type] # parametrised
        assert (raw == (value if slide.is_rgb else 0)).all()

    def test_refuses_an_empty_size(self, slide: Slide) -> None:
        with pytest.raises(ConfigError, match="size"):
            slide.read_raw(slide.bounds, size=Size(0, 5))

    def test_threads_see_the_same_pixels(self, slide: Slide) -> None:
        bounds = slide.bounds
        side = max(4, min(64, bounds.width // 3, bounds.height // 3))
        steps_x, steps_y = range(bounds.x, bounds.right - side, side), range(bounds.y, bounds.bottom - side, side)
        boxes = [Box(x, y, side, side) for y in steps_y for x in steps_x][:60]
        alone = [slide.read_raw(box) for box in boxes]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                for expected, got in zip(alone, pool.map(slide.read_raw, boxes), strict=True):
                    np.testing.assert_array_equal(got, expected)

    def test_travels_to_another_process(self, slide: Slide) -> None:
        copy: Slide = pickle.loads(pickle.dumps(slide))  # noqa: S301 - our own bytes
        try:
            assert copy.size == slide.size
            assert recipe_text(copy.recipe) == recipe_text(slide.recipe)
            box = Box(slide.bounds.x, slide.bounds.y, 16, 16)
            np.testing.assert_array_equal(copy.read_raw(box), slide.read_raw(box))
        finally:
            copy.close()

    def test_has_a_recipe_of_plain_values(self, slide: Slide, case: SlideCase) -> None:
        again = case.open()
        try:
            assert digest(slide.recipe) == digest(again.recipe)
            assert slide.recipe["reader_name"] == slide.reader
        finally:
            again.close()

    def test_thumbnail(self, slide: Slide) -> None:
        image = slide.thumbnail(40)
        size = slide.bounds.size.fitted(40)
        assert image.shape == (size.height, size.width, 3)
        assert image.dtype == np.uint8
        if slide.bounds.size.area < 10**6:  # never enlarged
            assert slide.thumbnail(10**6).shape == (slide.bounds.height, slide.bounds.width, 3)

    def test_associated_images(self, slide: Slide, case: SlideCase) -> None:
        assert set(case.associated) <= set(slide.associated_names)
        for name in slide.associated_names:
            image = slide.read_associated(name)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
        with pytest.raises(LookupError, match="no-such-image"):
            slide.read_associated("no-such-image")

    def test_closing(self, case: SlideCase) -> None:
        with case.open() as slide:
            box = Box(slide.bounds.x, slide.bounds.y, 8, 8)
            slide.read_raw(box)
        with pytest.raises(ValueError, match="closed"):
            slide.read_raw(box)
        slide.close()
