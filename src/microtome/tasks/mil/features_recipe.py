"""What kind of features a model was trained on, so that others are refused."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from microtome.errors import ConfigError, CorruptOutputError
from microtome.features.bag import Bag
from microtome.features.store import FeatureStore

_CARD = ("input_px", "mean", "std", "resize", "crop", "interpolation", "pooling", "revision")
_TILES = ("tile_fill", "tile_resample")
LAYING = ("tissue_method", "tissue_parameters", "min_tissue", "stride_px", "anchor", "bounds", "decode")
"""Settings of tissue and tiles that decide which tiles a slide has."""
_SAME_MPP = 0.01


@dataclass(frozen=True, slots=True)
class FeaturesRecipe:
    """How features came about, as far as their files say; what they do not say is None.

    Attributes:
        n_features: Length of a vector.
        encoder: Name on the encoder's card.
        weights_sha256: Hash of its weights; empty where it has none.
        tile_px: Side of a tile, in output pixels.
        mpp: µm per tile pixel.
        level: Pyramid level in whose pixels tiles were laid; None where they were laid at a resolution.
        precision: In which the encoder computed.
        preprocessing: Resize, crop, normalisation, pooling and fill, by the names of the features' own recipe.
        laying: Settings of the run that found tissue and laid tiles, of :data:`LAYING`; empty where nobody knows.
    """

    n_features: int
    encoder: str | None = None
    weights_sha256: str | None = None
    tile_px: int | None = None
    mpp: float | None = None
    level: int | None = None
    precision: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    laying: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which :meth:`from_dict` makes the recipe again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FeaturesRecipe":
        """The recipe that :meth:`as_dict` wrote."""
        return cls(**values)

    def conflicts(self, other: "FeaturesRecipe") -> list[str]:
        """In what the other's features are of another kind: ``name: own → other's``.

        What one of them does not say is no conflict here but in :meth:`unsaid`.
        """
        found = []
        for name in ("n_features", "encoder", "weights_sha256", "tile_px", "level"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                found.append(f"{name}: {_shown(mine)} → {_shown(theirs)}")
        if self.mpp is not None and other.mpp is not None and abs(other.mpp / self.mpp - 1) > _SAME_MPP:
            found.append(f"mpp: {self.mpp:g} → {other.mpp:g}")
        for name in sorted(self.preprocessing.keys() & other.preprocessing.keys()):
            mine, theirs = self.preprocessing[name], other.preprocessing[name]
            if mine != theirs:
                found.append(f"{name}: {_shown(mine)} → {_shown(theirs)}")
        return found

    def unsaid(self, other: "FeaturesRecipe") -> list[str]:
        """What one of the two says and the other does not, so that nobody can compare it."""
        names = ("encoder", "weights_sha256", "tile_px", "mpp")
        found = [n for n in names if (getattr(self, n) is None) != (getattr(other, n) is None)]
        if "mpp" in found and None not in (self.level, other.level):
            found.remove("mpp")
        return found

    def notes(self, other: "FeaturesRecipe") -> list[str]:
        """Differences that do not make features of another kind, but that a person wants to know of."""
        found = []
        if None not in (self.precision, other.precision) and self.precision != other.precision:
            found.append(f"The model's features were computed in {self.precision}, these in {other.precision}.")
        for name in sorted(self.laying.keys() & other.laying.keys()):
            mine, theirs = self.laying[name], other.laying[name]
            if mine != theirs:
                found.append(f"Tiles were laid with {name} {_shown(mine)} for the model, here with {_shown(theirs)}.")
        return found


def check_features(trained: FeaturesRecipe, given: FeaturesRecipe, *, what: str, trust: bool = False) -> None:
    """Refuse features of another kind than a model's.

    Args:
        trained: Of the model.
        given: Of what it is to be used on.
        what: Whose features they are, for the message.
        trust: Take features that do not say how they were made, where they contradict nothing.

    Raises:
        ConfigError: If they were made otherwise, or do not say how.
    """
    if conflicts := trained.conflicts(given):
        raise ConfigError(
            f"The features of {what} are of another kind than those that the model was trained on "
            f"(model → here: {'; '.join(conflicts)}). Extract features with the model's encoder and tiles, or pass the "
            "slides themselves."
        )
    if (unsaid := trained.unsaid(given)) and not trust:
        sides = [f"{n} (model {_shown(getattr(trained, n))}, here {_shown(getattr(given, n))})" for n in unsaid]
        raise ConfigError(
            f"Nobody knows whether the features of {what} are of the kind that the model was trained on: "
            f"{', '.join(sides)}. If you know that they are, pass --trust-features."
        )


def features_recipe(bag: Bag) -> FeaturesRecipe:
    """What a bag's file says of how its features came about.

    Raises:
        CorruptOutputError: If its recipe is no JSON.
    """
    attrs = bag.attrs
    try:
        recipe = json.loads(str(attrs.get("recipe", "{}")))
    except ValueError as error:
        raise CorruptOutputError(f"The recipe of the features of '{bag.slide_id}' cannot be read ({error}).") from error
    if not isinstance(recipe, dict):
        recipe = {}
    side = attrs.get("patch_size")
    names = [*(f"card_{name}" for name in _CARD), *_TILES]
    return FeaturesRecipe(
        n_features=bag.dim,
        encoder=bag.encoder,
        weights_sha256=recipe.get("weights_sha256"),
        tile_px=side if isinstance(side, int) else None,
        mpp=bag.mpp,
        level=recipe.get("tile_level"),
        precision=attrs.get("precision"),
        preprocessing={name: recipe[name] for name in names if name in recipe},
    )


def read_features_recipe(store: FeatureStore, slide_ids: Iterable[str]) -> FeaturesRecipe:
    """The one recipe of the features of several slides.

    Args:
        store: Where they are.
        slide_ids: Whose; at least one.

    Raises:
        ConfigError: If there is no slide, or two have features of different kinds; both are named.
        MissingOutputError: If a slide has no features.
        CorruptOutputError: If its file is damaged.
    """
    first: tuple[str, FeaturesRecipe] | None = None
    for slide_id in slide_ids:
        found = features_recipe(store[slide_id])
        if first is None:
            first = slide_id, found
        elif different := [*first[1].conflicts(found), *first[1].unsaid(found)]:
            raise ConfigError(
                f"'{store.folder}' holds features of different kinds: '{first[0]}' and '{slide_id}' differ in "
                f"{'; '.join(different)}. Keep each kind in a folder of its own."
            )
    if first is None:
        raise ConfigError(f"No slide of '{store.folder}' was named, so there are no features to look at.")
    return replace(first[1], laying=read_laying(store.folder))


def read_laying(features: Path) -> dict[str, Any]:
    """Settings of the run that laid the tiles of a folder of features, from the ``run.json`` two folders above.

    Returns:
        Those of :data:`LAYING`; empty where there is no such record, or tiles were supplied.
    """
    try:
        config = json.loads((features.resolve().parents[1] / "run.json").read_text(encoding="utf-8"))["config"]
        supplied = config.get("coords") is not None or config.get("tiles") is not None
        return {} if supplied else {name: config[name] for name in LAYING}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}


def _shown(value: object) -> str:
    text = "unknown" if value is None else "none" if value == "" else str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
