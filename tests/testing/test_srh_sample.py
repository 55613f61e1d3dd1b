"""The synthetic SRH study: what is planted shows in texture and not in brightness."""

import csv
import json

import numpy as np
import pytest
import tifffile
from sklearn.metrics import roc_auc_score

from microtome.errors import ConfigError, RecipeMismatchError
from microtome.tasks.srh.check import srh_check
from microtome.testing.srh_sample import draw_srh_slide, write_srh_sample


@pytest.fixture(scope="module")
def slides():
    """Two slides of each degree."""
    return [(grade, draw_srh_slide(np.random.default_rng([7, i]), 3, grade)) for i in range(2) for grade in range(4)]


def patches(slide):
    cut = [np.s_[y : y + 300, x : x + 300] for y in (0, 300, 600) for x in (0, 300, 600)]
    return [(slide.pixels[(slice(None), *c)].astype(float), float(slide.infiltrated[c].mean())) for c in cut]


def test_brightness_does_not_tell_infiltrated_patches(slides):
    planted, means = [], []
    for grade, slide in slides:
        for pixels, share in patches(slide):
            if grade and not 0.2 < share < 0.8:
                planted.append(share > 0.5)
                means.append([pixels[0].mean(), pixels[1].mean(), (pixels[1] - pixels[0]).mean()])
    aurocs = [roc_auc_score(planted, column) for column in np.array(means).T]
    assert all(0.3 < a < 0.7 for a in aurocs), aurocs


def test_brightness_does_not_tell_the_degree(slides):
    grades = np.array([grade for grade, _ in slides])
    for channel in (0, 1):
        means = [slide.pixels[channel].mean() for _, slide in slides]
        aurocs = [roc_auc_score(grades >= cut, means) for cut in (1, 2, 3)]
        assert 0.3 < np.mean(aurocs) < 0.7, aurocs


def test_texture_does(slides):
    """Dark holes in CH2, which nuclei are, against their share by degree."""
    texture, planted = [], []
    for grade, slide in slides:
        for pixels, share in patches(slide):
            if grade == 3 and not 0.2 < share < 0.8:
                dark = pixels[0] < np.median(pixels[0]) - 2500
                texture.append(dark.mean())
                planted.append(share > 0.5)
    assert roc_auc_score(planted, texture) > 0.95


def test_pixels_are_plausible(slides):
    for _, slide in slides:
        assert slide.pixels.dtype == np.uint16
        assert (slide.pixels <= 400).mean() < 1e-4  # nothing is cut off
        assert slide.pixels.max() < 65000
        assert (slide.pixels[1] > slide.pixels[0]).mean() > 0.95  # CH3 above CH2, as it is


def test_a_study_is_whole_and_says_where_it_is_infiltrated(tmp_path):
    written = write_srh_sample(tmp_path, n_slides=6, patches_across=2, seed=1)
    assert [slide.grade for slide in written] == [0, 0, 1, 2, 3, 1]
    found = srh_check(tmp_path)
    assert not found.findings
    assert found.n_slides == 6
    assert found.grades == {"0": 2, "1": 2, "2": 1, "3": 1}
    assert set(found.splits) == {"train", "val"}
    splits = json.loads((tmp_path / "meta" / "train_val_split.json").read_text())
    assert splits["val"]
    assert not set(splits["train"]) & set(splits["val"])
    slide = written[4]
    rows = list(csv.DictReader((tmp_path / "truth" / f"{slide.name}.csv").read_text().splitlines()))
    assert [float(r["infiltrated"]) for r in rows] == pytest.approx(slide.infiltrated.tolist(), abs=1e-4)
    assert 0.3 < slide.infiltrated.mean() < 0.9


def test_a_seed_gives_the_same_pixels_and_another_others(tmp_path):
    a, b, c = (
        write_srh_sample(tmp_path / name, n_slides=1, patches_across=1, seed=seed)[0].files[0]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    np.testing.assert_array_equal(tifffile.imread(a), tifffile.imread(b))
    assert not np.array_equal(tifffile.imread(a), tifffile.imread(c))


def test_another_study_is_not_written_over(tmp_path):
    write_srh_sample(tmp_path, n_slides=1, patches_across=1)
    with pytest.raises(RecipeMismatchError, match="otherwise"):
        write_srh_sample(tmp_path, n_slides=1, patches_across=1, seed=5)
    with pytest.raises(ConfigError, match="n_slides"):
        write_srh_sample(tmp_path, n_slides=0)
