"""One vector per slide from the features of its tiles."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from microtome.cli import main
from microtome.config import EncodeSlidesConfig, resolve
from microtome.encoders.base import Card
from microtome.encoders.slide_encoders import N_FEATURES, TILE_ENCODERS, list_slide_encoders, load_slide_encoder
from microtome.errors import (
    MissingOutputError,
    TileSizeError,
    UnknownEncoderError,
    WeightsError,
)
from microtome.features.store import FeatureStore
from microtome.models.slide_encoders import Chief, Feather
from microtome.tasks.slide_vectors import encode_slides

BOXES = np.array([[0, 0, 512, 512], [512, 0, 512, 512], [512, 1024, 512, 512]])


def write_features(folder, slide_id="a", d=768, n=3, seed=0, **attrs):
    features = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    said = {"encoder": "chief-ctranspath", "mpp": 1.0, **attrs}
    FeatureStore(folder).write(slide_id, features, BOXES[:n], recipe={"seed": seed}, attrs=said)
    return features


def settings(folder, out, **more):
    return resolve(EncodeSlidesConfig, {"features": folder, "out": out, "weights": "none", "quiet": True, **more})


def test_vectors_are_those_of_the_network_and_are_features_of_one_row(tmp_path):
    features = write_features(tmp_path / "tiles")
    result = encode_slides(settings(tmp_path / "tiles", tmp_path))
    assert (result.done, result.skipped, result.failed) == (["a"], [], {})
    bag = result.store["a"]
    encoder = load_slide_encoder("chief", weights="none")
    with torch.inference_mode():
        expected = encoder._network(torch.from_numpy(features)[None])
    np.testing.assert_array_equal(bag.features, expected.vector.numpy())
    assert bag.boxes.tolist() == [[0, 0, 1024, 1536]]
    assert (bag.attrs["tile_encoder"], bag.attrs["n_tiles"], bag.attrs["weights_origin"]) == (
        "chief-ctranspath",
        3,
        "filled",
    )
    assert encoder.encode(features).attention.sum() == pytest.approx(1)


def published(name, path):
    """A file as it is published: with what the vector does without."""
    torch.manual_seed(0)
    network: Chief | Feather
    if name == "chief":
        network = Chief()
        more = {"organ_embedding": torch.zeros(19, 768), "classifiers.weight": torch.zeros(2, 768)}
        torch.save({**network.state_dict(), **more}, path)
    else:
        network = Feather(N_FEATURES[name])
        tensors = {f"model.{key}": value.contiguous() for key, value in network.state_dict().items()}
        save_file({**tensors, "model.classifier.weight": torch.zeros(3, 512)}, path)
    return network.eval()


@pytest.mark.parametrize("name", list_slide_encoders())
def test_published_files_load_into_the_network(name, tmp_path):
    path = tmp_path / ("chief.pth" if name == "chief" else "model.safetensors")
    network = published(name, path)
    features = np.random.default_rng(1).standard_normal((5, N_FEATURES[name])).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(features)[None]).vector[0].numpy()
    encoder = load_slide_encoder(name, weights=path)
    np.testing.assert_allclose(encoder.encode(features).vector, expected, atol=1e-6)
    assert encoder.weights_origin == "file"
    assert isinstance(encoder.card, Card)
    assert len(expected) == encoder.card.dim


def test_the_order_of_tiles_does_not_matter_and_half_precision_is_taken():
    encoder = load_slide_encoder("feather-uni", weights="none")
    features = np.random.default_rng(0).standard_normal((40, 1024)).astype(np.float16)
    first, turned = (encoder.encode(each).vector for each in (features, features[::-1]))
    np.testing.assert_allclose(first, turned, atol=1e-5)


def test_what_is_there_is_kept_and_other_settings_are_refused(tmp_path):
    write_features(tmp_path / "tiles")
    assert encode_slides(settings(tmp_path / "tiles", tmp_path)).done == ["a"]
    assert encode_slides(settings(tmp_path / "tiles", tmp_path)).skipped == ["a"]
    write_features(tmp_path / "tiles", seed=1)
    refused = encode_slides(settings(tmp_path / "tiles", tmp_path))
    assert "--overwrite" in refused.failed["a"]
    assert encode_slides(settings(tmp_path / "tiles", tmp_path, overwrite=True)).done == ["a"]


@pytest.mark.parametrize(
    ("attrs", "d", "words"),
    [
        ({"encoder": "uni"}, 768, "takes features of 'chief-ctranspath'. Those of 'b' are of 'uni'"),
        ({"mpp": 0.5}, 768, "made for 1 µm/px"),
        ({}, 512, "768 numbers"),
    ],
)
def test_one_bad_slide_does_not_stop_the_others(tmp_path, attrs, d, words, capsys):
    write_features(tmp_path / "tiles", "a")
    write_features(tmp_path / "tiles", "b", d=d, **attrs)
    code = main(["encode-slides", str(tmp_path / "tiles"), "--out", str(tmp_path), "--weights", "none", "--quiet"])
    out = capsys.readouterr().out
    assert code == 1
    assert words in out
    assert "done 1, skipped 0, failed 1" in out


def test_another_resolution_can_be_allowed_and_is_recorded(tmp_path):
    write_features(tmp_path / "tiles", mpp=0.5)
    result = encode_slides(settings(tmp_path / "tiles", tmp_path, allow_mpp_mismatch=True))
    assert "mpp_mismatch" in (result.store.recipe_text("a") or "")


def test_what_is_not_there(tmp_path):
    with pytest.raises(MissingOutputError, match="no features in"):
        encode_slides(settings(tmp_path, tmp_path))
    with pytest.raises(UnknownEncoderError, match="Did you mean 'chief'"):
        load_slide_encoder("chef")
    with pytest.raises(WeightsError, match="--weights"):
        load_slide_encoder("chief")
    with pytest.raises(TileSizeError, match="takes vectors of 'uni'"):
        load_slide_encoder("feather-uni", weights="none").encode(np.zeros((3, 768), np.float32))
    assert TILE_ENCODERS.keys() == N_FEATURES.keys()
