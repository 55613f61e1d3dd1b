"""What becomes of every file of the reference data: who opens it and what it still needs, or why it is refused."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from microtome import errors
from microtome.geometry import Box
from microtome.slides.open import explain_readers, open_slide
from tests.conftest import shared_folder


@dataclass(frozen=True)
class Outcome:
    """What is expected of one path below ``data``.

    Attributes:
        path: Where it is.
        reader: Who opens it; None where nobody does.
        at_open: The error at open.
        at_read: The error when all of it is read as RGB.
        mpp: Its resolution; where it is None, the error that asking for it raises is in ``mpp_error``.
        mpp_error: See above.
        reason: Words of the error's sentence, or of why it needs what it needs.
    """

    path: str
    reader: str | None = None
    at_open: type[errors.MicrotomeError] | None = None
    at_read: type[errors.MicrotomeError] | None = None
    mpp: float | None = None
    mpp_error: type[errors.ResolutionError] | None = None
    reason: str = ""


def opens(path, reader, mpp=None, *, needs_mpp=None, at_read=None, reason=""):
    return Outcome(path, reader, None, at_read, mpp, needs_mpp, reason)


def refused(path, error, reason):
    return Outcome(path, at_open=error, reason=reason)


MISSING, IMPLAUSIBLE = errors.MissingMppError, errors.ImplausibleMppError
CHANNELS, UNREADABLE = errors.ChannelError, errors.UnreadableRegionError
PARTS, OTHER = errors.MissingCompanionError, errors.NotASlideError
WG26, ODD, HIGH = "wsi/dicom_wg26_FluorCell_4", "wsi_odd", "wsi/highdicom"

TABLE = [
    opens("wsi/4D-series.ome.tiff", "tifffile", needs_mpp=MISSING, at_read=CHANNELS, reason="35 channel"),
    opens("wsi/CMU-1-Small-Region.svs", "direct", 0.499),
    refused("wsi/_vsi-ets-test-jpg2k_", errors.SlideIsDirectoryError, "directory"),
    refused("wsi/_vsi-ets-test-jpg2k_/stack1", errors.SlideIsDirectoryError, "directory"),
    refused("wsi/_vsi-ets-test-jpg2k_/stack1/frame_t_0.ets", errors.UnsupportedFormatError, "Olympus VSI"),
    refused(WG26, PARTS, "only reduced levels"),
    *(refused(f"{WG26}/{n}_0", PARTS, "2816×2816") for n in range(5, 13)),
    refused(f"{WG26}/1_Map", PARTS, "only reduced levels"),
    refused(f"{WG26}/2", PARTS, "only reduced levels"),
    refused(f"{WG26}/readme.txt", errors.NotAnImageError, "text"),
    refused("wsi/ez_wsi", PARTS, "LABEL"),
    refused("wsi/ez_wsi/test.dcm", PARTS, "LABEL"),
    refused("wsi/ez_wsi/test_wsi.dcm", PARTS, "LABEL"),
    refused("wsi/ez_wsi/frames", errors.SlideIsDirectoryError, "directory"),
    *(opens(f"wsi/ez_wsi/frames/dcm_frame_{n}.jpg", "image", needs_mpp=MISSING) for n in range(1, 16)),
    opens("wsi/ez_wsi/frames/dcm_frame_6.j2k", "image", needs_mpp=MISSING),
    refused(HIGH, errors.SlideIsDirectoryError, "no single slide"),
    opens(f"{HIGH}/frame_rgb.jpeg", "image", needs_mpp=MISSING),
    opens(f"{HIGH}/frame_rgb_empty.jpeg", "image", needs_mpp=MISSING),
    refused(f"{HIGH}/seg_image_sm_control.dcm", OTHER, "Segmentation"),
    refused(f"{HIGH}/seg_image_sm_control_labelmap.dcm", OTHER, "Label Map Segmentation"),
    refused(f"{HIGH}/seg_image_sm_dots.dcm", OTHER, "Segmentation"),
    refused(f"{HIGH}/seg_image_sm_dots_tiled_full.dcm", OTHER, "Segmentation"),
    refused(f"{HIGH}/seg_image_sm_numbers.dcm", OTHER, "Segmentation"),
    refused(f"{HIGH}/sm_annotations.dcm", OTHER, "Annotations"),
    *(opens(f"{HIGH}/sm_image{name}.dcm", "openslide", 0.499) for name in ("", "_control", "_dots", "_numbers")),
    refused(f"{HIGH}/sm_image_grayscale.dcm", errors.UnsupportedFormatError, "MONOCHROME2 of 16 bits"),
    refused(f"{HIGH}/sm_image_jpegls.dcm", errors.UnsupportedCompressionError, "1.2.840.10008.1.2.4.80"),
    opens("wsi/kidney-48-5.tif", "tifffile", needs_mpp=MISSING),
    opens("wsi/openslide_fixtures", "openslide", 0.499),  # a DICOM slide of two files, beside others
    opens("wsi/openslide_fixtures/boxes-no-icc.png", "image", needs_mpp=MISSING),
    opens("wsi/openslide_fixtures/boxes.png", "image", needs_mpp=MISSING),
    opens("wsi/openslide_fixtures/boxes.tiff", "openslide", needs_mpp=IMPLAUSIBLE, reason="352.8"),
    opens("wsi/openslide_fixtures/boxes_0.dcm", "openslide", 0.499),
    opens("wsi/openslide_fixtures/boxes_1.dcm", "openslide", 0.499),
    opens("wsi/openslide_fixtures/small.svs", "direct", 0.499),
    refused("wsi/qupath_cells", errors.SlideIsDirectoryError, "no single slide"),
    opens("wsi/qupath_cells/cells-2c.ome.tif", "tifffile", 0.25, at_read=CHANNELS, reason="2 channel"),
    opens("wsi/qupath_cells/cells-gray16.tif", "tifffile", 0.25, at_read=CHANNELS, reason="uint16"),
    opens("wsi/qupath_cells/cells.ome.tif", "tifffile", 0.25),
    opens("wsi/qupath_cells/cells.tif", "tifffile", 0.25),
    opens("wsi/small_vectra.qptiff", "tifffile", 0.4965, at_read=CHANNELS, reason="DAPI, FITC, Cy3"),
    opens("wsi/test3-DAPI-2-(387).ndpi", "openslide", 0.2282),
    refused("wsi/vsi-ets-test-jpg2k.vsi", errors.UnsupportedFormatError, "Olympus VSI"),
    opens(f"{ODD}/large_image_grey10kx5k.tif", "tifffile", needs_mpp=IMPLAUSIBLE, reason="352.8"),
    opens(f"{ODD}/large_image_rgb_geotiff.tiff", "tifffile", needs_mpp=MISSING, at_read=CHANNELS, reason="uint16"),
    refused(f"{ODD}/large_image_sample_float32_8bit_range.zarr.zip", errors.NotAnImageError, "ZIP"),
    opens(f"{ODD}/large_image_test_L_16.png", "image", needs_mpp=MISSING, at_read=CHANNELS, reason="uint16"),
    opens(f"{ODD}/large_image_test_RGBA_16.png", "image", needs_mpp=MISSING, at_read=CHANNELS, reason="uint16"),
    opens(f"{ODD}/large_image_test_orient6.tif", "tifffile", needs_mpp=IMPLAUSIBLE, reason="352.9"),
    opens(f"{ODD}/large_image_yb10kx5k.zstd.tiff", "openslide", needs_mpp=IMPLAUSIBLE, reason="352.9"),
    refused(f"{ODD}/large_image_zero_gi.tif", errors.ZeroSizeError, "2 × 0 px"),
    refused(f"{ODD}/lfs_pointer_b001.tif", errors.LfsPointerError, "Git LFS pointer"),
    opens(f"{ODD}/libvips_1bit.tif", "tifffile", needs_mpp=IMPLAUSIBLE, at_read=CHANNELS, reason="uint16"),
    opens(f"{ODD}/libvips_4bit.tif", "tifffile", needs_mpp=IMPLAUSIBLE, at_read=CHANNELS, reason="uint16"),
    refused(f"{ODD}/libvips_dicom_test_image.dcm", OTHER, "Nuclear Medicine"),
    opens(f"{ODD}/libvips_ojpeg-strip.tif", "image", needs_mpp=IMPLAUSIBLE, reason="254"),
    refused(f"{ODD}/libvips_truncated.jpg", errors.TruncatedSlideError, "cut off"),
    refused(f"{ODD}/unopenable.tiff", errors.UnsupportedCompressionError, "52479"),
    opens(f"{ODD}/unreadable.svs", "openslide", 0.499, at_read=UNREADABLE, reason="Bogus marker length"),
]


def present_paths() -> list[str]:
    folder = shared_folder()
    if folder is None:
        return []
    data = folder / "data"
    return [p.relative_to(data).as_posix() for top in ("wsi", "wsi_odd") for p in sorted((data / top).rglob("*"))]


def test_the_table_is_complete(shared):
    assert sorted(o.path for o in TABLE) == sorted(present_paths())


@pytest.mark.parametrize("outcome", [pytest.param(o, id=o.path) for o in TABLE if o.reader is None])
def test_refused(shared: Path, outcome: Outcome):
    with pytest.raises(errors.SlideOpenError) as caught:
        open_slide(shared / "data" / outcome.path)
    assert type(caught.value) is outcome.at_open
    assert outcome.reason in str(caught.value)
    assert Path(outcome.path).name.split(".")[0].split("_")[0] in str(caught.value)


@pytest.mark.parametrize("outcome", [pytest.param(o, id=o.path) for o in TABLE if o.reader is not None])
def test_opened(shared: Path, outcome: Outcome):
    path = shared / "data" / outcome.path
    verdicts = explain_readers(path)
    assert [v.reader for v in verdicts] == ["direct", "openslide", "tifffile", "image"]
    assert [v.reader for v in verdicts if v.took] == [outcome.reader]
    assert all(v.reason for v in verdicts)
    with open_slide(path) as slide:
        assert slide.reader == outcome.reader
        said = []
        if outcome.mpp is None:
            assert outcome.mpp_error is not None
            with pytest.raises(outcome.mpp_error, match="mpp=") as caught:
                _ = slide.mpp
            said.append(str(caught.value))
        else:
            assert slide.mpp == pytest.approx(outcome.mpp, rel=1e-3)
            assert slide.mpp_source.startswith("metadata:")
        if outcome.at_read is not None:
            with pytest.raises(outcome.at_read) as refusal:
                slide.read(slide.bounds, size=slide.size.fitted(64))
            said.append(str(refusal.value))
        if outcome.at_read is UNREADABLE:
            with pytest.raises(UNREADABLE):
                slide.thumbnail(64)
        else:
            image = slide.thumbnail(64)
            assert image.shape[:2] == (slide.size.fitted(64).height, slide.size.fitted(64).width)
            assert np.ptp(image) > 0 or "empty" in outcome.path
        assert outcome.reason in " ".join(said)


@pytest.mark.parametrize("outcome", [pytest.param(o, id=o.path) for o in TABLE if o.mpp_error is not None])
def test_opened_with_mpp(shared: Path, outcome: Outcome):
    """What has no resolution of its own takes a given one."""
    with open_slide(shared / "data" / outcome.path, mpp=0.4) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.4, "given")


@pytest.mark.parametrize("outcome", [pytest.param(o, id=o.path) for o in TABLE if o.at_read is CHANNELS])
def test_opened_with_channels(shared: Path, outcome: Outcome):
    """What is not 8-bit RGB is seen once somebody says how."""
    with open_slide(shared / "data" / outcome.path, channels=[0], window=(0, 255)) as slide:
        image = slide.read(Box(0, 0, 4, 4))
        assert image.shape == (4, 4, 3)
        assert slide.modality == "brightfield"


def test_every_error_says_what_to_do(shared: Path):
    for outcome in TABLE:
        if outcome.at_open is not None:
            with pytest.raises(outcome.at_open) as caught:
                open_slide(shared / "data" / outcome.path)
            sentence = str(caught.value)
            assert len(sentence) > 40, sentence
            assert sentence.count("'") >= 2, f"names no file: {sentence}"
