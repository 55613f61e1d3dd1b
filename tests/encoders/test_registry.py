import pytest

import microtome
from microtome.encoders import registry
from microtome.encoders.base import Encoder
from microtome.encoders.registry import cards_table, list_encoders, load_encoder, read_card
from microtome.errors import ConfigError, UnknownEncoderError


def test_names_are_sorted_and_each_has_its_card():
    assert list(list_encoders()) == sorted(list_encoders())
    for name in list_encoders():
        assert read_card(name).name == name


def test_the_package_offers_the_verbs():
    assert microtome.load_encoder is load_encoder
    assert microtome.list_encoders is list_encoders


def test_loading_gives_an_encoder_of_that_card():
    encoder = load_encoder("texture")
    assert isinstance(encoder, Encoder)
    assert encoder.card == read_card("texture")
    assert encoder.device == "cpu"
    assert encoder.precision == "fp32"
    assert encoder.weights_hash == ""


@pytest.mark.parametrize("near", ["textur", "Texture", "texture2", "txture"])
def test_an_unknown_name_is_answered_with_the_nearest(near):
    for verb in (load_encoder, read_card):
        with pytest.raises(UnknownEncoderError, match="Did you mean 'texture'") as caught:
            verb(near)
        assert isinstance(caught.value, LookupError)
        assert repr(near) in str(caught.value)


@pytest.mark.parametrize("far", ["", "zzz", "0000"])
def test_a_name_like_nothing_lists_what_there_is(far):
    with pytest.raises(UnknownEncoderError, match=r"There are: .*texture") as caught:
        load_encoder(far)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": "model.pt"}, "has no weights.*model.pt"),
        ({"device": "cuda"}, "CPU only.*cuda"),
        ({"device": "mps"}, "CPU only.*mps"),
        ({"precision": "bf16"}, "fp32 only.*bf16"),
    ],
)
def test_texture_refuses_what_it_cannot_honour(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_encoder("texture", **settings)


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"precision": "auto"}, {"precision": "fp32"}])
def test_texture_takes_what_it_is(settings):
    assert load_encoder("texture", **settings).precision == "fp32"


def test_the_table_has_a_row_per_encoder_and_a_cell_per_column():
    head, rule, *rows = cards_table().splitlines()
    assert set(rule) <= set("|- ")
    assert len(rows) == len(list_encoders())
    assert {row.count(" | ") for row in rows} == {head.count(" | ")}
    assert "Apache-2.0" in cards_table()


def test_bars_in_a_card_do_not_break_the_table(monkeypatch):
    from dataclasses import replace

    card = replace(read_card("texture"), licence="MIT | other")
    monkeypatch.setattr(registry, "read_card", lambda _: card)
    assert r"MIT \| other" in cards_table()
