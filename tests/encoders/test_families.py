"""Every encoder of the zoo: sizes, files in each published layout, pixels, and the contract on networks cut short."""

from dataclasses import fields, replace
from functools import cache, partial

import numpy as np
import pytest
import torch

from microtome.encoders.base import Encoder
from microtome.encoders.hardware import Wanted
from microtome.encoders.network import NetworkEncoder
from microtome.encoders.positions import resample_positions
from microtome.encoders.published import Published
from microtome.encoders.registry import find_published, list_encoders, load_encoder, read_card
from microtome.errors import ModalityError, TileSizeError, WeightsError
from microtome.testing.encoder_contract import EncoderContract
from tests.encoders.test_cards import LOADABLE, VARIANTS
from tests.encoders.zoo import PLAIN, WITH_TABLES, small, tiles, write_file

NAMES = (*LOADABLE, *VARIANTS)
STORED_ELSEWHERE = {"conch-v1.5": 306.71, "midnight-12k": 1134.77, "midnight-12k:cls": 1134.77}
"""M parameters here, where the published figure counts a position table of another grid."""


def find(name: str) -> Published:
    encoder = find_published(name, None)
    assert isinstance(encoder, Published)
    return encoder


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_card(name):
    card = read_card(name)
    with torch.device("meta"):
        network = find(name).build()
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    assert parameters == pytest.approx(STORED_ELSEWHERE.get(name, card.parameters), abs=0.00501)


def own(name: str) -> tuple[Published, NetworkEncoder]:
    """The encoder cut short, made of its network directly."""
    encoder = small(name)
    network = encoder.build()
    return encoder, NetworkEncoder(encoder, network, wanted=Wanted("cpu", "fp32", "torch"), weights_hash="x")


QUICK = {"phikon", "ibot-vits-coad", "kaiko-s16", "lunit-bt", "hipt-vit256", "fastglioma-lowres-tokenizer", "plip"}


def walk(names):
    """Each name; those whose network is wide, or whose tile is large, only among the slow tests."""
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", walk(NAMES))
def test_features_of_a_published_file(name, tmp_path):
    """Bit-equal through each layout; the same alone and in a batch; tiles of other kinds and sizes as the card says."""
    encoder, direct = own(name)
    check_files(encoder, direct, tmp_path)
    check_batches(encoder, direct)
    check_sizes(encoder, direct)


def check_files(encoder, direct, folder):
    name, network = encoder.card.name, direct._network
    if name == "plip":
        network.head.bias.zero_()  # the published layer has none
    batch = tiles(encoder, 2)
    for layout in encoder.card.layouts:
        path = write_file(encoder, network, layout, folder)
        if encoder.settle is not None:
            encoder.settle(network, layout)
        if name == "conch-v1.5":  # its table passes through 14 x 14, whatever its size
            table = network.trunk.pos_embed
            table.copy_(resample_positions(table, (28, 28), rule="conch_v1_5", n_prefix=1))
        expected = NetworkEncoder(encoder, network, wanted=Wanted("cpu", "fp32", "torch"), weights_hash="x").encode(
            batch
        )
        loaded = replace(encoder, build=partial(shaken, encoder)).load(weights=path, **PLAIN)
        np.testing.assert_array_equal(loaded.encode(batch), expected)
        assert expected.shape == (2, encoder.card.dim)
        assert np.abs(expected[0] - expected[1]).max() > 1e-4
        assert loaded.weights_hash
        assert loaded.weights_origin == "file"
        assert loaded.card == encoder.card


def shaken(encoder: Published) -> torch.nn.Module:
    """The same network with other weights."""
    network: torch.nn.Module = encoder.build()
    for parameter in network.parameters():
        parameter.add_(0.37)
    return network


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def check_batches(encoder, direct):
    batch = tiles(encoder, 3)
    features = direct.encode(batch)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(direct.encode(batch), features)
    alone = np.concatenate([direct.encode(tile[None]) for tile in batch[::-1]])[::-1]
    np.testing.assert_allclose(alone, features, rtol=0, atol=1e-4 * np.abs(features).max())
    for wrong in (batch.astype(np.float32), batch[..., :1], batch[0]):
        with pytest.raises(ModalityError, match=encoder.card.name):
            direct.encode(wrong)


def check_sizes(encoder, direct):
    other = 256 if encoder.card.tile_px != 256 else 288
    batch = tiles(encoder, 1, other)
    if encoder.card.size_policy == "error":
        with pytest.raises(TileSizeError, match="takes tiles of"):
            direct.encode(batch)
        return
    assert direct.encode(batch).shape == (1, encoder.card.dim)
    if encoder.square_only:
        with pytest.raises(TileSizeError, match="square"):
            direct.encode(np.concatenate([batch, batch], axis=1))


def test_phikons_epsilon_is_that_of_its_files_layout(tmp_path):
    encoder = small("phikon")
    seen = {}
    for layout in encoder.card.layouts:
        path = write_file(encoder, encoder.build(), layout, tmp_path)
        loaded = encoder.load(weights=path, **PLAIN)
        assert isinstance(loaded, NetworkEncoder)
        norms = [m for m in loaded._network.modules() if isinstance(m, torch.nn.LayerNorm)]
        seen[layout] = {norm.eps for norm in norms}
        assert len(norms) == 5
    assert seen == {"hf-vit": {1e-12}, "dino": {1e-6}}


def test_a_region_encoder_wants_both_files(tmp_path):
    encoder = small("hipt-4k")
    write_file(encoder, encoder.build(), "dino", tmp_path)
    (tmp_path / "vit4k_xs_dino.pth").unlink()
    with pytest.raises(WeightsError, match=r"2 files in one folder.*lacks vit4k_xs_dino.pth"):
        encoder.load(weights=tmp_path, **PLAIN)
    with pytest.raises(WeightsError, match=r"lacks vit256_small_dino\.pth, vit4k_xs_dino\.pth"):
        encoder.load(weights=tmp_path / "vit256_small_dino.pth", **PLAIN)


def test_parts_decide_the_hash(tmp_path):
    encoder = small("hipt-4k")
    network = encoder.build()
    write_file(encoder, network, "dino", tmp_path)
    before = encoder.load(weights=tmp_path, **PLAIN).weights_hash
    assert encoder.load(weights=tmp_path, **PLAIN).weights_hash == before
    network.get_submodule("regions.vit4k").norm.bias.add_(1)
    write_file(encoder, network, "dino", tmp_path)
    assert encoder.load(weights=tmp_path, **PLAIN).weights_hash != before


@pytest.mark.parametrize(
    ("name", "of"), [("uni", "hipt-vit256"), ("uni", "retccl"), ("phikon", "phikon-v2"), ("retccl", "uni")]
)
def test_a_file_of_another_encoder_is_refused(name, of, tmp_path):
    encoder, other = small(name), small(of)
    path = write_file(other, other.build(), other.card.layouts[0], tmp_path)
    with pytest.raises(WeightsError, match=f"'{name}'|layout|weights"):
        encoder.load(weights=path, **PLAIN)


@pytest.mark.parametrize("name", ["hipt-vit256", "fastglioma-lowres-tokenizer", "prostate-small:avg"])
def test_filled_weights_run_and_say_so(name):
    encoder = load_encoder(name, weights="none", **PLAIN)
    features = encoder.encode(tiles(find(name), 1))
    assert features.shape == (1, read_card(name).dim)
    assert encoder.weights_origin == "filled"
    assert not encoder.card.trained_on


def test_encoders_without_published_weights_ask_for_a_file():
    for name in ("ibot-vits-coad", "moco-wrn-coad"):
        with pytest.raises(WeightsError, match="--weights"):
            load_encoder(name, **PLAIN)


@cache
def cut_encoder(name: str) -> Encoder:
    return own(name)[1]


class _OnCutNetworks(EncoderContract):
    registered = False
    tolerance = 1e-4

    def test_the_card_says_enough(self, encoder: Encoder) -> None:
        assert {field.name for field in fields(encoder.card)}  # tests/encoders/test_cards.py looks closer


class TestBrightField(_OnCutNetworks):
    @pytest.fixture(params=["phikon", "resnet50:layer3", "prostate-small:blocks=2,avg"])
    def encoder(self, request) -> Encoder:
        return cut_encoder(request.param)


class TestStimulatedRaman(_OnCutNetworks):
    @pytest.fixture(params=["fastglioma-lowres-tokenizer"])
    def encoder(self, request) -> Encoder:
        return cut_encoder(request.param)

    def tiles(self, card, n, seed=0):
        return tiles(find(card.name), n, seed=seed)


@pytest.mark.slow
class TestOtherWaysOfPooling(_OnCutNetworks):
    @pytest.fixture(params=["virchow2", "keep", "plip", "ctranspath", "hibou-b"])
    def encoder(self, request) -> Encoder:
        return cut_encoder(request.param)


def test_the_registry_hands_out_the_zoo():
    assert set(LOADABLE) < set(list_encoders())
    assert set(WITH_TABLES) == {"ctranspath", "prostate"}
