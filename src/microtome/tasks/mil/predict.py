"""Predictions of a trained model on slides or features, with maps of what moved them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

import microtome
from microtome.cohort import Cohort
from microtome.cohort.predictions import Predictions, predictions_of, read_predictions
from microtome.config import PredictConfig
from microtome.errors import ConfigError, CorruptOutputError, MicrotomeError, OutputError, RecipeMismatchError
from microtome.features.bag import Bag
from microtome.features.opened import check_coverage
from microtome.features.store import FeatureStore
from microtome.storage import Progress, hash_array, now_utc, open_progress, write_json
from microtome.tasks.cluster_tables import read_table_recipe
from microtome.tasks.mil.explain import Explainer, Explanation
from microtome.tasks.mil.features_recipe import check_features, features_recipe, read_laying
from microtome.tasks.mil.map_files import SlideMaps, find_canvas, maps_table, write_maps
from microtome.tasks.mil.model_folder import TrainedModel, load_model
from microtome.tasks.mil.predict_inputs import (
    BagSource,
    UnitToPredict,
    find_bags,
    list_units,
    open_features,
    patient_of,
    read_given_cohort,
)
from microtome.tasks.output import INTENDED_USE, software_versions
from microtome.tasks.stages import check_recipe
from microtome.tasks.work import held

PREDICTIONS, RECORD, MAPS = "predictions.parquet", "predict.json", "maps"


@dataclass
class PredictResult:
    """What came of a prediction.

    Attributes:
        out: The output folder.
        predictions: None where only maps were asked for, or no slide could be predicted.
        failed: Slide, or biopsy or patient → why it has no prediction.
        notes: What a person wants to know.
        n_maps: Slides whose maps were drawn now.
        n_maps_kept: Slides whose maps were there already.
        n_without_thumbnail: Slides whose maps were drawn on an empty canvas.
    """

    out: Path
    predictions: Predictions | None = None
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    n_maps: int = 0
    n_maps_kept: int = 0
    n_without_thumbnail: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted:
    """One unit's outcome."""

    unit: UnitToPredict
    logits: Float64[np.ndarray, " c"]
    n_tiles: int
    n_unreadable: int


def predict(
    model: TrainedModel | str | Path,
    features: FeatureStore | str | Path,
    *,
    cohort: Cohort | None = None,
    device: str = "cpu",
    trust_features: bool = False,
    min_coverage: float = 0.9,
) -> Predictions:
    """Predict all slides of a folder of features; nothing is written.

    Args:
        model: A model, or its folder.
        features: A feature store, or a folder of features.
        cohort: Whose the slides are; with it only its slides are predicted.
        device: Where to compute.
        trust_features: Take features that do not say how they were made, where they contradict nothing.
        min_coverage: Least share of a slide's tiles that must have been readable.

    Returns:
        One row per slide (biopsy, patient), with the calibrated logits as ``logit_<output>`` and the number of tiles.

    Raises:
        ConfigError: If the features are of another kind than the model's.
        CoverageError: If too many tiles of a slide could not be read.
        CorruptOutputError: If features cannot be read.
    """
    model = model if isinstance(model, TrainedModel) else load_model(model)
    source = open_features(features.folder if isinstance(features, FeatureStore) else features)
    units, _, _ = list_units(source.slide_ids, model.unit, cohort)
    explainer = Explainer.on(model, device)
    done = []
    for unit in units:
        bags = _open(unit, source, model, trust=trust_features, min_coverage=min_coverage)
        found = explainer.explain(_joined(bags), attribution=False)
        done.append(_outcome(unit, bags, found))
    return _table(model, done, {"features": str(source.folder)})


def predict_files(config: PredictConfig, *, maps_only: bool = False, progress: Progress | None = None) -> PredictResult:
    """Predict slides or features, and write ``predictions.parquet``, ``predict.json`` and ``maps/``.

    A bad slide fails alone. Maps that are there, made with the same model, features and settings, are kept.

    Args:
        config: Settings of ``microtome predict``.
        maps_only: Write maps and no table of predictions (``microtome heatmap``).
        progress: Where progress is shown; by default the terminal, or plain lines in a log.

    Returns:
        The outcome.

    Raises:
        ConfigError: If a setting cannot be honoured.
        MissingOutputError: If there is no model.
        CorruptOutputError: If the model is damaged.
        RecipeMismatchError: If the folder holds predictions of another model, and ``overwrite`` is not set.
        CohortError: If there is nothing to predict.
    """
    if maps_only and not config.maps:
        raise ConfigError("heatmap draws maps. Pass --maps attention, attribution or both.")
    began = now_utc()
    progress = progress or open_progress(quiet=config.quiet)
    model = load_model(config.model)
    cohort = read_given_cohort(config.cohort)
    if not maps_only:
        _check_before(config, model)
    source = find_bags(config, model.features, progress)
    units, missing, notes = list_units(source.slide_ids, model.unit, cohort)
    if not units and not source.failed:
        raise ConfigError(f"'{source.folder}' holds no features. Extract them first, or pass the slides.")
    job = _Job(config, model, source, Explainer.on(model, config.device.partition(",")[0]))
    job.result.failed.update({**missing, **source.failed})
    job.result.notes.extend(notes)
    done = job.run(units, progress)
    result = job.result
    if cohort is None:
        result.notes.append("No cohort table was given: each slide stands for a patient of its own, or for that of its "
                            "TCGA barcode, when it is looked up among the training patients.")  # fmt: skip
    if not maps_only and done:
        result.predictions = _table(model, done, {"features": str(source.folder), "model": str(config.model)})
        result.predictions.write(config.out / PREDICTIONS)
    _write_record(config, model, result, began, maps_only=maps_only)
    return result


@dataclass(eq=False)
class _Job:
    """Units on their way through the model."""

    config: PredictConfig
    model: TrainedModel
    source: BagSource
    explainer: Explainer
    result: PredictResult = field(init=False)
    laying: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.result = PredictResult(self.config.out)
        self.laying = read_laying(self.source.folder)

    def run(self, units: Sequence[UnitToPredict], progress: Progress) -> list[_Predicted]:
        """Predict and map all units; isolate failures."""
        done = []
        progress.start("predictions", len(units), f"{self.model.unit}s")
        try:
            for unit in units:
                try:
                    done.append(self._one(unit))
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
                    known = isinstance(error, MicrotomeError)
                    reason = str(error) if known else f"Unexpected {type(error).__name__}: {error}"
                    self.result.failed[unit.id] = reason
                    progress.note(f"failed: {unit.id}: {reason}")
                progress.advance(n_slides=1)
        finally:
            progress.finish()
        return done

    def _one(self, unit: UnitToPredict) -> _Predicted:
        config = self.config
        if lost := [s for s in unit.slide_ids if s in self.source.failed]:
            raise OutputError(f"Slide {lost[0]!r} of it has no features: {self.source.failed[lost[0]]}")
        bags = _open(unit, self.source, self.model, trust=config.trust_features, min_coverage=config.min_coverage)
        for bag in bags:
            for note in self.model.features.notes(replace(features_recipe(bag), laying=self.laying)):
                if note not in self.result.notes:
                    self.result.notes.append(note)
        recipe = self._recipe(bags)
        wanted = bool(config.maps) and not all(self._is_mapped(bag, recipe) for bag in bags)
        found = self.explainer.explain(
            _joined(bags),
            attribution=wanted and "attribution" in config.maps,
            baseline=config.baseline,
            tolerance=config.tolerance,
        )
        if wanted:
            self._map(bags, found, recipe)
        elif config.maps:
            self.result.n_maps_kept += len(bags)
        return _outcome(unit, bags, found)

    def _recipe(self, bags: Sequence[Bag]) -> dict[str, object]:
        """What decides the maps of these slides."""
        config = self.config
        return {
            "model": self.model.digest,
            "features": [f"{bag.slide_id} {_fingerprint(bag)}" for bag in bags],
            "maps": list(config.maps),
            "baseline": config.baseline,
            "tolerance": config.tolerance,
            "geojson": config.geojson,
        }

    def _is_mapped(self, bag: Bag, recipe: Mapping[str, object]) -> bool:
        """Whether the maps of a slide are there.

        Raises:
            RecipeMismatchError: If others are, and may not be replaced.
        """
        path = maps_table(self.config.out / MAPS, bag.slide_id)
        if not path.exists():
            return False
        return check_recipe(path, read_table_recipe(path) or "{}", recipe, overwrite=self.config.overwrite)

    def _map(self, bags: Sequence[Bag], found: Explanation, recipe: Mapping[str, object]) -> None:
        """Write the maps of each slide of a unit: its own rows of the unit's bag."""
        config, folder = self.config, self.config.out / MAPS
        columns = {n: v for n, v in found.columns.items() if n.partition("_")[0] in config.maps}
        thumbnails = (config.thumbnails,) if config.thumbnails is not None else self.source.thumbnails
        start = 0
        for bag in bags:
            own = slice(start, start := start + len(bag))
            canvas = find_canvas(thumbnails, bag)
            maps = SlideMaps(bag, {n: v[own] for n, v in columns.items()}, self._heading(found), recipe, _facts(found))
            with held(maps_table(folder, bag.slide_id)):
                write_maps(folder, maps, canvas, geojson=config.geojson == "tiles")
            self.result.n_maps += 1
            if canvas is None:
                self.result.notes.append(
                    f"The features of '{bag.slide_id}' do not say where tiles lie and how large they are: its maps are "
                    "a table without pictures."
                )
            elif canvas.path is None:
                self.result.n_without_thumbnail += 1

    def _heading(self, found: Explanation) -> str:
        """What the model says of the unit, in small print."""
        shown = self.model.reading.columns(found.logits[None].astype(np.float32))
        values = [f"{name} {float(values[0]):.3g}" for name, values in shown.items()]
        if self.model.target.type == "binary":  # the other class is the rest
            values = values[-1:]
        more = f", and {len(values) - 4} more" if len(values) > 4 else ""
        return f"{self.model.target.name} by {self.model.spec.name}: {', '.join(values[:4])}{more}"


def _fingerprint(bag: Bag) -> str:
    """What tells the features from others: the recipe's digest and the checksum, or a hash of other programs'."""
    known = [str(bag.attrs[name]) for name in ("recipe_digest", "features_crc32") if name in bag.attrs]
    return " ".join(known) if len(known) == 2 else hash_array(np.asarray(bag.features))


def _facts(found: Explanation) -> dict[str, object]:
    def named(values: Float64[np.ndarray, " c"] | None) -> dict[str, float] | None:
        return None if values is None else dict(zip(found.names, values.tolist(), strict=True))

    return {
        "logits": named(found.logits),
        "baseline": found.baseline or None,
        "baseline_logits": named(found.baseline_logits),
        "gap": named(found.gap),
        "n_evaluations": found.n_evaluations,
    }


def _open(
    unit: UnitToPredict, source: BagSource, model: TrainedModel, *, trust: bool, min_coverage: float
) -> list[Bag]:
    """The bags of a unit, checked to be of the model's kind and whole enough."""
    bags = []
    for slide_id in unit.slide_ids:
        bag = source.open(slide_id)
        check_features(model.features, features_recipe(bag), what=f"'{slide_id}'", trust=trust)
        check_coverage(slide_id, len(bag) + bag.n_unreadable, bag.n_unreadable, min_coverage)
        bags.append(bag)
    return bags


def _joined(bags: Sequence[Bag]) -> Float32[np.ndarray, "n d"]:
    if not any(len(bag) for bag in bags):
        raise OutputError(f"No tile of {', '.join(repr(bag.slide_id) for bag in bags)} has features.")
    return np.concatenate([np.asarray(bag.features, np.float32) for bag in bags])


def _outcome(unit: UnitToPredict, bags: Sequence[Bag], found: Explanation) -> _Predicted:
    n_tiles, n_unreadable = sum(len(bag) for bag in bags), sum(bag.n_unreadable for bag in bags)
    return _Predicted(unit, found.logits, n_tiles, n_unreadable)


def _table(model: TrainedModel, done: Sequence[_Predicted], made_from: Mapping[str, Any]) -> Predictions:
    logits = np.stack([one.logits for one in done])
    columns = {
        **model.reading.columns(logits.astype(np.float32)),
        **{f"logit_{name}": logits[:, i] for i, name in enumerate(model.output_names)},
        "n_tiles": np.array([one.n_tiles for one in done]),
        "n_unreadable": np.array([one.n_unreadable for one in done]),
    }
    known = len(model.training_patients) + len(model.training_slides) > 0
    return predictions_of(
        model.target,
        [one.unit.id for one in done],
        [one.unit.patient_id for one in done],
        columns,
        unit=model.unit,
        in_training=[_was_in_training(model, one.unit) for one in done] if known else None,
        attrs={**made_from, "model_digest": model.digest, "microtome": microtome.__version__},
    )


def _was_in_training(model: TrainedModel, unit: UnitToPredict) -> bool:
    """Whether the unit's patient, one of its slides, or the patient in a slide's barcode had a part in training."""
    patients = {unit.patient_id, *(patient_of(slide) for slide in unit.slide_ids)}
    return any(p in model.training_patients for p in patients) or any(
        slide in model.training_slides for slide in unit.slide_ids
    )


def _check_before(config: PredictConfig, model: TrainedModel) -> None:
    """Refuse to replace the predictions of another model."""
    path = config.out / PREDICTIONS
    if not path.exists() or config.overwrite:
        return
    made_with: object = None
    with suppress(CorruptOutputError):
        made_with = read_predictions(path).attrs.get("model_digest")
    if made_with != model.digest:
        raise RecipeMismatchError(
            f"'{path}' holds predictions of another model, or of another version of it. Pass --overwrite to replace "
            "them, or choose another --out."
        )


def _write_record(
    config: PredictConfig, model: TrainedModel, result: PredictResult, began: str, *, maps_only: bool
) -> None:
    write_json(
        config.out / RECORD,
        {
            "microtome": microtome.__version__,
            "verb": "heatmap" if maps_only else "predict",
            "started": began,
            "ended": now_utc(),
            "intended_use": INTENDED_USE,
            "config": config.model_dump(mode="json"),
            "model_digest": model.digest,
            "n_predicted": 0 if result.predictions is None else len(result.predictions),
            "n_maps": result.n_maps,
            "n_maps_kept": result.n_maps_kept,
            "n_without_thumbnail": result.n_without_thumbnail,
            "failed": result.failed,
            "notes": result.notes,
            "versions": software_versions(),
        },
    )
