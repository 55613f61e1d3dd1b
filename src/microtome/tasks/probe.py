"""`microtome probe`: how well classes of tiles can be told by their features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microtome.config.probing import ProbeConfig
from microtome.evaluation import probe as modern
from microtome.evaluation.probe_reference import reference_probe
from microtome.storage import Progress, open_progress, safe_name, write_json, write_text
from microtome.tasks.output import software_versions
from microtome.tasks.probe_data import ProbeData, TileTable, class_counts, divide, find_tile_table
from microtome.viz.probe_figure import draw_probe


@dataclass
class ProbeResult:
    """What probing found.

    Attributes:
        folder: Where the files are.
        reference: The reference's table, one row per portion; None where it was not asked for.
        modern: One row per method, metric and class; None likewise.
        few_shot: One row per number of shots; None likewise.
        files: What was written.
    """

    folder: Path
    reference: pd.DataFrame | None = None
    modern: pd.DataFrame | None = None
    few_shot: pd.DataFrame | None = None
    files: list[Path] = field(default_factory=list)


def probe(config: ProbeConfig, *, progress: Progress | None = None) -> ProbeResult:
    """Tile-level linear evaluation of an encoder's features.

    Args:
        config: Settings of ``microtome probe``.
        progress: Where to say how far it is.

    Returns:
        Tables and files: ``probe/<set>_<encoder>.csv`` (the reference's columns), ``..._modern.csv``,
        ``..._few_shot.csv``, a figure, and ``probe.json`` with settings and counts.

    Raises:
        EvaluationError: If tiles, labels and splits do not allow it.
        ConfigError: If a setting cannot be honoured.
    """
    table = find_tile_table(config)
    progress = progress or open_progress(quiet=config.quiet)
    result = ProbeResult(config.out / "probe")
    name = safe_name("_".join(filter(None, (table.name, table.encoder.replace("/", "_").replace(":", "_")))))
    record: dict[str, Any] = {"set": table.name, "encoder": table.encoder, "protocols": {}}
    if config.protocol in ("reference", "both"):
        data = divide(table, config, "reference")
        result.reference = _reference(data, config, progress)
        record["protocols"]["reference"] = _record(data)
        _write(result, f"{name}.csv", result.reference)
    if config.protocol in ("modern", "both"):
        data = divide(table, config, "modern")
        result.modern, result.few_shot = _modern(data, config, progress)
        record["protocols"]["modern"] = _record(data)
        _write(result, f"{name}_modern.csv", result.modern)
        _write(result, f"{name}_few_shot.csv", result.few_shot)
    progress.finish()
    picture = result.folder / f"{name}.png"
    draw_probe(result.reference, result.modern, result.few_shot, picture, title=_title(table))
    result.files.append(picture)
    settings = config.model_dump(mode="json")
    write_json(result.folder / "probe.json", {**record, "settings": settings, "versions": software_versions()})
    return result


def _title(table: TileTable) -> str:
    return f"{table.name}, {table.encoder}" if table.encoder else table.name


def _reference(data: ProbeData, config: ProbeConfig, progress: Progress) -> pd.DataFrame:
    progress.start("reference", len(config.portions), "portions")
    rows, _ = reference_probe(
        data.train,
        data.judged,
        data.classes,
        portions=config.portions,
        n_resamples=config.n_boot,
        on_portion=lambda _: progress.advance(1),
    )
    return pd.DataFrame(rows)


def _modern(data: ProbeData, config: ProbeConfig, progress: Progress) -> tuple[pd.DataFrame, pd.DataFrame]:
    progress.start("modern", 3 + len(config.shots), "classifiers")
    rows: list[dict[str, object]] = []
    for said in (
        modern.probe_logistic(data.train, data.judged.features, groups=data.train_patients, seed=config.seed),
        modern.probe_knn(data.train, data.judged.features, k=config.knn),
        modern.probe_centroid(data.train, data.judged.features),
    ):
        judged = modern.judge(
            data.judged.labels,
            said.scores,
            data.classes,
            groups=data.judged_patients,
            n_boot=config.n_boot,
            seed=config.seed,
        )
        chosen = "; ".join(f"{key} {value:g}" for key, value in said.chosen.items())
        rows += [{"method": said.method, **row, "chosen": chosen} for row in judged]
        progress.advance(1)
    return pd.DataFrame(rows), _few_shot(data, config, progress)


def _few_shot(data: ProbeData, config: ProbeConfig, progress: Progress) -> pd.DataFrame:
    """Mean accuracy over episodes with its interval (normal, of the mean)."""
    smallest = min(class_counts(data.train.labels, data.classes).values())
    rows = []
    for shots in config.shots:
        row: dict[str, object] = {"shots": shots, "n_episodes": config.n_episodes}
        if shots <= smallest:
            hits = modern.few_shot(data.train, data.judged, shots=shots, n_episodes=config.n_episodes, seed=config.seed)
            half = 1.96 * float(hits.std(ddof=1)) / np.sqrt(len(hits))
            mean = float(hits.mean())
            row |= {"accuracy_score": mean, "low": mean - half, "high": mean + half, "note": ""}
        else:
            row |= {"accuracy_score": np.nan, "low": np.nan, "high": np.nan}
            row["note"] = f"a class has only {smallest} training tiles"
        rows.append(row)
        progress.advance(1)
    return pd.DataFrame(rows)


def _record(data: ProbeData) -> Mapping[str, Any]:
    return {
        "classes": list(data.classes),
        "judged_split": data.judged_split,
        "tiles": dict(data.counts),
        "train": class_counts(data.train.labels, data.classes),
        "judged": class_counts(data.judged.labels, data.classes),
        "patients_known": data.judged_patients is not None,
    }


def _write(result: ProbeResult, name: str, table: pd.DataFrame) -> None:
    path = result.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    result.files.append(path)
