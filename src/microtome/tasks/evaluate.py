"""From a table of predictions and a table of labels to a folder of numbers, figures and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from microtome.cohort import Cohort, read_cohort
from microtome.cohort.predictions import Predictions, concat_predictions, read_predictions
from microtome.cohort.targets import Target, find_target
from microtome.config import EvaluateConfig
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.adjuncts import compare_adjuncts
from microtome.evaluation.compare import Comparison, compare_predictions
from microtome.evaluation.evaluate import Evaluation, evaluate
from microtome.evaluation.subgroups import evaluate_subgroups
from microtome.storage import hash_file, now_utc, write_json, written_whole
from microtome.tasks.output import INTENDED_USE, software_versions

if TYPE_CHECKING:
    from microtome.viz.evaluation_page import PageFacts

RECORD, FIGURES = "run.json", "figures"


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """What was judged, and the files that say so.

    Attributes:
        evaluation: The numbers.
        folder: Where the files lie.
        page: The page to look at.
        figures: Pictures.
        comparison: With other models, where asked for.
        tables: ``subgroups`` and ``adjuncts``, where asked for.
    """

    evaluation: Evaluation
    folder: Path
    page: Path
    figures: tuple[Path, ...] = ()
    comparison: Comparison | None = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def evaluate_files(settings: EvaluateConfig) -> EvaluationFiles:
    """Judge a table of predictions against a cohort's labels, and write numbers, figures and the page.

    Args:
        settings: What to judge, and how.

    Returns:
        The evaluation and its files: ``evaluation.json``, CSV tables, ``figures/``, ``evaluation.html``, ``run.json``.

    Raises:
        ConfigError: If the predictions are absent, or a setting cannot be honoured.
        CohortError: If the cohort lacks the target's columns or contradicts itself.
        EvaluationError: If no prediction has a label, or the tables to compare are of other targets.
        CorruptOutputError: If a table of predictions cannot be read.
        OutputWriteError: If a file cannot be written.
    """
    started = now_utc()
    cohort = read_cohort(settings.cohort)
    target = _said_target(settings, cohort)
    tables = _read_all((settings.predictions, *settings.compare), target)
    first = next(iter(tables))
    predictions = tables[first] = _with_repeats(tables[first], settings.repeats)
    evaluation = evaluate(
        predictions,
        cohort,
        metrics=settings.metrics or None,
        n_boot=settings.n_boot,
        seed=settings.seed,
        include_training=settings.include_training,
        unit=settings.unit,
        pool=settings.pool,
    )
    comparison = _compare(tables, cohort, settings, reference=first)
    further = _further_tables(predictions, cohort, settings)
    inputs = (settings.predictions, settings.cohort, *settings.compare, *settings.repeats)
    record: dict[str, Any] = {
        "kind": "evaluate",
        "status": "running",
        "config": settings.model_dump(mode="json"),
        "target": evaluation.target.as_dict(),
        "inputs": {str(path): hash_file(path) for path in inputs},
        "predictions": dict(predictions.attrs),
        "versions": software_versions(),
        "intended_use": INTENDED_USE,
        "started": started,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / RECORD, record)
    files = write_evaluation(
        evaluation,
        settings.out,
        predictions=predictions,
        comparison=comparison,
        figures=not settings.no_figures,
        facts={"Predictions": str(settings.predictions), "Cohort": str(settings.cohort)},
    )
    for name, table in further.items():
        with written_whole(settings.out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    write_json(settings.out / RECORD, {**record, "status": "done", "ended": now_utc()})
    return replace(files, tables=further)


def _with_repeats(predictions: Predictions, paths: Sequence[Path]) -> Predictions:
    """One table of a model and the same with other seeds, each a repeat."""
    if not paths:
        return predictions
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"There is no table of predictions '{path}'. Pass a parquet or CSV file.")
    found = [predictions, *(read_predictions(path, target=predictions.target) for path in paths)]
    n_repeats = [int(one.table["repeat"].max()) + 1 for one in found]
    firsts = [sum(n_repeats[:i]) for i in range(len(found))]
    parts = [
        replace(one, table=one.table.assign(repeat=one.table["repeat"] + first))
        for one, first in zip(found, firsts, strict=True)
    ]
    return concat_predictions(parts)


def _further_tables(predictions: Predictions, cohort: Cohort, settings: EvaluateConfig) -> dict[str, pd.DataFrame]:
    """Metrics within subgroups, and calls beside adjuncts, as asked for."""
    rules: dict[str, Any] = {
        "include_training": settings.include_training,
        "unit": settings.unit,
        "pool": settings.pool,
    }
    found = {}
    if settings.subgroups:
        parts = []
        for column in settings.subgroups:
            part = evaluate_subgroups(
                predictions,
                cohort,
                column,
                metrics=settings.metrics or None,
                n_boot=settings.n_boot,
                seed=settings.seed,
                **rules,
            )
            part.insert(0, "column", column)
            parts.append(part)
        found["subgroups"] = pd.concat(parts, ignore_index=True)
    if settings.adjuncts:
        found["adjuncts"] = compare_adjuncts(
            predictions, cohort, settings.adjuncts, positive_from=settings.positive_from, **rules
        )
    return found


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    predictions: Predictions | None = None,
    comparison: Comparison | None = None,
    figures: bool = True,
    facts: Mapping[str, str] | None = None,
) -> EvaluationFiles:
    """Write an evaluation as tables, figures and a page.

    Args:
        evaluation: What predictions are worth.
        folder: Where to.
        predictions: What was judged: the page then counts the patients that were in training, and names the model.
        comparison: With other models.
        figures: Whether to draw.
        facts: Name → value, for the page.

    Returns:
        The files.

    Raises:
        OutputWriteError: If a file cannot be written.
    """
    from microtome.viz.evaluation_figures import draw_evaluation
    from microtome.viz.evaluation_page import PAGE_FILE, write_evaluation_page

    folder = Path(folder)
    evaluation.write(folder)
    if comparison is not None:
        comparison.write(folder)
    drawn = tuple(draw_evaluation(evaluation, folder / FIGURES)) if figures else ()
    said = _page_facts(evaluation, predictions, {} if facts is None else facts)
    page = write_evaluation_page(evaluation, folder / PAGE_FILE, drawn, facts=said, comparison=comparison)
    return EvaluationFiles(evaluation, folder, page, drawn, comparison)


def _said_target(settings: EvaluateConfig, cohort: Cohort) -> Target | None:
    """The target that the settings name; None where they leave it to the predictions."""
    if settings.target is None:
        given = [name for name in ("type", "columns", "classes", "positive") if getattr(settings, name)]
        if given:
            raise ConfigError(f"{' and '.join(given)} say how to read a target. Name it: pass target.")
        return None
    return find_target(
        cohort,
        settings.target,
        type=settings.type,
        columns=settings.columns or None,
        classes=settings.classes or None,
        positive=settings.positive,
    )


def _read_all(paths: Sequence[Path], target: Target | None) -> dict[str, Predictions]:
    """Tables of predictions by a short name of their own each; the first is the one that is judged."""
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"There is no table of predictions '{path}'. Pass a parquet or CSV file.")
    names = _short_names(paths)
    tables = {name: read_predictions(path, target=target) for name, path in zip(names, paths, strict=True)}
    first, *others = tables
    for name in others:
        if tables[name].target != tables[first].target:
            raise EvaluationError(
                f"'{name}' predicts {tables[name].target.name!r} ({tables[name].target.type}), '{first}' "
                f"{tables[first].target.name!r} ({tables[first].target.type}). Compare models of one target."
            )
    return tables


def _short_names(paths: Sequence[Path]) -> list[str]:
    """What tells the paths apart: as few of their last parts as that takes.

    Example:
        >>> _short_names([Path("a/predictions.parquet"), Path("b/predictions.parquet")])
        ['a/predictions', 'b/predictions']
    """
    parts = [path.absolute().with_suffix("").parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(path for path, mine in zip(paths, parts, strict=True) if parts.count(mine) > 1)
    raise ConfigError(f"'{twice}' is given twice, or beside itself in another format. Compare it with other tables.")


def _compare(
    tables: Mapping[str, Predictions], cohort: Cohort, settings: EvaluateConfig, *, reference: str
) -> Comparison | None:
    if len(tables) < 2:
        return None
    if settings.unit not in (None, unit := tables[reference].unit):
        raise ConfigError(
            f"The predictions are of {unit}s, and are compared as such. Leave out unit={settings.unit}, or compare."
        )
    return compare_predictions(
        tables,
        cohort,
        metrics=settings.metrics or None,
        n_boot=settings.n_boot,
        seed=settings.seed,
        include_training=settings.include_training,
        reference=reference,
    )


def _page_facts(evaluation: Evaluation, predictions: Predictions | None, facts: Mapping[str, str]) -> "PageFacts":
    from microtome.viz.evaluation_page import PageFacts

    said = {**facts, **dict(_plain(evaluation.settings))}
    if predictions is None:
        return PageFacts(said)
    said |= {f"predictions: {name}": text for name, text in _plain(predictions.attrs)}
    table, counted = predictions.table, bool(evaluation.settings.get("include_training"))
    if "in_training" not in table.columns:
        return PageFacts(said)
    known = pd.Series(table["in_training"]).fillna(value=False).astype(bool)
    n_patients = int(table.loc[known, "patient_id"].nunique())
    notes = []
    if n_patients and counted:
        notes.append(
            f"{n_patients} patients were in training and are counted, as asked for: the numbers are better than those "
            "of new patients would be."
        )
    return PageFacts(said, int(known.sum()), n_patients, counted, notes)


def _plain(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as text, those within another beside its name; what is empty is left out."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [(f"{name} {inner}", text) for inner, text in _plain(value)]
        elif value is not None and value != "":
            found.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return [(name.replace("_", " "), text) for name, text in found]
