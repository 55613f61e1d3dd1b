"""What a model is to predict: bags of slides, from a folder of features or from the slides themselves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from microtome.cohort import Cohort, read_cohort
from microtome.cohort.groups import tcga_patient
from microtome.cohort.targets import Unit
from microtome.config import ExtractConfig, PredictConfig
from microtome.errors import CohortError, ConfigError
from microtome.features.bag import Bag
from microtome.features.formats.registry import find_files
from microtome.features.store import FeatureStore, features_folder_name
from microtome.slides.listing import list_slides
from microtome.storage import Progress
from microtome.tasks.mil.features_recipe import FeaturesRecipe
from microtome.tasks.output import OutputFolder


@dataclass(frozen=True, slots=True)
class BagSource:
    """Features of slides, opened one by one.

    Attributes:
        slide_ids: Slides that have features.
        open: Slide → its bag.
        folder: Where they lie.
        thumbnails: Folders that may hold the slides' thumbnails.
        failed: Slides that got none → why.
    """

    slide_ids: tuple[str, ...]
    open: Callable[[str], Bag]
    folder: Path
    thumbnails: tuple[Path, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnitToPredict:
    """One bag to be: a slide, or all slides of a biopsy or patient.

    Attributes:
        id: Of the unit.
        patient_id: Whose it is.
        slide_ids: Its slides, in the order of the cohort.
    """

    id: str
    patient_id: str
    slide_ids: tuple[str, ...]


def open_features(folder: str | Path) -> BagSource:
    """Features in a folder: a feature store, or files of another program's format.

    Raises:
        ConfigError: If there are none, or they are of several formats.
    """
    folder = Path(folder)
    near = (folder.parent.parent / "thumbnails",)
    if any(folder.glob("*.h5")):
        store = FeatureStore(folder)
        return BagSource(tuple(store), store.__getitem__, folder, near)
    kind, files = find_files(folder)

    def read(slide_id: str) -> Bag:
        table = kind.read(files[slide_id], slide_id)
        nothing = np.zeros((0, 4), np.int64)
        return Bag(slide_id, table.features, table.corners, table.boxes, nothing, table.attrs, columns=table.columns)

    return BagSource(tuple(files), read, folder, near)


def find_bags(config: PredictConfig, recipe: FeaturesRecipe, progress: Progress | None) -> BagSource:
    """The features that the settings name; those of slides are extracted first, as the model's were.

    Args:
        config: Settings.
        recipe: What kind of features the model takes.
        progress: Where extraction shows how far it is.

    Raises:
        ConfigError: If nothing is named, or the model does not say how its features were made.
    """
    if len(config.slides) == 1 and (folder := Path(config.slides[0])).is_dir():
        if any(folder.glob("*.h5")):
            return open_features(folder)
        if (folder / "features").is_dir():
            return open_features(folder / "features" / _folder_name(recipe))
        if not list_slides([folder]).entries:
            return open_features(folder)
    for named in config.slides:
        if not any(sign in named for sign in "*?[") and not Path(named).exists():
            raise ConfigError(f"There is no '{named}'. Name slides, or a folder of features.")
    return extract_for(config, recipe, progress)


def _folder_name(recipe: FeaturesRecipe) -> str:
    if recipe.encoder is None or recipe.tile_px is None or (recipe.mpp is None and recipe.level is None):
        raise ConfigError(
            "The model does not say which encoder made its features, or how large its tiles were, so they cannot be "
            "made of slides. Extract features and pass their folder."
        )
    mpp = None if recipe.level is not None else recipe.mpp
    return features_folder_name(recipe.encoder, recipe.tile_px, mpp, level=recipe.level)


def extraction_settings(config: PredictConfig, recipe: FeaturesRecipe) -> ExtractConfig:
    """Settings that make features of slides as the model's were made.

    Raises:
        ConfigError: If the model does not say how they were.
    """
    _folder_name(recipe)  # which refuses what lacks a part
    laying = dict(recipe.laying)
    asked = {"tissue_method": config.tissue_method, "min_tissue": config.min_tissue}
    laying |= {name: value for name, value in asked.items() if value is not None}
    if config.tissue_method not in (None, recipe.laying.get("tissue_method")):
        laying.pop("tissue_parameters", None)  # of the other method
    missing = [f"--{name.replace('_', '-')}" for name in asked if name not in laying]
    if missing:
        raise ConfigError(
            "The model does not say how tissue was found and tiles were laid on its slides. Extract features the same "
            f"way and pass their folder, or say it with {' and '.join(missing)}."
        )
    same = (
        *("slides", "cohort", "mpp", "override_mpp", "reader", "channels", "window", "out", "overwrite", "workers"),
        *("quiet", "tissue_from", "weights", "device", "runtime", "batch_size", "memory", "min_coverage"),
        "thumbnail_px",
    )
    return ExtractConfig(
        **{name: getattr(config, name) for name in same},
        **laying,
        encoder=str(recipe.encoder),
        precision=config.precision or _precision(recipe),
        tile_px=recipe.tile_px,
        tile_mpp=None if recipe.level is not None else recipe.mpp,
        level=recipe.level,
        allow_mpp_mismatch=True,  # it is the model's own
    )


def _precision(recipe: FeaturesRecipe) -> Literal["fp32", "bf16", "fp16"] | None:
    known: dict[str | None, Literal["fp32", "bf16", "fp16"]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    return known.get(recipe.precision)


def extract_for(config: PredictConfig, recipe: FeaturesRecipe, progress: Progress | None) -> BagSource:
    """Find tissue, lay tiles and extract features of slides as the model's were; they stay in ``out``.

    Raises:
        ConfigError: If the model does not say how they were made.
        CohortError: If no slide is found.
    """
    from microtome.tasks.run import run

    settings = extraction_settings(config, recipe)
    result = run(settings, progress=progress)
    folder = OutputFolder(settings.out)
    store = FeatureStore(folder.features(_folder_name(recipe)))
    failed = {failure.slide_id: f"{failure.stage}: {failure.reason}" for failure in result.record.failed}
    slides = tuple(row.slide_id for row in result.rows if row.slide_id not in failed)
    return BagSource(slides, store.__getitem__, store.folder, (folder.root / "thumbnails",), failed)


def list_units(
    slide_ids: Iterable[str], unit: Unit, cohort: Cohort | None
) -> tuple[list[UnitToPredict], dict[str, str], list[str]]:
    """Group slides into what the model takes as one bag.

    Args:
        slide_ids: Slides that have features.
        unit: What one bag is.
        cohort: Whose the slides are; with it, its slides are those that count.

    Returns:
        The units; slides of the cohort that have no features → why; notes for people.

    Raises:
        ConfigError: If slides are to be joined, and nobody says whose they are.
        CohortError: If none of the cohort's slides has features.
    """
    there = dict.fromkeys(slide_ids)
    if cohort is None:
        if unit != "slide":
            raise ConfigError(
                f"The model takes all slides of a {unit} together. Pass a --cohort that says whose each is."
            )
        return [UnitToPredict(s, patient_of(s), (s,)) for s in there], {}, []
    missing = {s: "no features" for s in cohort.slide_ids if s not in there}
    notes = []
    if others := len(there.keys() - set(cohort.slide_ids)):
        notes.append(f"{others} slide(s) with features are not in the cohort table and were left out.")
    units: dict[str, list[str]] = {}
    patients: dict[str, str] = {}
    for slide in cohort.slides:
        if slide.slide_id not in there:
            continue
        name = {"slide": slide.slide_id, "biopsy": slide.biopsy_id, "patient": slide.patient_id}[unit]
        if name is None:
            missing[slide.slide_id] = "the cohort table does not say its biopsy"
            continue
        if patients.setdefault(name, slide.patient_id) != slide.patient_id:
            raise CohortError(f"{unit} {name!r} is of two patients, {patients[name]!r} and {slide.patient_id!r}.")
        units.setdefault(name, []).append(slide.slide_id)
    if not units:
        raise CohortError("None of the cohort's slides has features. Do the slide_ids match the files' names?")
    return [UnitToPredict(name, patients[name], tuple(slides)) for name, slides in units.items()], missing, notes


def patient_of(slide_id: str) -> str:
    """Whose a slide is where nobody says it: the patient of a TCGA barcode, else the slide's own name."""
    try:
        return tcga_patient(slide_id)
    except CohortError:
        return slide_id


def read_given_cohort(path: Path | None) -> Cohort | None:
    """The cohort table, where one is named."""
    return None if path is None else read_cohort(path)
