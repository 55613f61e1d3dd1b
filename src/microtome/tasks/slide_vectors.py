"""`microtome encode-slides`: one vector per slide, by a published slide encoder, from the features of its tiles."""

from dataclasses import dataclass, field

import numpy as np

from microtome.config.slide_vectors import EncodeSlidesConfig
from microtome.encoders.registry import read_card
from microtome.encoders.slide_encoders import SlideEncoder, load_slide_encoder
from microtome.errors import ConfigError, MicrotomeError, MissingOutputError, OutputWriteError, RecipeMismatchError
from microtome.features.plan import check_card_mpp
from microtome.features.store import Bag, FeatureStore
from microtome.storage import Claim, Progress, digest, open_progress, recipe_text, safe_name


@dataclass
class SlideVectors:
    """What became of the slides.

    Attributes:
        store: One row of features per slide: a bag of one.
        done: Slides that were encoded.
        skipped: Slides that were there.
        failed: Slide → why it has no vector.
    """

    store: FeatureStore
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def encode_slides(config: EncodeSlidesConfig, *, progress: Progress | None = None) -> SlideVectors:
    """Encode every slide of a folder of features.

    The vectors are features of one row each, ``features/<slide encoder>/<slide>.h5``, so that whatever takes features
    takes them; ``boxes`` holds the box around the slide's tiles.

    Args:
        config: Settings of ``microtome encode-slides``.
        progress: Where to say how far it is.

    Raises:
        MissingOutputError: If there are no features.
        UnknownEncoderError: If there is no such slide encoder.
        WeightsError: If its weights cannot be had, read or made to fit.
        OutputWriteError: If a file cannot be written.
    """
    tiles = FeatureStore(config.features)
    if not len(tiles):
        raise MissingOutputError(f"There are no features in '{config.features}'. Extract them first.")
    encoder = load_slide_encoder(config.slide_encoder, weights=config.weights, device=config.device)
    result = SlideVectors(FeatureStore(config.out / "features" / safe_name(encoder.card.name)))
    shown = progress or open_progress(quiet=config.quiet)
    shown.start("slides", len(tiles))
    for slide_id in tiles:
        try:
            with Claim(result.store.path(slide_id)):
                made = _encode(tiles, slide_id, encoder, result.store, config)
            (result.done if made else result.skipped).append(slide_id)
        except OutputWriteError:
            raise
        except (MicrotomeError, OSError, ValueError) as error:
            result.failed[slide_id] = str(error)
            shown.note(f"{slide_id}: {error}")
        shown.advance(1)
    shown.finish()
    return result


def _encode(
    tiles: FeatureStore, slide_id: str, encoder: SlideEncoder, store: FeatureStore, config: EncodeSlidesConfig
) -> bool:
    """Encode one slide; whether there was anything to do."""
    bag = tiles[slide_id]
    mpp = _check(bag, encoder, allow_mismatch=config.allow_mpp_mismatch)
    recipe = {
        **encoder.recipe,
        "tile_features": str(bag.attrs.get("recipe") or digest({"features": np.asarray(bag.features)})),
        **({"mpp_mismatch": True} if mpp is not None and not encoder.card.suits(mpp) else {}),
    }
    if slide_id in store:
        if store.recipe_text(slide_id) == recipe_text(recipe):
            return False
        if not config.overwrite:
            raise RecipeMismatchError(
                f"'{store.path(slide_id)}' was made with other settings. Pass --overwrite, or choose another --out."
            )
    encoded = encoder.encode(bag.features)
    attrs: dict[str, str | int | float] = {
        "encoder": encoder.card.name,
        "weights_origin": encoder.weights_origin,
        "tile_encoder": encoder.tile_encoder,
        "n_tiles": len(bag),
        **({} if mpp is None else {"mpp": mpp}),
    }
    store.write(slide_id, encoded.vector[None], _around(bag), recipe=recipe, attrs=attrs)
    return True


def _check(bag: Bag, encoder: SlideEncoder, *, allow_mismatch: bool) -> float | None:
    """The tiles' resolution, if the features are of the right tile encoder and resolution."""
    made_by = bag.attrs.get("encoder")
    if made_by is not None and _own_name(str(made_by)) != encoder.tile_encoder:
        raise ConfigError(
            f"Slide encoder '{encoder.card.name}' takes features of '{encoder.tile_encoder}'. Those of "
            f"'{bag.slide_id}' are of '{made_by}'. Extract them with --encoder {encoder.tile_encoder}."
        )
    mpp = bag.attrs.get("mpp")
    if mpp is not None:
        check_card_mpp(f"'{bag.slide_id}'", encoder.card, float(mpp), allow_mismatch=allow_mismatch)
    return None if mpp is None else float(mpp)


def _own_name(name: str) -> str:
    """A card's name, by an alias or by itself; an unknown one stays."""
    try:
        return read_card(name).name
    except MicrotomeError:
        return name


def _around(bag: Bag) -> np.ndarray:
    """The box around a slide's tiles; zeros where nobody knows where they lie."""
    if not bag.has_boxes or not len(bag):
        return np.zeros((1, 4), np.int64)
    corners, ends = bag.boxes[:, :2], bag.boxes[:, :2] + bag.boxes[:, 2:]
    low = corners.min(axis=0)
    return np.concatenate([low, ends.max(axis=0) - low])[None].astype(np.int64)
