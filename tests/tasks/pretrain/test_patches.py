"""Which patches make which batch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import CohortError, ConfigError
from microtome.tasks.pretrain.augment import Augment
from microtome.tasks.pretrain.patches import (
    PatchPatient,
    PatchViews,
    balanced_rows,
    list_patients,
    read_ahead,
    wrapped,
)
from microtome.tiles.opensrh import SrhSlide
from tests.tasks.pretrain.material import patients


def slide(patient, label, kinds, slide_id="1"):
    files = tuple(Path(f"{patient}/{slide_id}/{i}.tif") for i in range(sum(kinds)))
    return SrhSlide(patient, slide_id, label, "", files, kinds)


def test_normal_patients_give_normal_patches_and_the_others_tumour():
    slides = [slide("A", "Normal", (3, 2, 1)), slide("B", "hgg", (3, 2, 1)), slide("B", "hgg", (3, 0, 1), "2")]
    found, without = list_patients(slides)
    assert [[p.name for p in each] for one in found for each in one.slides] == [
        ["0.tif", "1.tif", "2.tif"],
        ["3.tif", "4.tif"],
    ]
    assert without == {"B.2": "no tumour patches"}
    with pytest.raises(CohortError, match="patches to learn from"):
        list_patients([slide("B", "hgg", (3, 0, 1))])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(0, 5))
def test_every_diagnosis_comes_as_often_as_the_commonest_and_each_patient_as_often_as_its_likes(labels, seed):
    rows = balanced_rows(labels, np.random.default_rng(seed))
    counts = Counter(labels[row] for row in rows)
    assert set(counts.values()) == {max(Counter(labels).values())}
    assert set(counts) == set(labels)
    per_row = Counter(rows.tolist())
    for label in set(labels):
        own = [per_row[row] for row, one in enumerate(labels) if one == label]
        assert max(own) - min(own) <= 1


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 5))
def test_too_few_come_again_and_none_twice_before_all_came(n, wanted, seed):
    found = wrapped(n, wanted, np.random.default_rng(seed))
    assert len(found) == wanted
    for start in range(0, wanted, n):
        assert len(set(found[start : start + n])) == len(found[start : start + n])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_follow_from_their_seeds_whatever_the_threads(workers):
    views = PatchViews(n_slides=3, crop_px=32)
    people = patients(4)
    jobs = [[(people[i], (0, 7, i)) for i in (0, 2)], [(people[i], (0, 7, i)) for i in (1, 3)]]
    expected = [torch.stack([views.of_patient(p, np.random.default_rng(seed)) for p, seed in job]) for job in jobs]
    found = list(read_ahead(jobs, views, workers=workers))
    assert [tuple(batch.shape) for batch in found] == [(2, 3, 2, 2, 3, 32, 32)] * 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.usefixtures("tiny")
def test_a_patient_with_one_patch_gives_views_of_it():
    lonely = PatchPatient("P1", "hgg", ((Path("P1/0/0.tif"),),))
    views = PatchViews(crop_px=40, augment=Augment((), 0))
    found = views.of_patient(lonely, np.random.default_rng(0))
    assert found.shape == (2, 2, 2, 3, 40, 40)
    assert not torch.equal(found[0, 0, 0], found[0, 0, 1])  # other parts of it


@pytest.mark.usefixtures("tiny")
def test_the_middle_is_as_large_as_what_training_sees():
    path = Path("P1/0/0.tif")
    whole = PatchViews().read(path)
    assert torch.equal(PatchViews().centre(whole), whole)
    assert torch.equal(PatchViews(crop_px=100).centre(whole), whole[:, 100:200, 100:200])
    with pytest.raises(ConfigError, match="crop_px"):
        PatchViews(crop_px=301)


def test_an_error_while_reading_reaches_the_training():
    with pytest.raises(Exception, match=r"0\.tif|1\.tif|2\.tif"):
        list(read_ahead([[(patients(1)[0], (0,))]], PatchViews(), workers=2))
