"""Stage 1: the patch encoder, by what belongs to the same patient, slide and patch.

References:
    specs FastGlioma section 3, stage 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from microtome.errors import CohortError
from microtome.evaluation.probe import probe_knn
from microtome.evaluation.probe_reference import LabelledFeatures
from microtome.models.fastglioma import Layers
from microtome.models.losses import hierarchical_contrastive, sim_clr
from microtome.models.srh import srh_resnet34
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.patches import PatchPatient, PatchViews, balanced_rows, read_ahead
from microtome.tasks.training.order import batch_rows, n_joint_batches
from microtome.tasks.training.parallel import ranks
from microtome.tasks.training.task import StepResult, TrainingTask

_PROBED_SLIDES, _PROBED_PER_SLIDE = 256, 4  # a look, not a test: large studies would spend their time on it
_NEIGHBOURS, _AT_ONCE = 10, 16


@dataclass(frozen=True)
class HiDiscSettings:
    """What is learned, and how.

    Attributes:
        loss: ``hidisc``, all three levels, or ``simclr``, the patch's views alone.
        levels: Weights of patients, slides and patches in the sum.
        temperature: Of the similarities.
        batch_size: Patients per batch and process.
        balance: Whether patients of rarer diagnoses come more often.
        optimiser: How weights follow gradients.
        seed: Decides order, views and changes.
        workers: Threads that read and change patches.
    """

    loss: Literal["hidisc", "simclr"] = "hidisc"
    levels: tuple[float, float, float] = (1.0, 1.0, 1.0)
    temperature: float = 0.07
    batch_size: int = 128
    balance: bool = True
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    seed: int = 0
    workers: int = 2


class HiDiscTask(TrainingTask):
    """Trains a patch encoder and its projection.

    Args:
        patients: To learn from.
        views: How their patches are seen.
        settings: How.
        valid: Patients to watch: the share of their patches whose nearest training patches are of their diagnosis. Of
            many slides some are looked at, and of each patch the middle, as large as training sees it.
        device: Where.

    Raises:
        ConfigError: If the patients do not fill a batch.
        CohortError: If a patient to watch has a diagnosis that no patient to learn from has.

    Attributes:
        encoder: The patch encoder.
        projection: What is behind it in training.
    """

    def __init__(
        self,
        patients: Sequence[PatchPatient],
        views: PatchViews,
        settings: HiDiscSettings,
        *,
        valid: Sequence[PatchPatient] = (),
        device: str = "cpu",
    ) -> None:
        self._patients, self._valid, self._views, self._settings = list(patients), list(valid), views, settings
        self._place, self._device = ranks(), torch.device(device)
        self._labels = [patient.label for patient in self._patients]
        stranger = next((patient for patient in self._valid if patient.label not in self._labels), None)
        if stranger is not None:
            raise CohortError(
                f"Patient {stranger.patient_id!r}, to be watched, is {stranger.label!r}; nobody to learn from is. "
                "Leave the patient out, or learn from others like it."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.encoder = srh_resnet34(views.see.channels).to(self._device)
            self.projection = Layers(512, 128).to(self._device)
        self._n_batches = n_joint_batches(len(self._order(0)), settings.batch_size, self._place)

    def modules(self) -> Mapping[str, nn.Module]:
        """``bb`` and ``proj``, as in the published checkpoints of the stage."""
        return {"bb": self.encoder, "proj": self.projection}

    def optimizer(self) -> Optimizer:
        """As the settings say."""
        return self._settings.optimiser.build([*self.encoder.parameters(), *self.projection.parameters()])

    def scheduler(self, optimizer: Optimizer, n_steps: int) -> LRScheduler | None:
        """As the settings say."""
        return self._settings.optimiser.schedule(optimizer, n_steps, n_batches=self._n_batches)

    def n_batches(self) -> int:
        """Full batches of an epoch."""
        return self._n_batches

    def batches(self, epoch: int, start: int) -> Iterator[Float[Tensor, "b s p t c h w"]]:
        """Patients' views; which and how follows from seed, epoch and place in the epoch alone."""
        order, size = self._order(epoch), self._settings.batch_size
        jobs = []
        for number in range(start, self._n_batches):
            rows = batch_rows(np.arange(len(order)), number, size, self._place)
            jobs.append([(self._patients[order[row]], (self._settings.seed, epoch, int(row))) for row in rows])
        return read_ahead(jobs, self._views, workers=self._settings.workers)

    def step(self, batch: Float[Tensor, "b s p t c h w"]) -> StepResult:
        """Project every view, and hold the views against each other."""
        vectors = self.projection(self.encoder(batch.to(self._device, non_blocking=True).flatten(0, 3)))
        unit = normalize(vectors, dim=1).reshape(*batch.shape[:4], -1)
        if self._settings.loss == "simclr":
            return StepResult(sim_clr(unit.flatten(0, 2), temperature=self._settings.temperature))
        losses = hierarchical_contrastive(unit, weights=self._settings.levels, temperature=self._settings.temperature)
        logs = {f"{name}_loss": loss.detach() for name, loss in losses._asdict().items()}
        return StepResult(losses.sum, logs)

    def validate(self, epoch: int) -> Mapping[str, float]:
        """``knn_accuracy``, mean over the diagnoses; nothing without patients to watch."""
        if not self._valid:
            return {}
        known = sorted(set(self._labels))
        train, judged = self._probed(self._patients, known), self._probed(self._valid, known)
        scores = probe_knn(train, judged.features, k=min(_NEIGHBOURS, len(train))).scores
        hits = scores.argmax(axis=1) == judged.labels
        return {"knn_accuracy": float(np.mean([hits[judged.labels == c].mean() for c in np.unique(judged.labels)]))}

    def _probed(self, patients: Sequence[PatchPatient], classes: Sequence[str]) -> LabelledFeatures:
        """Vectors of some patches of each slide, the same each time."""
        files, labels = [], []
        slides = [(patient.label, slide) for patient in patients for slide in patient.slides]
        for number in _spread(len(slides), _PROBED_SLIDES):
            label, slide = slides[number]
            rows = _spread(len(slide), _PROBED_PER_SLIDE)
            files += [slide[row] for row in rows]
            labels += [classes.index(label)] * len(rows)
        parts = []
        for start in range(0, len(files), _AT_ONCE):
            chunk = files[start : start + _AT_ONCE]
            images = torch.stack([self._views.centre(self._views.read(file)) for file in chunk])
            parts.append(self.encoder(images.to(self._device)).float().cpu().numpy())
        return LabelledFeatures(np.concatenate(parts), np.array(labels, np.int64))

    def recipe(self) -> Mapping[str, Any]:
        """Patients, views and settings."""
        settings = self._settings
        return {
            "stage": "hidisc",
            "patients": [patient.patient_id for patient in self._patients],
            "patches": [sum(map(len, patient.slides)) for patient in self._patients],
            "valid": [patient.patient_id for patient in self._valid],
            **{f"views_{name}": value for name, value in self._views.recipe().items()},
            "loss": settings.loss,
            "levels": list(settings.levels),
            "temperature": settings.temperature,
            "batch_size": settings.batch_size,
            "balance": settings.balance,
            "seed": settings.seed,
            **settings.optimiser.recipe(),
        }

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._settings.seed, epoch))
        rows = balanced_rows(self._labels, rng) if self._settings.balance else np.arange(len(self._labels))
        return rng.permutation(rows)


def _spread(n: int, wanted: int) -> list[int]:
    """Up to ``wanted`` rows of ``n``, evenly spread."""
    return [int(row) for row in np.unique(np.linspace(0, n - 1, wanted).astype(int))]
