"""Any network of timm as an encoder: cards, weights from files and the hub's cache, features that are timm's."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from microtome.encoders.base import Encoder
from microtome.encoders.drift import random_tiles
from microtome.encoders.filled import FILL_RULE, fill_network
from microtome.encoders.registry import list_encoders, load_encoder, read_card
from microtome.errors import ConfigError, ModalityError, UnknownEncoderError, WeightsError
from microtome.storage import digest, hash_file
from microtome.testing.encoder_contract import EncoderContract

PLAIN = {"device": "cpu", "precision": "fp32"}


def config_of(name):
    """What timm says of a network's published weights."""
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return config


def filled_network(architecture, **arguments):
    network = timm.create_model(architecture, **arguments).eval()
    px = config_of(architecture).input_size[1]
    fill_network(network, (3, px, px))
    return network


def write_file(path, architecture, **arguments):
    save_file({k: v.contiguous() for k, v in filled_network(architecture, **arguments).state_dict().items()}, path)
    return path


def published_features(network, name, tiles):
    """What timm's own transform and forward give."""
    transform = create_transform(**resolve_data_config(pretrained_cfg=config_of(name).to_dict()))
    images = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
    with torch.inference_mode():
        return network(images).numpy()


@cache
def filled_encoder(name):
    return load_encoder(name, weights="none", **PLAIN)


class TestTimmNetworks(EncoderContract):
    registered = False  # the names of timm are not listed
    tolerance = 1e-4

    @pytest.fixture(params=["timm:resnet18", "timm:vit_tiny_patch16_224"])
    def encoder(self, request) -> Encoder:
        return filled_encoder(request.param)


@pytest.mark.parametrize(
    ("name", "dim", "tile_px", "input_px", "interpolation"),
    [
        ("resnet18", 512, 235, 224, "bicubic"),
        ("resnet18.tv_in1k", 512, 256, 224, "bilinear"),
        ("vit_tiny_patch16_224", 192, 248, 224, "bicubic"),
        ("mobilenetv3_small_100", 1024, 256, 224, "bicubic"),
        ("xcit_nano_12_p16_224", 128, 224, 224, "bicubic"),
    ],
)
def test_a_card_is_timms_config(name, dim, tile_px, input_px, interpolation):
    card = read_card(f"timm:{name}")
    config = config_of(name)
    assert (card.dim, card.tile_px, card.input_px, card.interpolation) == (dim, tile_px, input_px, interpolation)
    assert (card.mean, card.std) == (config.mean, config.std)
    assert card.repo == config.hf_hub_id
    assert card.licence == config.license
    assert card.size_policy == "resize"
    assert f"timm:{name}" not in list_encoders()


def test_a_tile_of_the_cards_size_is_not_resampled():
    for name in ("resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224"):
        card = read_card(f"timm:{name}")
        assert card.resize == card.tile_px
        transform = create_transform(**resolve_data_config(pretrained_cfg=config_of(name).to_dict()))
        assert transform.transforms[0].size == card.tile_px


def test_features_are_those_of_timm(tmp_path):
    network = filled_network("resnet18", num_classes=0)
    path = write_file(tmp_path / "model.safetensors", "resnet18", num_classes=0)
    encoder = load_encoder("timm:resnet18", weights=path, **PLAIN)
    for px in (235, 256, 512):
        tiles = random_tiles(2, (px, px, 3))
        expected = published_features(network, "resnet18", tiles)
        np.testing.assert_allclose(encoder.encode(tiles), expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert encoder.weights_hash == hash_file(path)
    assert encoder.weights_origin == "file"
    assert encoder.card == read_card("timm:resnet18")
    assert digest(encoder.recipe) != digest(filled_encoder("timm:resnet18").recipe)


def test_a_classifier_is_left_out_and_nothing_else(tmp_path):
    path = write_file(tmp_path / "model.safetensors", "resnet18")
    with_head = load_encoder("timm:resnet18", weights=path, **PLAIN)
    without = filled_encoder("timm:resnet18")
    tiles = random_tiles(2, (235, 235, 3))
    np.testing.assert_allclose(with_head.encode(tiles), without.encode(tiles), atol=1e-5)


def test_filled_weights_say_so():
    encoder = filled_encoder("timm:resnet18")
    assert encoder.weights_origin == "filled"
    assert encoder.card.revision == FILL_RULE
    assert "filled by rule" in encoder.card.licence
    assert "mean nothing" in encoder.card.intended_use
    assert not encoder.card.repo
    assert not encoder.card.trained_on
    recipe = encoder.recipe
    assert (recipe["weights_origin"], recipe["runtime"], recipe["precision"]) == ("filled", "torch", "fp32")
    assert encoder.weights_hash == load_encoder("timm:resnet18", weights="none", **PLAIN).weights_hash


def test_the_file_of_another_network_is_recognised(tmp_path):
    path = write_file(tmp_path / "model.safetensors", "resnet34")
    with pytest.raises(WeightsError, match=r"not of the network of 'timm:resnet18'.*layer1.2.*timm:resnet34"):
        load_encoder("timm:resnet18", weights=path, **PLAIN)


def test_positions_of_another_image_size_are_refused(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", img_size=256, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "vit256.pth")
    with pytest.raises(WeightsError, match=r"'pos_embed' is \(1, 257, 192\), here it is \(1, 197, 192\)"):
        load_encoder("timm:vit_tiny_patch16_224", weights=tmp_path / "vit256.pth", **PLAIN)


def test_a_teacher_of_dino_loads(tmp_path):
    state = filled_network("vit_tiny_patch16_224", num_classes=0).state_dict()
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()} | {"head.mlp.0.weight": torch.ones(2, 2)}
    student = {f"module.backbone.{name}": -tensor for name, tensor in state.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 1}, tmp_path / "dino.pth")
    encoder = load_encoder("timm:vit_tiny_patch16_224", weights=tmp_path / "dino.pth", **PLAIN)
    filled = filled_encoder("timm:vit_tiny_patch16_224")
    tiles = random_tiles(1, (248, 248, 3))
    np.testing.assert_array_equal(encoder.encode(tiles), filled.encode(tiles))


@pytest.mark.slow
def test_files_of_older_timm_load_by_timms_rules(tmp_path):
    """timm 0.5 ended a stage of Swin with its downsampling and stored tables of indices."""
    state = filled_network("swin_tiny_patch4_window7_224", num_classes=0).state_dict()
    old = {}
    for name, tensor in state.items():
        words = name.split(".")
        if "downsample" in words:
            words[1] = str(int(words[1]) - 1)
        old[".".join(words)] = tensor
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save({"model": old}, tmp_path / "old.pth")
    encoder = load_encoder("timm:swin_tiny_patch4_window7_224", weights=tmp_path / "old.pth", **PLAIN)
    network = filled_network("swin_tiny_patch4_window7_224", num_classes=0)
    tiles = random_tiles(1, (248, 248, 3))
    expected = published_features(network, "swin_tiny_patch4_window7_224", tiles)
    np.testing.assert_allclose(encoder.encode(tiles), expected, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["timm:resnet81", "timm:vit_tiny_patch61_224", "timm:resnet18.nonsense", "timm:", "timm:zz"]
)
def test_unknown_networks_are_answered_with_near_ones(name):
    for verb in (read_card, load_encoder):
        with pytest.raises(UnknownEncoderError, match=r"timm .* has no network") as caught:
            verb(name)
    if "resnet" in name:
        assert "timm:resnet18" in str(caught.value)


def test_what_is_not_a_vector_per_square_tile_is_refused(tmp_path):
    sees = {"input_size": [3, 224, 224]}
    write_repository(tmp_path, "vit_tiny_patch16_224", sees, {"global_pool": ""}, weights=False)
    with pytest.raises(ConfigError, match=r"output of shape \(1, 197, 192\)"):
        read_card("hf-hub:owner/tokens", weights=tmp_path / "model.safetensors")


def write_repository(folder, architecture="resnet18", pretrained_cfg=None, model_args=None, weights=True):
    """A repository as timm publishes it, filled by rule."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "pretrained_cfg": {
            "input_size": [3, 192, 192],
            "crop_pct": 1.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "interpolation": "bilinear",
            "license": "mit",
            "num_classes": 0,
            **(pretrained_cfg or {}),
        },
        **({"model_args": model_args} if model_args else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        write_file(folder / "model.safetensors", architecture, num_classes=0)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The user's cache of the hub, offline, with one repository in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--owner--tiles"
    write_repository(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "v1").write_text(commit)
    from microtome.encoders import timm_models

    timm_models._find.cache_clear()
    yield repository / "snapshots" / commit
    timm_models._find.cache_clear()


@pytest.mark.parametrize("name", ["hf-hub:owner/tiles", "hf-hub:owner/tiles@v1"])
def test_a_repository_is_read_from_the_users_cache(hub, name):
    encoder = load_encoder(name, **PLAIN)
    assert (encoder.card.tile_px, encoder.card.mean, encoder.card.licence) == (192, (0.5, 0.5, 0.5), "mit")
    assert encoder.weights_origin == "published"
    assert encoder.weights_hash == hash_file(hub / "model.safetensors")
    assert encoder.encode(random_tiles(2, (192, 192, 3))).shape == (2, 512)


def test_a_repository_may_hold_a_pickled_file(hub):
    state = filled_network("resnet18").state_dict()
    (hub / "model.safetensors").unlink()
    torch.save(state, hub / "pytorch_model.bin")
    assert load_encoder("hf-hub:owner/tiles", **PLAIN).weights_hash == hash_file(hub / "pytorch_model.bin")


def test_a_repository_copied_by_hand_needs_no_hub(hub, tmp_path):
    folder = write_repository(tmp_path / "copy", pretrained_cfg={"license": "own"})
    encoder = load_encoder("hf-hub:other/tiles", weights=folder / "model.safetensors", **PLAIN)
    assert encoder.card == read_card("hf-hub:other/tiles", weights=folder / "model.safetensors")
    assert (encoder.card.licence, encoder.card.repo) == ("own", "other/tiles")


def test_arguments_of_the_constructor_are_taken(hub, tmp_path):
    folder = write_repository(tmp_path / "copy", "vit_tiny_patch16_224", model_args={"img_size": 192}, weights=False)
    card = read_card("hf-hub:other/small", weights=folder / "model.safetensors")
    assert (card.dim, card.input_px) == (192, 192)


@pytest.mark.parametrize("name", ["hf-hub:owner/absent", "timm:resnet18"])
def test_what_is_not_in_the_cache_is_said_with_what_to_do(hub, name):
    with pytest.raises(WeightsError, match=r"(?s)Cannot get .* of '.*'.*--weights FILE.*HF_HOME.*--weights none"):
        load_encoder(name, **PLAIN)


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:tiles", "hf-hub:a/b/c", "hf-hub:/x"])
def test_what_names_no_repository_is_refused(hub, name):
    with pytest.raises(UnknownEncoderError, match="owner/repository"):
        load_encoder(name)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ("{", WeightsError, "cannot be read as JSON"),
        ("[1]", WeightsError, "not a JSON object"),
        ('{"model_type": "vit"}', WeightsError, "names no architecture of timm"),
        ('{"architecture": "own_net"}', UnknownEncoderError, "'own_net', which timm .* does not have"),
        ('{"architecture": "resnet18", "model_args": {"nonsense": 1}}', ConfigError, "cannot be built.*nonsense"),
    ],
)
def test_a_config_that_is_not_timms_is_refused(hub, config, error, words):
    (hub / "config.json").write_text(config)
    with pytest.raises(error, match=words):
        load_encoder("hf-hub:owner/tiles", **PLAIN)


def test_settings_that_cannot_be_had_are_refused_before_weights_are_read():
    with pytest.raises(ConfigError, match="abacus"):
        load_encoder("timm:resnet18", weights="absent.pth", device="abacus")
    with pytest.raises(ConfigError, match="fp1"):
        load_encoder("timm:resnet18", weights="absent.pth", device="cpu", precision="fp1")
    with pytest.raises(WeightsError, match=r"absent.pth"):
        load_encoder("timm:resnet18", weights="absent.pth", **PLAIN)


def test_16_bit_tiles_are_refused_with_what_would_help():
    encoder = filled_encoder("timm:resnet18")
    with pytest.raises(
        ModalityError, match=r"brightfield tiles, uint8 \(n, h, w, 3\).*uint16 \(1, 9, 9, 2\).*--channels"
    ):
        encoder.encode(np.zeros((1, 9, 9, 2), np.uint16))


def test_listing_encoders_imports_no_network_library():
    code = (
        "import sys\nfrom microtome.encoders.registry import cards_table, list_encoders, read_card\n"
        "cards_table(); [read_card(name) for name in list_encoders()]\n"
        "import microtome.encoders.published\n"
        "assert not {'torch', 'timm', 'huggingface_hub', 'openvino'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_slide_becomes_features_that_are_marked(cohort, tmp_path):
    import h5py

    from microtome.config import ExtractConfig
    from microtome.tasks.run import run

    slides = tuple(str(path) for path in sorted(cohort.glob("*.svs")))
    result = run(
        ExtractConfig(
            slides=slides,
            out=tmp_path / "out",
            encoder="timm:resnet18",
            weights="none",
            device="cpu",
            precision="fp32",
            quiet=True,
        )
    )
    assert not result.record.failed
    (file,) = (tmp_path / "out" / "features").rglob("*.h5")
    assert file.parent.name == "timm-resnet18_235px_0.5"
    with h5py.File(file) as stored:
        assert stored["features"].shape[1] == 512
        assert stored.attrs["weights_origin"] == "filled"
        assert json.loads(stored.attrs["recipe"])["weights_origin"] == "filled"
