"""Changes of patches, and views of slides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.models.srh import SrhInput
from microtome.tasks.pretrain.augment import AUGMENTATIONS, STRONG, Augment, random_box
from microtome.tasks.pretrain.views import SlideViews


def image(channels=3, side=60, seed=0):
    return torch.rand((channels, side, side), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_keeps_shape_and_range_and_follows_its_seed(name, channels):
    before = image(channels)
    kept = before.clone()
    augment = Augment((name,), 1.0)
    first, again = (augment(before, np.random.default_rng(5)) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(before, kept, rtol=0, atol=0)
    assert first.shape == before.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    if not (name == "drop_color" and channels == 1):
        assert not torch.equal(first, before)


def test_none_of_them_changes_nothing_and_each_comes_as_often_as_said():
    before = image()
    assert torch.equal(Augment((), 1.0)(before, np.random.default_rng(0)), before)
    assert torch.equal(Augment(STRONG, 0.0)(before, np.random.default_rng(0)), before)
    flips = sum(not torch.equal(Augment(("flip",), 0.3)(before, np.random.default_rng(i)), before) for i in range(400))
    assert 0.2 < flips / 400 < 0.4


def test_skipped_rows_are_those_of_the_low_resolution_input():
    raw = torch.randint(0, 30_000, (1, 2, 300, 300), generator=torch.Generator().manual_seed(0)).float()
    plain = SrhInput("ch2_only")(raw)[0]
    low = SrhInput("ch2_only", low_resolution=True)(raw)[0]
    changed = Augment(("skip_rows",), 1.0)(plain, np.random.default_rng(0))
    torch.testing.assert_close(changed, low)


@pytest.mark.parametrize(("names", "p", "words"), [(("flop",), 0.3, "no augmentation 'flop'"), ((), 1.5, "0..1")])
def test_what_is_not_there(names, p, words):
    with pytest.raises(ConfigError, match=words):
        Augment(names, p)


@given(seed=st.integers(0, 500), side=st.integers(32, 300))
@settings(max_examples=60, deadline=None)
def test_boxes_lie_inside(seed, side):
    top, left, height, width = random_box(side, side, np.random.default_rng(seed), share=(0.02, 1.0), ratio=(0.3, 3.3))
    assert 0 <= top <= top + height <= side
    assert 0 <= left <= left + width <= side
    assert height > 0
    assert width > 0


@given(seed=st.integers(0, 500), n=st.integers(2, 200), across=st.integers(1, 20))
@settings(max_examples=80, deadline=None)
def test_two_views_share_no_token_and_are_never_empty(seed, n, across):
    grid = np.stack([np.arange(n) // across, np.arange(n) % across], axis=1)
    first, second = SlideViews().draw(grid, np.random.default_rng(seed))
    assert len(first) > 0
    assert len(second) > 0
    assert not set(first.tolist()) & set(second.tolist())
    assert len(set(first.tolist())) == len(first)
    again = SlideViews().draw(grid, np.random.default_rng(seed))
    assert first.tolist() == again[0].tolist()


def test_views_are_as_large_as_their_settings():
    """A grid without end: the crop decides, then the mask; either view may be the larger."""
    grid = np.stack(np.meshgrid(np.arange(60), np.arange(60)), axis=-1).reshape(-1, 2)
    views = SlideViews(split=0.7, area=(100, 100), aspect=(1, 1), kept=(1.0, 1.0))
    sizes = np.array([[len(rows) for rows in views.draw(grid, np.random.default_rng(i))] for i in range(200)])
    larger, smaller = sizes.max(axis=1), sizes.min(axis=1)
    assert larger.max() <= 81  # strictly within 5 cells of the centre: 9 x 9
    assert 0.6 < larger.mean() / (larger + smaller).mean() < 0.8
    assert 0.3 < (sizes[:, 0] > sizes[:, 1]).mean() < 0.7
    for rows in views.draw(grid, np.random.default_rng(1)):
        assert np.ptp(grid[rows], axis=0).max() <= 8


@pytest.mark.parametrize(
    "options", [{"split": 0.0}, {"split": 1.0}, {"area": (200, 100)}, {"kept": (0.0, 0.5)}, {"kept": (0.5, 1.2)}]
)
def test_settings_that_make_no_views(options):
    with pytest.raises(ConfigError):
        SlideViews(**options)


def test_one_patch_has_no_two_views():
    with pytest.raises(ConfigError, match="Got 1"):
        SlideViews().draw(np.array([[0, 0]]), np.random.default_rng(0))
