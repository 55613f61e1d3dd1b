"""Metadata of OpenSRH's layout."""

import json

import pytest

from microtome.errors import CohortError
from microtome.tiles.opensrh import is_opensrh, read_opensrh

SLIDE = {
    "slide_id": "1",
    "slide_class": "2",
    "normal_patches": ["studies/A/1/patches/A-1-0_0_0_0.tif"],
    "tumor_patches": ["studies/A/1/patches/A-1-0_0_0_300.tif", "studies/A/1/patches/A-1-0_0_0_600.tif"],
    "nondiagnostic_patches": ["studies/A/1/patches/A-1-0_0_300_0.tif"],
}


def study(**changes):
    slide = {key: value for key, value in {**SLIDE, **changes}.items() if value is not None}
    return {
        "A": {"patient_id": "A", "class": "hgg", "slides": {"1": slide}},
        "B": {"patient_id": "B", "class": "normal", "slides": {"1": SLIDE, "2": SLIDE}},
    }


def write(root, meta, splits=None, name="opensrh.json"):
    (root / "meta").mkdir(exist_ok=True)
    (root / "meta" / name).write_text(json.dumps(meta))
    if splits is not None:
        (root / "meta" / "train_val_split.json").write_text(json.dumps(splits))
    return root


def test_a_bag_is_the_three_lists_in_their_order(tmp_path):
    slide = read_opensrh(write(tmp_path, study())).slides[0]
    names = [path.name for path in slide.patches]
    assert names == ["A-1-0_0_0_0.tif", "A-1-0_0_0_300.tif", "A-1-0_0_0_600.tif", "A-1-0_0_300_0.tif"]
    assert (slide.name, slide.patient_class, slide.slide_class, slide.kinds) == ("A.1", "hgg", "2", (1, 2, 1))
    assert slide.patches[0].is_relative_to(tmp_path)


def test_slides_are_chosen_by_split_and_by_patient(tmp_path):
    found = read_opensrh(write(tmp_path, study(), {"train": ["B"], "val": ["A"]}))
    assert [s.name for s in found.choose("all")] == ["A.1", "B.1", "B.2"]
    assert [s.name for s in found.choose("train")] == ["B.1", "B.2"]
    assert [s.name for s in found.choose("valid")] == ["A.1"] == [s.name for s in found.choose(["A"])]
    with pytest.raises(CohortError, match="'C'"):
        found.choose(["A", "C"])


def test_metadata_with_degrees_is_preferred(tmp_path):
    write(tmp_path, study(slide_class=None))
    assert read_opensrh(tmp_path).slides[0].slide_class == ""
    write(tmp_path, study(), name="opensrh_withslideclass.json")
    assert read_opensrh(tmp_path).slides[0].slide_class == "2"
    assert read_opensrh(tmp_path, meta="opensrh.json").slides[0].slide_class == ""


@pytest.mark.parametrize("kind", ["normal_patches", "tumor_patches", "nondiagnostic_patches"])
def test_a_missing_list_is_named(tmp_path, kind):
    with pytest.raises(CohortError, match=rf"A\.slides\.1 has no '{kind}'"):
        read_opensrh(write(tmp_path, study(**{kind: None})))


@pytest.mark.parametrize("wrong", ["a.tif", 3, [1, 2], {"a": 1}])
def test_a_list_of_another_kind_is_refused(tmp_path, wrong):
    with pytest.raises(CohortError, match="must be a list of paths"):
        read_opensrh(write(tmp_path, study(tumor_patches=wrong)))


@pytest.mark.parametrize("meta", [[], {"A": []}, {"A": {"class": "hgg"}}, {"A": {"slides": []}}])
def test_metadata_of_another_shape_is_refused(tmp_path, meta):
    with pytest.raises(CohortError, match=r"opensrh\.json"):
        read_opensrh(write(tmp_path, meta))


def test_absent_and_damaged_metadata_are_refused(tmp_path):
    assert not is_opensrh(tmp_path)
    with pytest.raises(CohortError, match="layout"):
        read_opensrh(tmp_path)
    write(tmp_path, study(), {"train": "A"})
    with pytest.raises(CohortError, match="must be a list of patients"):
        read_opensrh(tmp_path)
    (tmp_path / "meta" / "opensrh.json").write_text('{"A": ')
    with pytest.raises(CohortError, match="JSON"):
        read_opensrh(tmp_path)


def test_a_split_that_is_not_there_is_named(tmp_path):
    found = read_opensrh(write(tmp_path, study()))
    with pytest.raises(CohortError, match="no split 'val'"):
        found.choose("valid")
