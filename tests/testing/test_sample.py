"""A written sample: each format opens as it should, the truth lies beside it, and writing again changes nothing."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from microtome.annotations.geojson import read_polygons
from microtome.errors import ConfigError, OutputWriteError, RecipeMismatchError
from microtome.geometry import Box
from microtome.slides.listing import list_slides
from microtome.slides.open import open_slide
from microtome.testing import SampleSlide, SyntheticSlide, write_dicom, write_sample

KINDS = ("svs", "tiff", "ome", "dicom")
SIZE = 1024


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> list[SampleSlide]:
    folder = tmp_path_factory.mktemp("sample")
    slides: list[SampleSlide] = write_sample(folder, n_slides=4, size_px=SIZE, seed=2, kinds=KINDS, mpp=0.4)
    return slides


def opened(slide: SampleSlide) -> openslide.OpenSlide:
    return openslide.OpenSlide(slide.path / "level-0.dcm" if slide.kind == "dicom" else slide.path)


def test_openslide_opens_each_kind(sample: list[SampleSlide]) -> None:
    vendors = {"svs": "aperio", "tiff": "generic-tiff", "ome": "generic-tiff", "dicom": "dicom"}
    for slide in sample:
        with opened(slide) as file:
            assert file.properties["openslide.vendor"] == vendors[slide.kind]
            assert float(file.properties["openslide.mpp-x"]) == pytest.approx(0.4, rel=1e-5)
            levels = ((1024, 1024), (256, 256), (64, 64))
            assert file.level_dimensions == (levels[:1] if slide.kind == "ome" else levels)
    with tifffile.TiffFile(sample[2].path) as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(1024, 1024, 3), (256, 256, 3), (64, 64, 3)]
    with opened(sample[0]) as svs:
        assert set(svs.associated_images) == {"label", "macro", "thumbnail"}


def test_the_files_hold_the_synthetic_pixels(sample: list[SampleSlide]) -> None:
    box = Box(400, 380, 300, 260)
    for index, slide in enumerate(sample):
        picture = SyntheticSlide(2000 + index, size=SIZE, mpp=0.4, tumour=index != 3)
        with opened(slide) as file:
            pixels = np.asarray(file.read_region((box.x, box.y), 0, (box.width, box.height)))[:, :, :3].astype(int)
        assert abs(pixels - picture.read(box)).mean() < 6  # JPEG
        assert slide.tissue.equals(picture.tissue)


def test_our_own_listing_and_readers_take_the_sample(sample: list[SampleSlide]) -> None:
    entries = list_slides([sample[0].path.parent]).entries
    assert [entry.slide_id for entry in entries] == [slide.slide_id for slide in sample]
    for entry, slide in zip(entries, sample, strict=True):
        with open_slide(entry.path) as opened_slide:
            assert opened_slide.size == slide.size
            assert opened_slide.mpp == pytest.approx(0.4, rel=1e-5)
            assert len(opened_slide.levels) == 3
            assert opened_slide.modality == "brightfield"


def test_truth_lies_beside(sample: list[SampleSlide]) -> None:
    for slide in sample:
        truth = slide.path.parent / "truth"
        for name, shape in (("Tissue", slide.tissue), ("Tumour", slide.tumour)):
            path = truth / f"{slide.slide_id}.{name.lower()}.geojson"
            polygons = read_polygons(path)
            assert {p.label for p in polygons} <= {name}
            assert sum(p.polygon.area for p in polygons) == pytest.approx(shape.area, rel=1e-6)
            collection = json.loads(path.read_text(encoding="utf-8"))
            assert collection["type"] == "FeatureCollection"
            assert all(f["properties"]["objectType"] == "annotation" for f in collection["features"])
    assert [s.label for s in sample] == ["tumour", "tumour", "tumour", "normal"]
    assert sample[3].tumour.is_empty


def test_the_cohort_table_names_every_slide(sample: list[SampleSlide]) -> None:
    folder = sample[0].path.parent
    with (folder / "cohort.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == [s.slide_id for s in sample]
    assert all((folder / row["path"]).exists() for row in rows)
    assert {row["mpp"] for row in rows} == {"0.4"}
    assert len({row["patient_id"] for row in rows}) == 4
    assert [row["label"] for row in rows] == [s.label for s in sample]


def test_writing_again_keeps_what_is_whole(tmp_path: Path) -> None:
    seen: list[str] = []
    first = write_sample(
        tmp_path, n_slides=2, size_px=512, kinds=("svs", "dicom"), on_slide=lambda s: seen.append(s.slide_id)
    )
    assert seen == ["sample-01", "sample-02"]
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*.*") if p.suffix in (".svs", ".dcm")}
    assert len(before) == 4
    second = write_sample(tmp_path, n_slides=2, size_px=512, kinds=("svs", "dicom"))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in before} == before
    assert [s.path for s in second] == [s.path for s in first]
    content = first[0].path.read_bytes()
    first[0].path.unlink()  # as if killed before the slide was there
    write_sample(tmp_path, n_slides=3, size_px=512, kinds=("svs", "dicom"))
    assert first[0].path.read_bytes() == content
    assert (tmp_path / "sample-03.svs").is_file()
    assert not list(tmp_path.rglob(".*"))


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_sample(tmp_path, n_slides=1, size_px=512, kinds=("tiff",))
    with pytest.raises(RecipeMismatchError, match=r"seed: 0 → 1000"):
        write_sample(tmp_path, n_slides=1, size_px=512, kinds=("tiff",), seed=1)
    with pytest.raises(RecipeMismatchError, match="height: 512 → 640"):
        write_sample(tmp_path, n_slides=1, size_px=640, kinds=("tiff",))
    shutil.rmtree(tmp_path / "truth")
    with pytest.raises(RecipeMismatchError, match="nothing says that it is a sample"):
        write_sample(tmp_path, n_slides=1, size_px=512, kinds=("tiff",))


@pytest.mark.parametrize(
    "bad", [{"n_slides": 0}, {"size_px": 100}, {"kinds": ()}, {"kinds": ("svs", "mrxs")}, {"mpp": 0.0}]
)
def test_bad_arguments(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        write_sample(tmp_path / "none", **bad)
    assert not (tmp_path / "none").exists()


def test_dicom_is_a_tiled_full_series(sample: list[SampleSlide]) -> None:
    pydicom = pytest.importorskip("pydicom")
    levels = [pydicom.dcmread(path) for path in sorted(sample[3].path.glob("*.dcm"))]
    assert [level.NumberOfFrames for level in levels] == [16, 1, 1]
    assert {level.SeriesInstanceUID for level in levels} == {levels[0].SeriesInstanceUID}
    assert len({level.SOPInstanceUID for level in levels}) == 3
    spacing = [
        float(level.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]) for level in levels
    ]
    assert spacing == pytest.approx([0.0004, 0.0016, 0.0064])
    assert {level.DimensionOrganizationType for level in levels} == {"TILED_FULL"}


def test_dicom_refuses_what_it_does_not_hold(tmp_path: Path) -> None:
    fluorescence = SyntheticSlide(0, size=512, modality="fluorescence")
    with pytest.raises(ConfigError, match="8-bit RGB"):
        write_dicom(tmp_path / "a", fluorescence.canvas())
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputWriteError, match="there already"):
        write_dicom(tmp_path / "b", SyntheticSlide(0, size=512).canvas())
    assert not (tmp_path / "a").exists()
