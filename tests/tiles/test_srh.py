"""Patches of stimulated Raman slides as tile sources."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ChannelError, ConfigError, NoTilesError, TileError
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.srh import SrhMosaic, SrhPatches, grid_of, list_srh_patches, patch_place

PLACES = ("0_0_0_0", "0_0_300_600", "1000_0_0_300")


def write_patch(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 60000, (2, 300, 300)).astype(np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    return pixels


def write_slide(folder: Path, *, seed: int = 0, broken: str | None = None) -> np.ndarray:
    folder.mkdir(parents=True)
    images = [write_patch(folder / f"P-1-{place}.tif", seed + i) for i, place in enumerate(PLACES)]
    if broken is not None:
        path = folder / f"P-1-{broken}.tif"
        path.write_bytes(path.read_bytes()[:1000])
    return np.stack(images).transpose(0, 2, 3, 1)


def open_slide(folder: Path, **how: Any) -> SrhPatches:
    return SrhPatches(list_srh_patches(folder), **{"slide_id": "S", **how})


class TestPatches(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        folder, other = tmp_path / "a" / "patches", tmp_path / "b"
        images = write_slide(folder)
        write_slide(other, seed=9)
        return TileSourceCase(
            open=lambda: open_slide(folder),
            expected=images,
            others={
                "pixels": lambda: open_slide(other),
                "mpp": lambda: open_slide(folder, mpp=0.5),
                "channel order": lambda: open_slide(folder, channel_order="ch3,ch2"),
                "order of files": lambda: SrhPatches(list_srh_patches(folder)[::-1], slide_id="S"),
            },
        )


class TestBrokenPatches(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        images = write_slide(tmp_path / "a", broken=PLACES[1])
        return TileSourceCase(
            open=lambda: open_slide(tmp_path / "a"),
            expected=images,
            broken=frozenset({1}),
            others={"mpp": lambda: open_slide(tmp_path / "a", mpp=0.5)},
        )


class TestMosaic(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = tmp_path / "m.tif"
        pixels = np.random.default_rng(0).integers(0, 60000, (2, 650, 940)).astype(np.uint16)
        tifffile.imwrite(path, pixels, photometric="minisblack")
        tifffile.imwrite(tmp_path / "n.tif", pixels[:, ::-1], photometric="minisblack")
        cut = [
            pixels[:, r * 300 : r * 300 + 300, c * 300 : c * 300 + 300].transpose(1, 2, 0)
            for r in range(2)
            for c in range(3)
        ]
        return TileSourceCase(
            open=lambda: SrhMosaic(path, channel_order="ch2,ch3", mpp=0.5),
            expected=np.stack(cut),
            others={
                "pixels": lambda: SrhMosaic(tmp_path / "n.tif", channel_order="ch2,ch3", mpp=0.5),
                "mpp": lambda: SrhMosaic(path, channel_order="ch2,ch3", mpp=0.4),
                "channel order": lambda: SrhMosaic(path, channel_order="ch3,ch2", mpp=0.5),
            },
        )


def test_places_are_those_of_the_published_names():
    assert patch_place("NIO_UM_135-6-0_1000_300_600.tif") == (0, 1000, 300, 600)
    assert grid_of(0, 1000, 300, 600) == (1, 5)


@given(st.integers(0, 40), st.integers(0, 40))
def test_every_place_of_the_grid_has_one_name(row, column):
    place = (1000 * (row // 3), 1000 * (column // 3), 300 * (row % 3), 300 * (column % 3))
    name = "A-b-1-" + "_".join(map(str, place)) + ".tif"
    assert patch_place(name) == place
    assert grid_of(*patch_place(name)) == (row, column)


def test_boxes_lie_where_the_field_was_imaged(tmp_path):
    write_slide(tmp_path / "a")
    source = open_slide(tmp_path / "a")
    assert source.grid.tolist() == [[0, 0], [1, 2], [3, 1]]
    assert source.boxes.tolist() == [[0, 0, 300, 300], [600, 300, 300, 300], [300, 1000, 300, 300]]


def test_stated_order_brings_ch2_to_the_front(tmp_path):
    images = write_slide(tmp_path / "a")
    swapped = open_slide(tmp_path / "a", channel_order="ch3,ch2").read(np.arange(3)).images
    np.testing.assert_array_equal(swapped, images[..., ::-1])


@pytest.mark.parametrize("name", ["a.tif", "P-1-0_0_0.tif", "P-1-0_0_0_x.tif", "0_0_0_0.tif", "P-1-0_0_0_-300.tif"])
def test_names_without_coordinates_are_refused(tmp_path, name):
    write_patch(tmp_path / name, 0)
    with pytest.raises(TileError, match=r"-ix_jx_iy_jy\.tif"):
        list_srh_patches(tmp_path)


def test_two_patches_at_one_place_are_refused(tmp_path):
    for name in ("A-1-0_0_0_0.tif", "B-1-0_0_0_0.tif", "A-1-0_0_0_300.tif"):
        write_patch(tmp_path / name, 0)
    with pytest.raises(TileError, match=r"A-1-0_0_0_0\.tif, B-1-0_0_0_0\.tif"):
        open_slide(tmp_path)


def test_an_empty_slide_is_refused(tmp_path):
    with pytest.raises(NoTilesError, match="empty slide"):
        list_srh_patches(tmp_path)
    with pytest.raises(NoTilesError, match="no patches"):
        SrhPatches([], slide_id="S")


def test_a_patch_of_other_channels_stops_the_reading(tmp_path):
    write_slide(tmp_path / "a")
    tifffile.imwrite(tmp_path / "a" / "P-1-0_0_0_300.tif", np.zeros((2, 300, 300), np.uint8), photometric="minisblack")
    with pytest.raises(ChannelError, match="8-bit"):
        open_slide(tmp_path / "a").read(np.arange(4))


def test_an_order_that_is_none_is_refused(tmp_path):
    write_slide(tmp_path / "a")
    with pytest.raises(ConfigError, match="ch2,ch3 or ch3,ch2"):
        open_slide(tmp_path / "a", channel_order="ch3")


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        ((2, 200, 900), np.uint16, NoTilesError),
        ((3, 600, 600), np.uint16, ChannelError),
        ((2, 600, 600), np.uint8, ChannelError),
    ],
)
def test_mosaics_that_cannot_be_cut_are_refused(tmp_path, shape, dtype, error):
    tifffile.imwrite(tmp_path / "m.tif", np.ones(shape, dtype), photometric="minisblack")
    with pytest.raises(error, match=r"m\.tif"):
        SrhMosaic(tmp_path / "m.tif", channel_order="ch2,ch3", mpp=0.5)
