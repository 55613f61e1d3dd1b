from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.errors import ConfigError
from microtome.viz.montage import MontageRow, draw_chip, draw_montage, draw_strip
from microtome.viz.palette import categorical_colors


def flat(color: tuple[int, int, int], h: int = 32, w: int = 32) -> np.ndarray:
    return np.full((h, w, 3), color, np.uint8)


RED, BLUE = (200, 20, 20), (20, 20, 200)


def test_a_strip_holds_tiles_in_order() -> None:
    strip = draw_strip([flat(RED), flat(BLUE)], n_places=3, tile_px=16, gap_px=2)
    assert strip.shape == (16, 3 * 16 + 2 * 2, 3)
    np.testing.assert_array_equal(strip[8, 8], RED)
    np.testing.assert_array_equal(strip[:, 16:18], 255)
    np.testing.assert_array_equal(strip[8, 18 + 8], BLUE)
    empty = strip[:, 36:]
    assert len(np.unique(empty.reshape(-1, 3), axis=0)) == 1
    assert empty[0, 0, 0] not in (0, 255)


def test_tiles_shrink_by_area_and_keep_their_shape() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 200
    strip = draw_strip([np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)], n_places=1, tile_px=16)
    np.testing.assert_allclose(strip[1:-1, 1:-1], 100, atol=1)
    tall = draw_strip([flat(RED, 40, 20)], n_places=1, tile_px=20)
    np.testing.assert_array_equal(tall[1:-1, 5:15], np.broadcast_to(RED, (18, 10, 3)))
    np.testing.assert_array_equal(tall[1:-1, 1:4], 255)
    assert draw_strip([flat(RED, 3, 3)], n_places=1, tile_px=20).shape == (20, 20, 3)


def test_a_blank_tile_can_be_seen() -> None:
    strip = draw_strip([flat((255, 255, 255))], n_places=1, tile_px=16)
    assert (strip[0] < 255).all()
    assert (strip[:, -1] < 255).all()


@pytest.mark.parametrize(
    "arguments", [{"n_places": 1}, {"n_places": 0}, {"n_places": 2, "tile_px": 0}, {"n_places": 2, "gap_px": -1}]
)
def test_bad_strips_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        draw_strip([flat(RED), flat(BLUE)], **arguments)


@pytest.mark.parametrize("cluster", [0, 6, 12, 999])
def test_a_chip_has_its_colour_and_a_number(cluster: int) -> None:
    chip = draw_chip(cluster, 40)
    assert chip.shape == (40, 40, 3)
    np.testing.assert_array_equal(chip[1, 1], categorical_colors(cluster + 1)[cluster])
    assert len(np.unique(chip.reshape(-1, 3), axis=0)) > 3
    assert not np.array_equal(chip, draw_chip(cluster + 1, 40))


def test_a_montage_has_a_row_per_cluster() -> None:
    rows = [MontageRow(3, "40 % of tiles", [flat(RED)] * 4), MontageRow(5, "none", [])]
    montage = draw_montage(rows, tile_px=48)
    one = draw_montage(rows[:1], tile_px=48)
    assert montage.shape == (2 * one.shape[0], one.shape[1], 3)
    np.testing.assert_array_equal(montage[: len(one)], one)
    for k in (3, 5):
        assert (montage == categorical_colors(k + 1)[k]).all(axis=2).any()
    assert (montage == RED).all(axis=2).sum() == 4 * 46 * 46
    caption = draw_montage([MontageRow(3, "", [flat(RED)] * 4)], tile_px=48)
    assert not np.array_equal(one, caption)


def test_a_long_caption_is_not_cut() -> None:
    short, long = (draw_montage([MontageRow(0, t, [flat(RED)])], tile_px=32) for t in ("x", "x" * 80))
    assert long.shape[1] > short.shape[1]
    assert (long[:, -1] == 255).all()


def test_an_empty_montage_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        draw_montage([])


def test_real_tiles(shared: Path) -> None:
    folder = shared / "data" / "tiles" / "nct_crc_A"
    rows = []
    for k, name in enumerate(("ADI", "LYM", "TUM")):
        images = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((folder / name).glob("*.png"))[:5]]
        rows.append(MontageRow(k, name, images))
    montage = draw_montage(rows, tile_px=64)
    third = len(montage) // 3
    means = [montage[i * third + 8 : i * third + 60, 60:360].mean() for i in range(3)]
    reference = [np.mean([image.mean() for image in row.images]) for row in rows]
    np.testing.assert_allclose(means, reference, atol=12)
