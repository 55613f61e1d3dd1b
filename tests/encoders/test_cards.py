"""Every card says what a person must know, names are unambiguous, and what cannot be loaded says why."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from microtome.encoders.base import Card
from microtome.encoders.published import Published
from microtome.encoders.registry import _FAMILIES, find_published, list_encoders, load_encoder, read_card
from microtome.encoders.zoo import CLIP, HALF, IMAGENET, UNPINNED, Unavailable
from microtome.errors import ConfigError, UnknownEncoderError, WeightsError

ZOO = tuple(name for name in list_encoders() if name != "texture")
VARIANTS = (
    *(
        "resnet50:layer3",
        "virchow:cls",
        "virchow2:cls",
        "h0-mini:cls",
        "midnight-12k:cls",
        "musk:ms-aug",
        "hipt-4k:mean",
    ),
    *("exaonepath:normalised", "prostate-small:blocks=3,avg", "prostate-medium:avg,norm=half"),
)
LOADABLE = tuple(name for name in ZOO if not read_card(name).unavailable)

# Name: dim, M parameters, tile px, network px, mpp, policy; as the specification's table has them.
TABLE = {
    "resnet50": (2048, 23.51, 256, 224, (0.5,), "resize"),
    "resnet50:layer3": (1024, 8.54, 256, 224, (0.5,), "resize"),
    "phikon": (768, 85.80, 224, 224, (0.5,), "interpolate"),
    "phikon-v2": (1024, 303.35, 224, 224, (0.5,), "resize"),
    "ibot-vits-coad": (384, 21.67, 224, 224, (0.5,), "interpolate"),
    "ibot-vitb-coad": (768, 85.80, 224, 224, (0.5,), "interpolate"),
    "ibot-vitl-coad": (1024, 303.30, 224, 224, (0.5,), "interpolate"),
    "moco-wrn-coad": (2048, 66.83, 224, 224, (0.5,), "resize"),
    "uni": (1024, 303.35, 256, 224, (0.5,), "resize"),
    "uni2-h": (1536, 681.39, 256, 224, (0.5,), "resize"),
    "conch": (512, 87.57, 512, 448, (0.5,), "resize"),
    "conch-v1.5": (768, 306.11, 512, 448, (0.5,), "resize"),
    "virchow": (2560, 631.23, 224, 224, (0.5,), "resize"),
    "virchow:cls": (1280, 631.23, 224, 224, (0.5,), "resize"),
    "virchow2": (2560, 631.24, 224, 224, (0.5, 0.25, 1.0, 2.0), "resize"),
    "virchow2:cls": (1280, 631.24, 224, 224, (0.5, 0.25, 1.0, 2.0), "resize"),
    "prov-gigapath": (1536, 1134.95, 256, 224, (0.5,), "resize"),
    "h-optimus-0": (1536, 1134.77, 224, 224, (0.5,), "resize"),
    "h-optimus-1": (1536, 1134.77, 224, 224, (0.5,), "resize"),
    "h0-mini": (1536, 85.74, 224, 224, (0.5,), "resize"),
    "h0-mini:cls": (768, 85.74, 224, 224, (0.5,), "resize"),
    "hibou-b": (768, 85.74, 224, 224, (0.5,), "resize"),
    "hibou-l": (1024, 303.66, 224, 224, (0.5,), "resize"),
    "midnight-12k": (3072, 1136.48, 224, 224, (0.5, 0.25, 1.0, 2.0), "resize"),
    "midnight-12k:cls": (1536, 1136.48, 224, 224, (0.5, 0.25, 1.0, 2.0), "resize"),
    "kaiko-s8": (384, 21.67, 256, 224, (), "resize"),
    "kaiko-s16": (384, 21.67, 256, 224, (), "resize"),
    "kaiko-b8": (768, 85.81, 256, 224, (), "resize"),
    "kaiko-b16": (768, 85.80, 256, 224, (), "resize"),
    "kaiko-l14": (1024, 304.37, 256, 224, (), "resize"),
    "lunit-s8": (384, 21.67, 224, 224, (0.5,), "error"),
    "lunit-s16": (384, 21.67, 224, 224, (0.5,), "error"),
    "lunit-bt": (2048, 23.51, 224, 224, (0.5,), "error"),
    "lunit-mocov2": (2048, 23.51, 224, 224, (0.5,), "error"),
    "lunit-swav": (2048, 23.51, 224, 224, (0.5,), "error"),
    "ctranspath": (768, 27.52, 224, 224, (1.0,), "resize"),
    "chief-ctranspath": (768, 27.52, 256, 224, (1.0,), "resize"),
    "retccl": (2048, 23.51, 256, 256, (1.0,), "resize"),
    "gpfm": (1024, 303.23, 256, 224, (0.5,), "resize"),
    "musk": (1024, 303.94, 384, 384, (0.5, 0.25, 1.0), "resize"),
    "musk:ms-aug": (2048, 303.94, 384, 384, (0.5, 0.25, 1.0), "resize"),
    "keep": (768, 304.73, 256, 224, (0.5,), "resize"),
    "plip": (512, 87.85, 224, 224, (), "resize"),
    "hipt-vit256": (384, 21.67, 256, 256, (0.5,), "interpolate"),
    "hipt-4k": (192, 24.45, 4096, 4096, (0.5,), "interpolate"),
    "hipt-4k:mean": (576, 24.45, 4096, 4096, (0.5,), "interpolate"),
    "dino-brca": (384, 21.67, 256, 256, (0.5,), "interpolate"),
    "prostate-small": (384, 25.87, 224, 224, (), "resize"),
    "prostate-small:blocks=3,avg": (1536, 25.87, 224, 224, (), "resize"),
    "prostate-medium": (512, 83.88, 224, 224, (), "resize"),
    "prostate-medium:avg,norm=half": (1024, 83.88, 224, 224, (), "resize"),
    "fastglioma-highres-tokenizer": (512, 21.285, 300, 300, (), "error"),
    "fastglioma-lowres-tokenizer": (512, 21.278, 300, 300, (), "error"),
    "exaonepath:normalised": (768, 85.80, 256, 224, (0.5,), "resize"),
}

NORMS = {
    IMAGENET: "resnet50 phikon phikon-v2 uni uni2-h conch-v1.5 virchow virchow2 prov-gigapath ctranspath retccl gpfm "
    "keep chief-ctranspath exaonepath:normalised prostate-small",
    HALF: "hipt-vit256 hipt-4k dino-brca kaiko-s8 kaiko-l14 midnight-12k musk prostate-medium:avg,norm=half",
    CLIP: "conch plip",
}

BICUBIC = {"conch", "virchow", "virchow2", "prov-gigapath", "h-optimus-0", "h-optimus-1", "h0-mini", "hibou-b",
           "hibou-l", "gpfm", "musk", "keep", "plip", "exaonepath"}  # fmt: skip

GATED = {"uni", "uni2-h", "conch", "conch-v1.5", "virchow", "virchow2", "prov-gigapath", "h-optimus-1", "h0-mini",
         "hibou-b", "hibou-l", "chief-ctranspath", "musk", "fastglioma-highres-tokenizer",
         "fastglioma-lowres-tokenizer", "exaonepath", "titan", "prism", "path-foundation",
         "prov-gigapath-slide", "feather-uni", "feather-uni2-h", "feather-conch-v1.5"}  # fmt: skip

SAW_TCGA = {"phikon", "phikon-v2", "kaiko-s8", "kaiko-s16", "kaiko-b8", "kaiko-b16", "kaiko-l14", "midnight-12k",
            "lunit-s8", "lunit-s16", "lunit-bt", "lunit-mocov2", "lunit-swav", "ctranspath", "retccl", "gpfm",
            "hipt-vit256", "hipt-4k", "h0-mini", "dino-brca", "musk", "exaonepath", "path-foundation",
            "chief-ctranspath", "ibot-vits-coad", "ibot-vitb-coad", "ibot-vitl-coad", "moco-wrn-coad"}  # fmt: skip

ALIASES = {
    "iBOTViTBasePANCAN": "phikon",
    "iBOTViTSmallCOAD": "ibot-vits-coad",
    "iBOTViTBaseCOAD": "ibot-vitb-coad",
    "iBOTViTLargeCOAD": "ibot-vitl-coad",
    "MoCoWideResNetCOAD": "moco-wrn-coad",
    "ResNet50": "resnet50",
    "CTransPath": "ctranspath",
    "DinoChenBRCA": "dino-brca",
    "DinoChenPancancer": "hipt-vit256",
    "dino-pancancer": "hipt-vit256",
    "HIPT": "hipt-4k",
    "prostate_small": "prostate-small",
    "prostate_medium": "prostate-medium",
    "midnight": "midnight-12k",
    "gigapath": "prov-gigapath",
}


@pytest.mark.parametrize("name", [*ZOO, *VARIANTS])
def test_every_field_is_filled(name):
    card = read_card(name)
    said = {field.name: getattr(card, field.name) for field in fields(Card)}
    for field in ("name", "dim", "tile_px", "size_policy", "modality", "pooling", "precision", "licence", "paper",
                  "citation", "code", "trained_on", "intended_use", "parameters"):  # fmt: skip
        assert said[field], f"the card of {name} must state its {field}"
    assert all(said["trained_on"])
    assert "Not for diagnosis" in card.intended_use or "Investigational" in card.intended_use
    assert card.paper.startswith(("https://", "none found"))
    assert card.code.startswith("https://")
    assert 0 < card.dim < 5000
    assert all(0.1 <= mpp <= 4 for mpp in card.mpp)
    assert 224 <= card.tile_px <= 4096
    if not card.unavailable:
        assert card.layouts
        assert card.input_px
        assert len(card.mean) == len(card.std) == (0 if card.modality == "srh" else 3)
        assert card.size_policy in {"error", "resize", "interpolate"}
        assert (card.resize is not None) == (card.size_policy == "resize")
        assert (card.interpolation in {"bilinear", "bicubic"}) == (card.resize is not None)


@pytest.mark.parametrize("name", ZOO)
def test_weights_are_pinned_or_the_card_says_that_nobody_has_seen_them(name):
    card = read_card(name)
    if card.repo or card.url:
        assert (card.sha256 and card.revision) or UNPINNED in card.unconfirmed
        assert card.file or any("name of the file" in what or "name" in what for what in card.unconfirmed)
    else:
        assert "never released" in card.access
    assert len(set(card.unconfirmed)) == len(card.unconfirmed)


def test_names_and_aliases_do_not_clash():
    names = list(list_encoders())
    cards = [read_card(name) for name in names]
    aliases = [alias for card in cards for alias in card.aliases]
    assert [card.name for card in cards] == names
    assert len({*names, *aliases}) == len(names) + len(aliases)
    assert not {alias.lower() for alias in aliases if alias != alias.lower()} & set(aliases)
    assert all(re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", name) for name in names)
    assert len(set(_FAMILIES)) == len(_FAMILIES)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_names_of_the_original_repositories_are_taken(alias, name):
    assert read_card(alias) is read_card(name)
    assert alias in read_card(name).aliases


def test_variants_of_an_alias_are_those_of_its_encoder():
    assert read_card("HIPT:mean").name == "hipt-4k:mean"
    assert read_card("prostate_small:avg").name == "prostate-small:avg"


@pytest.mark.parametrize("name", TABLE)
def test_cards_are_those_of_the_table(name):
    card = read_card(name)
    assert (card.dim, card.parameters, card.tile_px, card.input_px, card.mpp, card.size_policy) == TABLE[name]


def test_the_table_has_every_encoder():
    assert {name.partition(":")[0] for name in TABLE} == {*LOADABLE, "exaonepath"}
    assert {name for name in VARIANTS if name not in TABLE} == set()


@pytest.mark.parametrize("norm", NORMS)
def test_normalisation(norm):
    for name in NORMS[norm].split():
        card = read_card(name)
        assert (card.mean, card.std) == norm, name


def test_filters():
    resizing = {name for name in LOADABLE if read_card(name).resize} | {"exaonepath"}
    assert {name for name in resizing if read_card(name).interpolation == "bicubic"} == BICUBIC
    assert {name for name in resizing if read_card(name).crop is None} == {
        *("ctranspath", "chief-ctranspath", "retccl", "virchow", "virchow2", "hibou-b", "hibou-l", "gpfm"),
        *("prostate-small", "prostate-medium"),
    }
    squared = {name for name in resizing - {"exaonepath"} if getattr(find_published(name, None), "square_only", False)}
    assert squared == {
        *("ctranspath", "chief-ctranspath", "retccl", "virchow", "virchow2", "prostate-small", "prostate-medium"),
    }


def test_gates():
    assert {name for name in ZOO if read_card(name).gated} == GATED
    for name in GATED & set(LOADABLE):
        assert "accept its terms" in read_card(name).access or "ask" in read_card(name).access


def test_training_data_for_warnings_of_leakage():
    assert {name for name in ZOO if any("TCGA" in what for what in read_card(name).trained_on)} == SAW_TCGA
    for cohort in ("CAMELYON", "PANDA"):
        assert cohort in read_card("gpfm").trained_on


@pytest.mark.parametrize("name", [name for name in ZOO if read_card(name).unavailable])
def test_what_cannot_be_loaded_says_why(name):
    assert isinstance(find_published(name, None), Unavailable)
    for weights in (None, "none"):
        with pytest.raises(WeightsError, match=re.escape(read_card(name).unavailable)):
            load_encoder(name, weights=weights, device="cpu")


def test_what_is_listed_without_being_loadable():
    assert set(ZOO) - set(LOADABLE) == {
        *("path-foundation", "titan", "prism", "exaonepath", "prov-gigapath-slide", "chief", "madeleine"),
        *("feather-conch-v1.5", "feather-uni", "feather-uni2-h"),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UNI", "Did you mean 'uni'"),
        ("uni-2h", "Did you mean 'uni2-h'"),
        ("phikon_v2", "Did you mean 'phikon-v2'"),
        ("ibotvitbasepancan", "Did you mean 'iBOTViTBasePANCAN'"),
        ("virchow2:mean", "virchow2:cls"),
        ("uni:cls", "'uni' has no variants"),
        ("texture:fine", "'texture' has no variants"),
        ("prostate-small:block=2", "blocks=1 to blocks=14"),
        ("prostate-small:blocks=15", "blocks=1 to blocks=14"),
        ("prostate-small:blocks=0", "blocks=1 to blocks=14"),
        ("prostate-small:blocks=-1", "blocks=1 to blocks=14"),
        ("prostate-small:avg=2", "blocks=1 to blocks=14"),
        ("prostate-small:norm=clip", "norm=half"),
        ("prostate-small:", "blocks=1 to blocks=14"),
        ("prostate-medium:blocks=27", "blocks=1 to blocks=26"),
    ],
)
def test_unknown_names_are_answered_with_what_there_is(name, words):
    with pytest.raises(UnknownEncoderError, match=words):
        load_encoder(name)


@pytest.mark.parametrize(
    ("name", "words"), [("prostate-small:norm=half,norm=half", "twice"), ("prostate-small:avg,avg", "twice")]
)
def test_choices_that_cannot_be_honoured(name, words):
    with pytest.raises(ConfigError, match=words):
        read_card(name)


def test_choices_have_one_canonical_name():
    names = ("prostate-small:avg,blocks=3", "prostate-small:blocks=3,avg", "prostate-small:norm=imagenet,avg,blocks=3")
    assert {read_card(name).name for name in names} == {"prostate-small:blocks=3,avg"}
    assert read_card("prostate-small:blocks=1").name == "prostate-small"
    assert read_card("prostate-small:norm=half").name == "prostate-small:norm=half"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_named_on_the_card_and_shares_the_file(name):
    base, _, variant = name.partition(":")
    card, of = read_card(name), read_card(base)
    offered = {offer.partition("=")[0] for offer in of.variants}
    assert {choice.partition("=")[0] for choice in variant.split(",")} <= offered
    same = ("file", "repo", "url", "licence", "trained_on", "parameters") if name != "resnet50:layer3" else ("repo",)
    assert all(getattr(card, field) == getattr(of, field) for field in same)
    assert not card.aliases
    assert (card.dim, card.mean) != (of.dim, of.mean) or of.unavailable


def test_ten_percent_of_the_resolution():
    card = read_card("uni")
    assert [card.suits(mpp) for mpp in (0.449, 0.451, 0.5, 0.549, 0.551, 1.0)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert read_card("virchow2").suits(2.1)
    assert not read_card("virchow2").suits(0.35)
    assert all(read_card("plip").suits(mpp) for mpp in (0.05, 0.5, 50))


def test_networks_with_other_pixels_say_so():
    for name in LOADABLE:
        encoder = find_published(name, None)
        assert isinstance(encoder, Published)
        srh = encoder.card.modality == "srh"
        assert (encoder.dtype, encoder.channels) == (("uint16", 2) if srh else ("uint8", 3))
        assert (encoder.preprocess is not None) == srh


def test_listing_imports_no_network_library():
    code = (
        "import sys\nfrom microtome.encoders.registry import cards_table, list_encoders, read_card\n"
        "cards_table(); [read_card(name).access for name in list_encoders()]; read_card('prostate-small:avg')\n"
        "assert not {'torch', 'timm', 'huggingface_hub', 'cv2', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
