"""What stage 3 leaves beside its weights: calibration, the whole model, scores and predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from microtome.config.pretraining import OrdinalConfig
from microtome.encoders.srh_model import SrhModel, load_patch_network
from microtome.encoders.srh_reference import DEFAULT_NEIGHBOURS, Calibration, fit_familiar
from microtome.encoders.srh_use import BANDS
from microtome.errors import CohortError
from microtome.storage import write_json, write_text
from microtome.tasks.pretrain.ordinal import GRADE, OrdinalTask, fit_score_calibration, grades_of
from microtome.tasks.pretrain.tokens import TokenSlide
from microtome.tasks.srh.convert import write_srh_model


def with_grades(slides: Sequence[TokenSlide], labels: Mapping[str, str]) -> list[TokenSlide]:
    """Slides with the degree that a table gives them, by patient and slide or by slide; the others are left out.

    Raises:
        CohortError: If the table has none of them.
    """
    named = [(slide, labels.get(slide.name, labels.get(slide.slide_id))) for slide in slides]
    found = [replace(slide, grade=grade) for slide, grade in named if grade is not None]
    if slides and not found:
        raise CohortError(
            f"The cohort has a degree for none of {len(slides)} slides, such as '{slides[0].name}'. Its slide_id must "
            "be PATIENT.SLIDE, or the slide's name among the patient's."
        )
    return found


def write_outputs(
    config: OrdinalConfig, task: OrdinalTask, slides: Sequence[TokenSlide], valid: Sequence[TokenSlide]
) -> Path | None:
    """Write ``scores.csv``, ``predictions.parquet`` of the watched slides, ``calibration.json``, ``model.safetensors``.

    Figures of the watched slides show logits per degree, and where their vectors lie along the axis that parts the
    degrees of the slides learned from.

    Args:
        config: Of the stage.
        task: Trained.
        slides: Learned from.
        valid: Watched.

    Returns:
        The whole model; None of a baseline, or where there is no patch encoder to make one of.

    Raises:
        CohortError: If the score cannot be calibrated.
        OutputWriteError: If a file cannot be written.
    """
    task.scorer.eval()
    calibration = None
    if valid:
        _draw(config.out / "figures", task, slides, valid)
        target = replace(GRADE, name=config.target, columns=(config.target,))
        task.predict(valid, target).write(config.out / "predictions.parquet")
    if config.objective == "cross_entropy":
        _write_scores(config.out / "scores.csv", task, slides, valid, None)
        return None
    if config.calibrate != "none":
        calibration = fit_score_calibration(task.logits(valid), grades_of(valid), kind=config.calibrate)
        cuts = {"kind": config.calibrate, "cuts": list(calibration.cuts), "n_slides": calibration.n_slides}
        write_json(config.out / "calibration.json", cuts)
    _write_scores(config.out / "scores.csv", task, slides, valid, calibration)
    if config.tokenizer is None:
        return None
    familiar = fit_familiar(task.embeddings(valid)) if len(valid) >= DEFAULT_NEIGHBOURS + 2 else None
    network = load_patch_network(config.tokenizer, config.patch_input)
    model = SrhModel("trained", config.patch_input, None, task.scorer.cpu(), "", "file", network=network)
    path = config.out / "model.safetensors"
    write_srh_model(path, model, calibration=calibration, familiar=familiar)
    return path


def _draw(folder: Path, task: OrdinalTask, slides: Sequence[TokenSlide], valid: Sequence[TokenSlide]) -> None:
    from microtome.evaluation.discriminant import fit_discriminant
    from microtome.viz.evaluation_scores import draw_scores_per_grade
    from microtome.viz.figure_style import save_figure

    grades, names = grades_of(valid), [band.name for band in BANDS]
    logits = task.logits(valid)
    drawn = draw_scores_per_grade(logits, grades, names, "Logit of watched slides by degree", quantity="Logit")
    save_figure(drawn, folder / "logits.png")
    known = grades_of(slides)
    if len(set(known.tolist())) < len(known):
        along = fit_discriminant(task.embeddings(slides), known).place(task.embeddings(valid))
        title, what = "Vectors of watched slides along the discriminant", "Standard deviations from the middle"
        figure = draw_scores_per_grade(along, grades, names, title, quantity=what, note="Fitted on the other slides.")
        save_figure(figure, folder / "discriminant.png")


def _write_scores(
    path: Path,
    task: OrdinalTask,
    slides: Sequence[TokenSlide],
    valid: Sequence[TokenSlide],
    calibration: Calibration | None,
) -> None:
    lines = ["slide_id,patient_id,split,grade,logit,score"]
    for split, each in (("train", slides), ("valid", valid)):
        logits = task.logits(each) if each else np.empty(0)
        scores = np.full(len(logits), np.nan) if calibration is None else calibration.apply(logits)
        for slide, logit, score in zip(each, logits.tolist(), scores.tolist(), strict=True):
            shown = "" if calibration is None else repr(score)
            lines.append(f"{slide.name},{slide.patient_id},{split},{slide.grade},{logit!r},{shown}")
    write_text(path, "\n".join(lines) + "\n")
