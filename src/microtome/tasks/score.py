"""`microtome score`: stimulated Raman slides to infiltration scores, maps, tables and a report."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import microtome
from microtome.config.srh import ScoreConfig
from microtome.errors import ConfigError, MicrotomeError, OutputWriteError
from microtome.storage import Progress, now_utc, open_progress, write_json
from microtome.tasks.srh.study import SrhSlideEntry, list_srh_slides, open_srh_tiles

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from microtome.encoders.srh_model import SrhModel
    from microtome.tasks.srh.few_shot import Supports
    from microtome.tasks.srh.scoring import ScoredSlide

_NO_MEANING = "The weights are filled by rule, for trying things out: these scores mean nothing."


@dataclass(frozen=True)
class ScoreResult:
    """What `microtome score` did.

    Attributes:
        out: The output folder.
        slides: One row per scored slide, as in predictions.csv.
        patients: One row per patient.
        failed: Slide → why it has no score.
        report: The report.
        seconds: Where the time went.
    """

    out: Path
    slides: Sequence[Mapping[str, Any]]
    patients: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str]
    report: Path
    seconds: Mapping[str, float] = field(default_factory=dict)


def score(config: ScoreConfig, *, progress: Progress | None = None) -> ScoreResult:
    """Score slides of stimulated Raman histology for tumour infiltration.

    A bad slide is reported at the end with its reason; the others are scored. Slides that were scored in the folder
    with the same pixels, model and rules are not scored again.

    Args:
        config: What to score, with what, and where to.
        progress: Shown how far the work is.

    Returns:
        Scores, bands and what failed; files lie in ``config.out``.

    Raises:
        ConfigError: If a setting cannot be honoured.
        WeightsError: If the model cannot be had, or is of another resolution.
        NoTilesError: If there is nothing to score.
        OutputWriteError: If the output cannot be written.

    References:
        specs FastGlioma sections 1 and 2.
    """
    entries = list_srh_slides(config.slides, studies=config.study_names, meta=config.meta)
    job = _Job(config, entries, progress or open_progress(quiet=config.quiet))
    return job.run()


class _Job:
    """One run: loads the model while the first slide's files come into the system's cache."""

    def __init__(self, config: ScoreConfig, entries: Sequence[SrhSlideEntry], progress: Progress) -> None:
        self.config, self.entries, self.progress = config, entries, progress
        self.seconds: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.regions: dict[str, Sequence[Mapping[str, object]]] = {}
        self.embeddings: list[Float32[np.ndarray, " d"]] = []
        self.failed: dict[str, str] = {}
        self.started = now_utc()

    def run(self) -> ScoreResult:
        started = time.perf_counter()
        self.model = self._load()
        self.supports = self._load_supports()
        self.seconds["load"] = time.perf_counter() - started
        self.progress.start("score", len(self.entries))
        drawing: list[Future[None]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="srh-draw") as drawer:  # drawn while the next slide is read
            for entry in self.entries:
                self._score_entry(entry, lambda work: drawing.append(drawer.submit(work)))
            before = time.perf_counter()
            for future in drawing:
                future.result()
            self.seconds["wait_for_drawing"] = time.perf_counter() - before
        self.progress.finish()
        return self._write()

    def _load(self) -> "SrhModel":
        from microtome.encoders.hardware import Wanted
        from microtome.encoders.srh_model import load_srh_model

        config = self.config
        return load_srh_model(
            config.model,
            weights=config.weights,
            tokenizer=config.tokenizer,
            patch_input=config.patch_input,
            repo=config.hf_repo,
            wanted=Wanted(config.device, config.precision, config.runtime),
        )

    def _load_supports(self) -> "Supports | None":
        if self.config.supports is None:
            return None
        from microtome.tasks.srh.few_shot import encode_supports, list_supports

        scored = frozenset(entry.name for entry in self.entries)
        normal, tumour = list_supports(self.config.supports, n=self.config.n_supports, without=scored)
        return encode_supports(self.model, normal, tumour, flip=self.config.channel_order == "ch3,ch2")

    def _score_entry(self, entry: SrhSlideEntry, later: Callable[[Callable[[], None]], object]) -> None:
        try:
            slide = self._score(entry)
        except OutputWriteError:
            raise
        except (MicrotomeError, OSError, MemoryError) as error:
            if isinstance(error, ConfigError):
                raise
            self.failed[entry.name] = str(error) or type(error).__name__
            self.progress.note(f"{entry.name}: {self.failed[entry.name]}")
            self.progress.advance(n_slides=1)
            return
        for name, value in slide.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        values = self._values(slide)
        self._add(entry, slide, values)
        later(lambda: self._draw(entry, slide, values))
        self.progress.advance(n_slides=1, n_tiles=len(slide.grid))

    def _score(self, entry: SrhSlideEntry) -> "ScoredSlide":
        from microtome.tasks.srh.scoring import PatchRules, score_dump, score_tiles, slide_digest
        from microtome.tasks.srh.slide_file import read_slide_file, write_slide_file

        config = self.config
        if entry.kind == "dump":
            return score_dump(entry.path, self.model)
        rules = PatchRules(config.bad_patches, config.max_saturated, config.min_coverage, config.channel_order is None)
        kept = config.out / "slides" / f"{entry.name}.npz"
        with open_srh_tiles(entry, channel_order=config.channel_order, mpp=config.mpp) as source:
            digest = slide_digest(source, self.model, rules)
            slide = read_slide_file(kept, digest)
            if slide is None:
                slide = score_tiles(source, self.model, rules, workers=config.workers)
                write_slide_file(kept, slide, digest)
        if config.save_embeddings:
            self._save_embeddings(entry, slide)
        return slide

    def _save_embeddings(self, entry: SrhSlideEntry, slide: "ScoredSlide") -> None:
        from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump

        dump = SrhDump(slide.features, slide.grid, label=entry.slide_class or entry.patient_class)
        path = dump_path(self.config.out / "embeddings", entry.patient_id or entry.slide_id, entry.slide_id)
        write_dump(path, dump)

    def _values(self, slide: "ScoredSlide") -> dict[str, "Float[np.ndarray, ' n']"]:
        """What is known of each patch: attention relative to the mean, and likeness to supports."""
        attention = slide.output.attention.astype(np.float64)
        values: dict[str, Float[np.ndarray, " n"]] = {"attention": attention / max(float(attention.mean()), 1e-30)}
        if self.supports is not None:
            values["few_shot"] = self.supports.likeness(slide.features)
        return values

    def _add(self, entry: SrhSlideEntry, slide: "ScoredSlide", values: Mapping[str, "Float[np.ndarray, ' n']"]) -> None:
        from microtome.tasks.srh.tables import calibrated, score_regions, score_row

        model = self.model
        regions = score_regions(model, slide.features, slide.grid, side=self.config.region_patches, values=values)
        self.regions[entry.name] = regions.rows
        logit = slide.output.logit
        familiar = model.familiar
        distance = None if familiar is None else familiar.distance(slide.output.embedding)
        label = entry.patient_class if self.config.use_patient_class else entry.slide_class
        self.embeddings.append(slide.output.embedding)
        self.rows.append(
            {
                "slide_id": entry.name,
                "patient_id": entry.patient_id,
                "label": label,
                "patient_class": entry.patient_class,
                "slide_class": entry.slide_class,
                "model": model.name,
                "patch_input": model.patch_input,
                "logit": logit,
                **score_row(calibrated(model, np.array([logit]))[0]),
                "calibrated": model.calibration is not None,
                "n_patches": len(slide.grid),
                "n_skipped": len(slide.skipped),
                "n_blank": slide.n_blank,
                "ood": "unavailable" if familiar is None else "out" if distance > familiar.limit else "in",  # type: ignore[operator]  # a distance is there with familiar slides
                "ood_distance": distance,
                "ood_limit": None if familiar is None else familiar.limit,
            }
        )

    def _draw(
        self, entry: SrhSlideEntry, slide: "ScoredSlide", values: Mapping[str, "Float[np.ndarray, ' n']"]
    ) -> None:
        """Pictures of a slide and the table of its patches."""
        from microtome.tasks.srh.tables import write_csv
        from microtome.viz.srh_maps import (
            attention_scale,
            draw_map,
            draw_slide,
            few_shot_scale,
            jpeg_bytes,
            lay_mosaic,
            write_picture,
        )

        before = time.perf_counter()
        folder = self.config.out / "maps"
        mosaic = lay_mosaic(slide.thumbnails, slide.boxes, mpp=self.config.mpp)
        pictures = {
            "attention": draw_map(mosaic, slide.grid, values["attention"], attention_scale(values["attention"]))
        }
        if slide.thumbnails is not None:
            pictures["slide"] = draw_slide(mosaic)
        if "few_shot" in values:
            pictures["few-shot"] = draw_map(mosaic, slide.grid, values["few_shot"], few_shot_scale())
        for name, picture in pictures.items():
            write_picture(folder / f"{entry.name}.{name}.jpg", jpeg_bytes(picture))
        rows = [
            {
                "row": row,
                "column": column,
                "x": x,
                "y": y,
                **{name: float(value[i]) for name, value in values.items()},
            }
            for i, ((row, column), (x, y)) in enumerate(
                zip(slide.grid.tolist(), slide.boxes[:, :2].tolist(), strict=True)
            )
        ]
        write_csv(folder / f"{entry.name}.patches.csv", rows)
        self.seconds["draw"] = self.seconds.get("draw", 0.0) + time.perf_counter() - before

    def _write(self) -> ScoreResult:
        from microtome.tasks.srh.tables import (
            ordinal_predictions,
            pool_patients,
            write_csv,
            write_embeddings,
            write_parquet,
            write_predictions_pt,
        )
        from microtome.viz.srh_report import write_srh_report

        before = time.perf_counter()
        out, folder = self.config.out, self.config.out / "predictions"
        patients, specimens = pool_patients(self.rows)
        if self.rows:
            embeddings = np.stack(self.embeddings)
            write_csv(folder / "predictions.csv", self.rows)
            write_parquet(folder / "predictions.parquet", self.rows)
            ordinal_predictions(self.rows).write(folder / "ordinal.parquet")
            write_csv(folder / "patients.csv", patients)
            write_csv(folder / "specimens.csv", specimens)
            regions = [{"slide_id": name, **row} for name, rows in self.regions.items() for row in rows]
            write_csv(folder / "regions.csv", regions)
            write_embeddings(folder / "embeddings.npz", [row["slide_id"] for row in self.rows], embeddings)
            if self.config.export_pt:
                write_predictions_pt(folder / "predictions.pt", self.rows, embeddings)
        self.seconds["tables"] = time.perf_counter() - before
        write_json(out / "run.json", self._record(patients))
        before = time.perf_counter()
        report = write_srh_report(out)
        self.seconds["report"] = time.perf_counter() - before
        return ScoreResult(out, self.rows, patients, self.failed, report, self.seconds)

    def _record(self, patients: Sequence[Mapping[str, object]]) -> dict[str, object]:
        model, supports = self.model, self.supports
        tokenizer = model.tokenizer
        notes = [_NO_MEANING] if model.origin == "filled" else []
        return {
            "kind": "srh-score",
            "microtome_version": microtome.__version__,
            "started": self.started,
            "finished": now_utc(),
            "config": self.config.model_dump(mode="json"),
            "model": {
                "name": model.name,
                "patch_input": model.patch_input,
                "origin": model.origin,
                "weights_sha256": model.weights_sha256,
                "licence": "" if tokenizer is None else tokenizer.card.licence,
                "runtime": "none (saved embeddings)" if tokenizer is None else str(tokenizer.recipe.get("runtime", "")),
                "precision": "fp32" if tokenizer is None else tokenizer.precision,
                "device": "cpu" if tokenizer is None else tokenizer.device,
                "calibration": None if model.calibration is None else asdict(model.calibration),
            },
            "n_supports": None if supports is None else [len(supports.normal), len(supports.tumour)],
            "slides": self.rows,
            "regions": self.regions,
            "patients": patients,
            "failed": [{"slide_id": name, "reason": why} for name, why in self.failed.items()],
            "notes": notes,
            "seconds": self.seconds,
        }
