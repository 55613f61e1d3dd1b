"""Every value that decides an output changes its digest, one by one; what does not decide it does not."""

import dataclasses
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import shapely

from microtome.encoders.base import Card, Encoder
from microtome.errors import MicrotomeError
from microtome.features.plan import ExtractOptions, plan_bag
from microtome.geometry import Box, Size
from microtome.slides.open import open_slide
from microtome.slides.resolution import Given
from microtome.slides.view import View
from microtome.storage import digest
from microtome.tasks.stages import imported_recipe, tiles_recipe
from microtome.testing.array_slide import ArraySlide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tissue.find import TISSUE_METHODS, tissue_recipe
from microtome.tissue.tissue import Tissue

PIXELS = np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8)
SIZE = Size(600, 400)


class ChangedSlide(ArraySlide):
    """A slide of which one thing may be said differently."""

    def __init__(self, pixels=PIXELS, *, reader="array", library="1.0", **options):
        super().__init__(pixels, **options)
        self._native = {"name": reader, "library": library}

    @property
    def native_recipe(self):
        return self._native


SLIDES = {
    "content": ChangedSlide(PIXELS ^ 1),
    "reader": ChangedSlide(reader="other"),
    "library version": ChangedSlide(library="1.1"),
    "mpp": ChangedSlide(mpp=0.499),
    "mpp source": ChangedSlide(mpp=None, given=Given(0.5, "--mpp")),
    "mpp overridden": ChangedSlide(given=Given(0.52, "--mpp", override=True)),
    "channels seen": ChangedSlide(view=View((0, 1, 2), 0.0, 255.0)),
    "other channels seen": ChangedSlide(view=View((2, 1, 0), 0.0, 255.0)),
    "window": ChangedSlide(view=View((0, 1, 2), 0.0, 250.0)),
    "window's low end": ChangedSlide(view=View((0, 1, 2), 5.0, 255.0)),
}
SLIDE = ChangedSlide()


def other_values(value):
    """Values of about the same kind; a constructor may refuse some."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2, value - 1]
    if isinstance(value, float):
        return [value + 1, value * 0.5, value * 0.99, value - 1, value + 0.01]
    if isinstance(value, str):
        return [{"slide": "tissue", "in": "pad"}.get(value, "other")]
    if isinstance(value, tuple):
        return [(*value, value[0] if value else 0.5)]
    return [1, 2]


def varied(thing):
    """Copies of a dataclass with one field changed, by the field's name: one for every field."""
    found = {}
    if getattr(thing, "mpp", None) is not None and getattr(thing, "level", 0) is None:  # one or the other
        found = {"level": replace(thing, mpp=None, level=0), "other level": replace(thing, mpp=None, level=1)}
    for field in fields(thing):
        for value in other_values(getattr(thing, field.name)):
            try:
                changed = replace(thing, **{field.name: value})
            except MicrotomeError:
                continue
            if getattr(changed, field.name) != getattr(thing, field.name):
                found[field.name] = changed
                break
    assert {f.name for f in fields(thing)} <= set(found)
    return found


def all_differ(recipes):
    """Whether the digests of these are all different."""
    digests = {name: digest(recipe) for name, recipe in recipes.items()}
    same = [(a, b) for a in digests for b in digests if a < b and digests[a] == digests[b]]
    assert same == []


@pytest.mark.parametrize("name", TISSUE_METHODS)
def test_each_parameter_of_each_tissue_method_changes_the_digest(name):
    method = TISSUE_METHODS[name]()
    changed = {k: tissue_recipe(SLIDE, m) for k, m in varied(method).items()}
    all_differ({"": tissue_recipe(SLIDE, method), **changed})


def test_each_tissue_method_and_its_version_change_the_digest(monkeypatch):
    recipes = {name: tissue_recipe(SLIDE, kind()) for name, kind in TISSUE_METHODS.items()}
    for name, kind in TISSUE_METHODS.items():
        monkeypatch.setattr(kind, "version", kind.version + 1)
        recipes[f"{name} later"] = tissue_recipe(SLIDE, kind())
    all_differ(recipes)


def test_whatever_is_another_slide_changes_the_digest_of_its_tissue_and_features():
    method = TISSUE_METHODS["auto"]()
    all_differ({k: tissue_recipe(s, method) for k, s in {"": SLIDE, **SLIDES}.items()})
    all_differ({k: features(slide=s) for k, s in {"": SLIDE, **SLIDES}.items()})


def test_an_imported_outline_is_known_by_its_content(tmp_path):
    path = tmp_path / "a.geojson"
    recipes = {}
    for name, text in (("a", "{}"), ("b", "{} ")):
        path.write_text(text)
        recipes[name] = imported_recipe(SLIDE, path)
    all_differ({**recipes, **{k: imported_recipe(s, path) for k, s in SLIDES.items()}})


@pytest.mark.parametrize("reader", ["direct", "openslide", "tifffile", "image"])
def test_versions_of_the_real_readers_are_in_the_recipe(cohort, tmp_path, monkeypatch, reader):
    import openslide
    import PIL
    import tifffile
    from PIL import Image

    path = cohort / "sample-01.svs"
    if reader == "image":
        path = tmp_path / "a.png"
        Image.fromarray(PIXELS).save(path)
    recipes = {}
    native = (openslide, "__library_version__")
    libraries = {"direct": native, "openslide": native, "tifffile": (tifffile, "__version__")}
    for name in ("", "library", "decoder"):
        if name == "library":
            monkeypatch.setattr(*libraries.get(reader, (PIL, "__version__")), "0.0.1")
        elif name == "decoder":
            monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
        with open_slide(path, reader=reader) as slide:
            recipes[name] = slide.recipe
    all_differ(recipes)


def tissue_of(x=0):
    return Tissue(shapely.MultiPolygon([shapely.box(x, 0, 600, 400)]), SIZE, 0.5, "drawn")


def test_each_field_of_the_grid_and_what_it_is_laid_on_change_the_digest_of_tiles():
    grid = Grid(tile_px=32, mpp=0.5, stride_px=16, min_tissue=0.5)
    recipes = {"": tiles_recipe(SLIDE, tissue_of(), grid), "tissue": tiles_recipe(SLIDE, tissue_of(1), grid)}
    recipes.update({k: tiles_recipe(SLIDE, tissue_of(), g) for k, g in varied(grid).items()})
    for name in ("content", "mpp"):
        recipes[name] = tiles_recipe(SLIDES[name], tissue_of(), grid)
    wide = ChangedSlide(np.concatenate([PIXELS, PIXELS], axis=1))
    recipes["size"] = tiles_recipe(wide, tissue_of(), grid)
    scanned = ChangedSlide()
    scanned.bounds = Box(8, 0, 500, 400)
    recipes["scanned part"] = tiles_recipe(scanned, tissue_of(), grid)
    all_differ(recipes)


@dataclass
class StillEncoder(Encoder):
    """Encodes nothing; says what it is."""

    card: Card
    weights_hash: str = "aa"
    precision: str = "fp32"
    device: str = "cpu"
    concurrent: bool = False

    def encode(self, images):
        raise NotImplementedError


CARD = Card(
    name="still",
    dim=2,
    input_px=32,
    tile_px=32,
    mpp=(0.5,),
    mean=(0.5,),
    std=(0.5,),
    resize=256,
    crop=224,
    trained_on=("a",),
    layouts=("a",),
    variants=("a",),
    aliases=("a",),
    unconfirmed=("a",),
)
GRID = Grid(tile_px=32, mpp=0.5)


def features(slide=SLIDE, tiles=None, card=CARD, options=None, encoder=None, **source):
    """The recipe of features, as the extraction loop plans it."""
    tiles = tiles or replace(lay_tiles(slide, None, GRID))
    encoder = encoder or StillEncoder(card)
    plan, recipe = plan_bag("a", SlideTiles(slide, tiles, "a", **source), encoder, options or ExtractOptions())
    assert plan.recipe_digest == digest(recipe)
    return recipe


def test_each_field_of_the_card_the_weights_and_the_precision_change_the_digest_of_features():
    recipes = {"": features()}
    for name, card in varied(CARD).items():
        kept = replace(card, modality=CARD.modality) if name == "modality" else card
        recipe = features(card=kept, options=ExtractOptions(allow_mpp_mismatch=name == "mpp"))
        recipes[name] = {**recipe, "card_modality": card.modality} if name == "modality" else recipe
    assert "card_modality" in features()  # an encoder of another kind is refused before its recipe matters
    recipes["weights"] = features(encoder=StillEncoder(CARD, weights_hash="bb"))
    recipes["precision in use"] = features(encoder=StillEncoder(CARD, precision="bf16"))
    all_differ(recipes)
    assert digest(features(encoder=StillEncoder(CARD, device="cuda:0", concurrent=True))) == digest(features())


def test_fill_resampling_and_each_property_of_tiles_change_the_digest_of_features():
    tiles = lay_tiles(SLIDE, None, GRID)
    boxes = np.array(tiles.boxes)
    boxes[3, 0] += 1
    recipes = {
        "": features(),
        "fill": features(fill="black"),
        **{how: features(resample=how) for how in ("nearest", "bilinear", "lanczos")},
        "boxes": features(tiles=replace(tiles, boxes=boxes)),
        "order": features(tiles=replace(tiles, boxes=tiles.boxes[::-1])),
        "fewer": features(tiles=replace(tiles, boxes=tiles.boxes[:-1], coverage=tiles.coverage[:-1])),
        "tile_px": features(tiles=replace(tiles, tile_px=31)),
        "tile_height_px": features(tiles=replace(tiles, tile_height_px=31)),
        "mpp": features(tiles=replace(tiles, mpp=0.501)),
        "level": features(tiles=replace(tiles, level=0, level_size=SIZE)),
    }
    all_differ(recipes)
    walked = {"boxes", "tile_px", "tile_height_px", "mpp", "level"}
    of_the_slide = {"slide_size", "slide_mpp", "level_size"}  # tiles of another slide are refused
    other_ways_to_the_same_boxes = {"grid", "coverage"}
    assert walked | of_the_slide | other_ways_to_the_same_boxes == {f.name for f in fields(tiles)}
    assert digest(features(tiles=replace(tiles, coverage=tiles.coverage / 2))) == digest(features())


def test_sampling_and_dtype_change_the_digest_of_features_and_speed_does_not():
    decide = {
        "dtype": ExtractOptions(dtype="float16"),
        "n_tiles": ExtractOptions(n_tiles=20),
        "fewer n_tiles": ExtractOptions(n_tiles=19),
        "seed": ExtractOptions(n_tiles=20, seed=1),
    }
    all_differ({"": features(), **{k: features(options=o) for k, o in decide.items()}})
    others: dict[str, Any] = {
        "batch_size": 7,
        "workers": 3,
        "encoder_threads": 2,
        "memory_bytes": 10**6,
        "min_coverage": 0.1,
        "overwrite": True,
        "allow_mpp_mismatch": True,  # where there is none; tests/features/test_mpp_mismatch.py
    }
    for name, value in others.items():
        assert digest(features(options=ExtractOptions(**{name: value}))) == digest(features()), name
    assert {"dtype", "n_tiles", "seed", *others} == {f.name for f in dataclasses.fields(ExtractOptions)}
    assert digest(features(options=ExtractOptions(seed=5))) == digest(features())  # where all tiles are taken
