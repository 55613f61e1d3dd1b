"""Tiles of a resolution that the encoder's weights were not made for."""

from dataclasses import replace
from typing import Any

import pytest

from microtome.errors import ConfigError
from microtome.features.plan import ExtractOptions, check_mpp, plan_bag
from microtome.storage import digest
from tests.features.fakes import ArraySource, Means


def encoder(*mpp, weights="f00d"):
    made = Means()
    made.card = replace(made.card, mpp=mpp)
    made.weights_hash = weights
    return made


def source(mpp):
    made = ArraySource()
    made.mpp = mpp
    return made


ALLOW = ExtractOptions(allow_mpp_mismatch=True)


@pytest.mark.parametrize("mpp", [0.44, 0.56, 0.25, 1.0])
def test_a_difference_of_more_than_ten_percent_is_refused(mpp):
    with pytest.raises(ConfigError, match=rf"{mpp:g} µm/px.*'means' was made for 0.5 µm/px.*--allow-mpp-mismatch"):
        plan_bag("A", source(mpp), encoder(0.5), ExtractOptions())


def test_it_can_be_allowed_and_is_recorded():
    _, allowed = plan_bag("A", source(1.0), encoder(0.5), ALLOW)
    assert allowed["mpp_mismatch"] is True
    _, suited = plan_bag("A", source(0.5), encoder(0.5), ALLOW)
    assert "mpp_mismatch" not in suited
    _, plain = plan_bag("A", source(0.5), encoder(0.5), ExtractOptions())
    assert digest(suited) == digest(plain), "allowing what does not occur changes nothing"


@pytest.mark.parametrize(
    ("mpp", "made"),
    [(0.46, encoder(0.5)), (0.54, encoder(0.5)), (1.05, encoder(0.5, 1.0)), (7.0, encoder()), (None, encoder(0.5))],
)
def test_what_suits_is_taken(mpp, made):
    _, recipe = plan_bag("A", source(mpp), made, ExtractOptions())
    assert "mpp_mismatch" not in recipe


def test_an_encoder_without_weights_measures_at_any_resolution():
    plan_bag("A", source(2.0), encoder(0.5, weights=""), ExtractOptions())


def test_between_two_resolutions_is_neither():
    with pytest.raises(ConfigError, match=r"0\.5, 1 µm/px"):
        check_mpp("this grid", encoder(0.5, 1.0), 0.7, allow_mismatch=False)


@pytest.mark.slow
def test_a_run_is_refused_before_any_slide_is_touched(cohort, tmp_path):
    from microtome.config import ExtractConfig
    from microtome.tasks.run import run

    slides = tuple(str(path) for path in sorted(cohort.glob("*.svs")))[:1]
    out = tmp_path / "out"
    settings: dict[str, Any] = {"slides": slides, "encoder": "hipt-vit256", "weights": "none", "device": "cpu",
                                "precision": "fp32", "runtime": "torch", "n_tiles": 2, "quiet": True, "tile_mpp": 1.0,
                                "tile_px": 64}  # fmt: skip
    with pytest.raises(ConfigError, match="allow-mpp-mismatch"):
        run(ExtractConfig(out=out, **settings))
    assert not out.exists()
    result = run(ExtractConfig(out=out, allow_mpp_mismatch=True, **settings))
    assert not result.record.failed
    import h5py

    (file,) = out.glob("features/*/*.h5")
    with h5py.File(file) as stored:
        assert "mpp_mismatch" in stored.attrs["recipe"]
