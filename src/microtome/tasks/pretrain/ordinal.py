"""Stage 3: the score of a slide, by which of two slides is infiltrated more; and its calibration.

References:
    specs FastGlioma section 3, stage 3, and section 1.4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from microtome.cohort.predictions import Predictions, predictions_of
from microtome.cohort.targets import Target
from microtome.encoders.srh_reference import Calibration, sigmoid
from microtome.encoders.srh_use import BANDS
from microtome.errors import CohortError, ConfigError
from microtome.evaluation.weighted import auroc
from microtome.models.fastglioma import Layers, SrhScorer, SrhSlideTransformer
from microtome.models.losses import gather
from microtome.models.objectives import build_objective
from microtome.models.objectives.ordinal import CoralHead, fit_proportional_odds
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.slide_ssl import Tokens, see_slides
from microtome.tasks.pretrain.tokens import TokenSlide, check_tokens
from microtome.tasks.pretrain.views import SlideViews
from microtome.tasks.training.order import batch_rows, epoch_order, n_joint_batches
from microtome.tasks.training.parallel import ranks
from microtome.tasks.training.task import StepResult, TrainingTask

GRADES = tuple(str(band.grade) for band in BANDS)
GRADE = Target("grade", "ordinal", ("grade",), GRADES)
_INNER_CUTS = tuple(band.upto for band in BANDS[:-1])


@dataclass(frozen=True)
class OrdinalSettings:
    """What is learned, and how.

    Attributes:
        objective: ``pairwise`` (the published one), ``cumulative_link`` (CORAL), or ``cross_entropy``, a baseline that
            gives degrees and no score.
        ties: What ``pairwise`` makes of slides of one degree: none, same, lower, upper.
        finetune: Whether the transformer learns too; if not, the head alone.
        views: Views of the slides that are learned from; None for whole slides.
        batch_size: Slides per batch and process.
        optimiser: How weights follow gradients.
        seed: Decides order and views.
    """

    objective: Literal["pairwise", "cumulative_link", "cross_entropy"] = "pairwise"
    ties: Literal["none", "same", "lower", "upper"] = "none"
    finetune: bool = False
    views: SlideViews | None = field(default_factory=SlideViews)
    batch_size: int = 16
    optimiser: OptimiserSettings = field(default_factory=lambda: OptimiserSettings(learning_rate=1.875e-5))
    seed: int = 0


class OrdinalTask(TrainingTask):
    """Trains a score head, and the slide transformer with it if asked to.

    Args:
        slides: To learn from, each with a degree.
        settings: How.
        transformer: Of stage 2; None for one without training.
        valid: Slides to watch, each with a degree.
        device: Where.

    Raises:
        CohortError: If a slide has no degree, or all have the same.
        ConfigError: If the slides do not fill a batch.
        MicrotomeError: If a slide's vectors cannot be read, or are another encoder's.

    Attributes:
        scorer: Transformer and head.
    """

    def __init__(
        self,
        slides: Sequence[TokenSlide],
        settings: OrdinalSettings,
        *,
        transformer: SrhSlideTransformer | None = None,
        valid: Sequence[TokenSlide] = (),
        device: str = "cpu",
    ) -> None:
        self._slides, self._valid, self._settings = list(slides), list(valid), settings
        self._grades, self._valid_grades = grades_of(slides), grades_of(valid)
        if len(set(self._grades.tolist())) < 2:
            raise CohortError("All slides to learn from have one degree: there is nothing to tell apart.")
        self._digest = check_tokens([*slides, *valid])
        self._place, self._device = ranks(), torch.device(device)
        self._n_batches = n_joint_batches(len(self._slides), settings.batch_size, self._place)
        options = {"ties": settings.ties} if settings.objective == "pairwise" else {}
        if settings.objective == "cumulative_link":
            options = {"ordered": False}  # type: ignore[dict-item]  # one of the options is no text
        self._objective = build_objective(GRADE, settings.objective, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.scorer = SrhScorer()
            self._last: nn.Module = nn.Identity()
            if settings.objective == "cumulative_link":
                self._last = CoralHead(len(GRADES))
            elif settings.objective == "cross_entropy":
                self.scorer.head = Layers(512, 512, len(GRADES))  # type: ignore[assignment]  # a baseline's
        if transformer is not None:
            self.scorer.slide.load_state_dict(transformer.state_dict())
        self.scorer.slide.requires_grad_(settings.finetune)
        self.scorer.to(self._device)
        self._last.to(self._device)

    def modules(self) -> Mapping[str, nn.Module]:
        """``bb.mil`` and ``head``, as in the published checkpoints of the stage; CORAL's thresholds beside them."""
        named: dict[str, nn.Module] = {"bb.mil": self.scorer.slide, "head": self.scorer.head}
        return named if isinstance(self._last, nn.Identity) else {**named, "thresholds": self._last}

    def optimizer(self) -> Optimizer:
        """As the settings say."""
        return self._settings.optimiser.build([*self.scorer.parameters(), *self._last.parameters()])

    def scheduler(self, optimizer: Optimizer, n_steps: int) -> LRScheduler | None:
        """As the settings say."""
        return self._settings.optimiser.schedule(optimizer, n_steps, n_batches=self._n_batches)

    def n_batches(self) -> int:
        """Full batches of an epoch."""
        return self._n_batches

    def begin_epoch(self, epoch: int) -> None:
        """What is frozen does not drop anything."""
        if not self._settings.finetune:
            self.scorer.slide.eval()

    def batches(self, epoch: int, start: int) -> Iterator[tuple[list[Tokens], Tensor]]:
        """A view of each slide and the degrees."""
        order = epoch_order(len(self._slides), seed=self._settings.seed, epoch=epoch)
        for number in range(start, self._n_batches):
            rows = batch_rows(order, number, self._settings.batch_size, self._place)
            seeds = [(self._settings.seed, 1 + epoch, int(row)) for row in rows]
            tokens = [self._draw(self._slides[row], seed) for row, seed in zip(rows, seeds, strict=True)]
            yield tokens, torch.from_numpy(self._grades[rows]).to(torch.float32)[:, None]

    def step(self, batch: tuple[Sequence[Tokens], Tensor]) -> StepResult:
        """Loss of the slides' scores; each is held against those of all processes."""
        tokens, grades = batch
        logits = gather(self._last(self._see(tokens)))
        return StepResult(self._objective.loss(logits, gather(grades.to(self._device))))

    def validate(self, epoch: int) -> Mapping[str, float]:
        """``mean_auroc`` over the thresholds and ``spearman`` of whole slides' scores; nothing without any."""
        if not self._valid:
            return {}
        return score_metrics(self.logits(self._valid), self._valid_grades)

    @torch.no_grad()
    def logits(self, slides: Sequence[TokenSlide]) -> Float64[np.ndarray, " n"]:
        """Logits of whole slides; of the baseline the expected degree."""
        found = self._seen_whole(slides).double().cpu()
        if self._settings.objective == "cross_entropy":
            found = found.softmax(dim=1) @ torch.arange(len(GRADES), dtype=found.dtype)[:, None]
        return found[:, 0].numpy()

    @torch.no_grad()
    def predict(self, slides: Sequence[TokenSlide], target: Target = GRADE) -> Predictions:
        """What the objective says of whole slides: degree, and probability of each or more.

        Cut-points that it lacks are those under which the degrees of the slides learned from are likeliest.

        Args:
            slides: To judge.
            target: Under what name.
        """
        trained, found = (self._last(self._seen_whole(each)).cpu().numpy() for each in (self._slides, slides))
        fitted = self._objective.read_from(trained, self._grades[:, None].astype(np.float64))
        names = [slide.name for slide in slides]
        patients = [slide.patient_id for slide in slides]
        return predictions_of(target, names, patients, fitted.columns(found), attrs={"model": self._settings.objective})

    def _seen_whole(self, slides: Sequence[TokenSlide]) -> Tensor:
        return torch.cat([self._see([_whole(slide)]) for slide in slides])

    @torch.no_grad()
    def embeddings(self, slides: Sequence[TokenSlide]) -> np.ndarray:
        """Vectors of whole slides, (n, 512)."""
        parts = [see_slides(self.scorer.slide, [_whole(slide)], self._device).cpu().numpy() for slide in slides]
        return np.concatenate(parts)

    def recipe(self) -> Mapping[str, Any]:
        """Slides, degrees and settings."""
        settings, views = self._settings, self._settings.views
        return {
            "stage": "ordinal",
            "slides": [slide.name for slide in self._slides],
            "grades": self._grades.tolist(),
            "valid": [slide.name for slide in self._valid],
            "tokens": self._digest,
            "objective": settings.objective,
            "ties": settings.ties,
            "finetune": settings.finetune,
            "views": None if views is None else [views.split, *views.area, *views.aspect, *views.kept],
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            **settings.optimiser.recipe(),
        }

    def _draw(self, slide: TokenSlide, seed: tuple[int, int, int]) -> Tokens:
        if self._settings.views is None:
            return _whole(slide)
        rng = np.random.default_rng(seed)
        dump = slide.read(int(rng.integers(len(slide.files))))
        if len(dump.grid) < 2:  # two views need two patches; of the only one there is one
            return dump.embeddings, dump.grid
        rows, _ = self._settings.views.draw(dump.grid, rng)
        return dump.embeddings[rows], dump.grid[rows]

    def _see(self, slides: Sequence[Tokens]) -> Tensor:
        with torch.set_grad_enabled(self._settings.finetune and torch.is_grad_enabled()):
            embeddings = see_slides(self.scorer.slide, slides, self._device)
        logits: Tensor = self.scorer.head(embeddings)  # one each; of the baseline one per degree
        return logits


def _whole(slide: TokenSlide) -> Tokens:
    dump = slide.read()
    return dump.embeddings, dump.grid


def grades_of(slides: Sequence[TokenSlide]) -> Int64[np.ndarray, " n"]:
    """Degrees of slides as numbers.

    Raises:
        CohortError: If a slide has none of 0 to 3.
    """
    wrong = [slide for slide in slides if slide.grade not in GRADES]
    if wrong:
        raise CohortError(
            f"Slide '{wrong[0].name}' has the degree {wrong[0].grade!r} (and {len(wrong) - 1} more slides have none of "
            f"{', '.join(GRADES)}). Add slide_class to the metadata, or pass a cohort with a column grade."
        )
    return np.array([int(slide.grade) for slide in slides], np.int64)


def score_metrics(logits: Float64[np.ndarray, " n"], grades: Int64[np.ndarray, " n"]) -> dict[str, float]:
    """Mean AUROC over the thresholds that part the slides, and rank correlation; NaN where nothing is parted."""
    once = np.ones((1, len(grades)))
    areas = [
        auroc(grades >= k, logits)(once)[0] for k in range(1, len(GRADES)) if 0 < (grades >= k).sum() < len(grades)
    ]
    varies = len(set(grades.tolist())) > 1 and len(set(logits.tolist())) > 1
    return {
        "mean_auroc": float(np.mean(areas)) if areas else float("nan"),
        "spearman": float(spearmanr(logits, grades).statistic) if varies else float("nan"),
    }


def fit_score_calibration(
    logits: Float64[np.ndarray, " n"], grades: Int64[np.ndarray, " n"], *, kind: Literal["affine", "isotonic"]
) -> Calibration:
    """Place the bands: after it, scores part the degrees where the published bands do, as far as they can.

    The cut-points between degrees are those under which the degrees are likeliest (proportional odds). ``affine``
    brings the middle one, tumour or not, to one half and the others as near to theirs as one slope allows;
    ``isotonic`` bends the line so that each is where it belongs.

    Args:
        logits: Of validation slides.
        grades: Their degrees.
        kind: Which.

    Raises:
        CohortError: If too few degrees occur, or the scores do not rise with them.
        ConfigError: If logits are not finite.
    """
    if len(set(grades.tolist())) < 2:
        raise CohortError("A calibration needs validation slides of at least two degrees.")
    if not np.isfinite(logits).all():
        raise ConfigError("Scores of validation slides must be finite. Got NaN or infinity.")
    if len(set(logits.tolist())) < 2 or spearmanr(logits, grades).statistic <= 0:
        raise CohortError(
            "The score does not rise with the degree on the validation slides: it cannot be calibrated. Train longer, "
            "or see whether the degrees are right."
        )
    slope, cuts = fit_proportional_odds(logits, grades, n_classes=len(GRADES))
    places = np.array(cuts) / slope  # on the logit
    wanted = -np.log(1 / np.array(_INNER_CUTS) - 1)
    around = places - places[1]
    scale = float((around * wanted).sum() / (around**2).sum()) if np.ptp(places) > 0 else 1.0
    scale = scale if scale > 0 else 1.0
    offset = -scale * float(places[1])
    plain = sigmoid(scale * places + offset)
    knots: tuple[tuple[float, float], ...] = ()
    if kind == "isotonic":
        if len(set(grades.tolist())) < len(GRADES):
            raise CohortError("An isotonic calibration needs validation slides of all four degrees. Take affine.")
        inner = zip(plain.tolist(), _INNER_CUTS, strict=True)
        knots = ((0.0, 0.0), *((float(a), float(b)) for a, b in inner), (1.0, 1.0))
    found = Calibration(scale, offset, knots, n_slides=len(grades))
    shown = found.apply(places)
    return Calibration(scale, offset, knots, n_slides=len(grades), cuts=tuple(float(cut) for cut in shown))
