"""The reader ladder and what a person gives with a slide."""

import subprocess
import sys

import numpy as np
import pytest

from microtome.errors import (
    AnisotropicMppError,
    ChannelError,
    ConfigError,
    MissingMppError,
    MppConflictError,
    UnsupportedFormatError,
)
from microtome.geometry import Box
from microtome.slides.open import explain_readers, open_slide
from microtome.slides.write import TileCoding, write_svs
from tests.slides.fakes import canvas_of, coordinates, noise, save_png, write_pages


@pytest.fixture
def svs(tmp_path):
    path = tmp_path / "a.svs"
    write_svs(path, canvas_of(coordinates(256, 256), mpp=0.5), coding=TileCoding(64))
    return path


def test_the_first_that_takes_it(svs, tmp_path):
    verdicts = explain_readers(svs)
    taken = [("direct", True), ("openslide", False), ("tifffile", False), ("image", False)]
    assert [(v.reader, v.took) for v in verdicts] == taken
    assert verdicts[1].reason == "not asked: direct comes first"
    png = tmp_path / "a.png"
    save_png(png, noise(20, 20))
    reasons = ["it is no TIFF", "plain images are not OpenSlide's", "it is no TIFF", "took it"]
    assert [v.reason for v in explain_readers(png)] == reasons


def test_a_reader_by_name(svs, tmp_path):
    for name in ("direct", "openslide", "tifffile"):
        with open_slide(svs, reader=name) as slide:
            assert slide.reader == name
    with pytest.raises(UnsupportedFormatError, match="image: of TIFF, only"):
        open_slide(svs, reader="image")
    path = tmp_path / "a.tif"
    write_pages(path, noise(20, 20), tile=(16, 16), extratags=[(274, 3, 1, 3, True)])
    with pytest.raises(UnsupportedFormatError, match="orientation"):
        open_slide(path, reader="openslide")


def test_given_mpp(svs, tmp_path):
    with open_slide(svs, mpp=0.5001) as slide:
        assert slide.mpp == 0.5
    with pytest.raises(MppConflictError, match=r"0\.25 was given \(--mpp\)"):
        open_slide(svs, mpp=0.25, mpp_source="--mpp")
    with open_slide(svs, mpp=0.25, override_mpp=True, mpp_source="cohort") as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "override:cohort")
    png = tmp_path / "a.png"
    save_png(png, noise(20, 20))
    with open_slide(png) as slide, pytest.raises(MissingMppError, match=r"a\.png"):
        _ = slide.mpp
    with open_slide(png, mpp=0.5, mpp_source="cohort") as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "cohort")


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, noise(20, 20), resolution=(20_000, 10_000), resolutionunit="centimeter")
    with open_slide(path) as slide, pytest.raises(AnisotropicMppError, match=r"0\.5 µm/px across but 1 µm/px down"):
        _ = slide.mpp


@pytest.mark.parametrize(
    "options",
    [
        {"override_mpp": True},
        {"mpp": 500.0},
        {"mpp": -1.0},
        {"channels": "R"},
        {"channels": ["R", "G"]},
        {"window": (5, 5)},
    ],
)
def test_arguments_that_make_no_sense(svs, options):
    with pytest.raises(ConfigError):
        open_slide(svs, **options)


def test_unknown_names_without_a_type_checker(svs):
    """The tests' type checker stops these before the library does, so they run without it."""
    code = (
        "import sys, numpy as np\n"
        "from microtome.errors import ConfigError\n"
        "from microtome.geometry import Size\n"
        "from microtome.slides.open import open_slide\n"
        "from microtome.slides.resample import resample_image\n"
        "for call in (lambda: open_slide(sys.argv[1], reader='bioformats'),\n"
        "             lambda: resample_image(np.zeros((5, 5, 3), np.uint8), Size(2, 2), 'box')):\n"
        "    try: call()\n"
        "    except ConfigError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(svs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0].endswith("Got 'bioformats'.")
    assert done.stdout.splitlines()[1].endswith("Got 'box'.")


def test_channels_of_rgb(svs):
    with open_slide(svs, channels=["G"]) as slide, open_slide(svs) as plain:
        box = Box(10, 20, 30, 40)
        green = plain.read(box)[:, :, 1]
        np.testing.assert_array_equal(slide.read(box), np.repeat(green[:, :, None], 3, axis=2))
        assert slide.recipe["view_channels"] == [1]
        assert slide.recipe != plain.recipe
    with pytest.raises(ChannelError, match="no channel 'DAPI'"):
        open_slide(svs, channels=["DAPI"])


def test_a_path_may_be_text(svs):
    with open_slide(str(svs)) as slide:
        assert slide.path == svs
