"""Stage 2: the slide transformer, by views of the same slide.

References:
    specs FastGlioma section 3, stage 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from microtome.errors import CohortError
from microtome.models.fastglioma import Layers, SrhSlideTransformer
from microtome.models.losses import sim_clr, vicreg
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.tokens import TokenSlide, check_tokens
from microtome.tasks.pretrain.views import SlideViews
from microtome.tasks.training.order import batch_rows, epoch_order, n_joint_batches
from microtome.tasks.training.parallel import ranks
from microtome.tasks.training.task import StepResult, TrainingTask

Tokens = tuple[Float32[np.ndarray, "_ _"], Int64[np.ndarray, "_ 2"]]
"""Vectors of some patches of a slide, and where they lie."""


@dataclass(frozen=True)
class SlideSslSettings:
    """What is learned, and how.

    Attributes:
        loss: ``vicreg`` or ``simclr``.
        weights: Of invariance, variance and covariance in VICReg.
        temperature: Of SimCLR's similarities.
        views: How two views of a slide are drawn.
        batch_size: Slides per batch and process.
        optimiser: How weights follow gradients.
        seed: Decides order, tags and views.
    """

    loss: Literal["vicreg", "simclr"] = "vicreg"
    weights: tuple[float, float, float] = (10.0, 10.0, 1.0)
    temperature: float = 0.07
    views: SlideViews = field(default_factory=SlideViews)
    batch_size: int = 4
    optimiser: OptimiserSettings = field(default_factory=lambda: OptimiserSettings(learning_rate=3e-4))
    seed: int = 0


class SlideSslTask(TrainingTask):
    """Trains a slide transformer and its projection.

    Args:
        slides: To learn from, with saved vectors; at least two patches each.
        settings: How.
        valid: Slides to watch the loss on.
        device: Where.

    Raises:
        ConfigError: If the slides do not fill a batch.
        CohortError: If there are none.
        TileError: If a slide has a single patch, of which there are no two views.
        MicrotomeError: If a slide's vectors cannot be read, or are another encoder's.

    Attributes:
        transformer: The slide transformer.
        projection: What is behind it in training.
    """

    def __init__(
        self,
        slides: Sequence[TokenSlide],
        settings: SlideSslSettings,
        *,
        valid: Sequence[TokenSlide] = (),
        device: str = "cpu",
    ) -> None:
        if not slides:
            raise CohortError("There are no slides to learn from.")
        self._slides, self._valid, self._settings = list(slides), list(valid), settings
        self._digest = check_tokens([*slides, *valid], least=2)
        self._place, self._device = ranks(), torch.device(device)
        self._n_batches = n_joint_batches(len(self._slides), settings.batch_size, self._place)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.transformer = SrhSlideTransformer().to(self._device)
            self.projection = Layers(512, 512, 128).to(self._device)

    def modules(self) -> Mapping[str, nn.Module]:
        """``bb.mil`` and ``proj``, as in the published checkpoints of the stage."""
        return {"bb.mil": self.transformer, "proj": self.projection}

    def optimizer(self) -> Optimizer:
        """As the settings say."""
        return self._settings.optimiser.build([*self.transformer.parameters(), *self.projection.parameters()])

    def scheduler(self, optimizer: Optimizer, n_steps: int) -> LRScheduler | None:
        """As the settings say."""
        return self._settings.optimiser.schedule(optimizer, n_steps, n_batches=self._n_batches)

    def n_batches(self) -> int:
        """Full batches of an epoch."""
        return self._n_batches

    def batches(self, epoch: int, start: int) -> Iterator[list[tuple[Tokens, Tokens]]]:
        """Two views of each slide; what they are follows from seed, epoch and slide alone."""
        order = epoch_order(len(self._slides), seed=self._settings.seed, epoch=epoch)
        for number in range(start, self._n_batches):
            rows = batch_rows(order, number, self._settings.batch_size, self._place)
            yield [self._draw(self._slides[row], (self._settings.seed, 1 + epoch, int(row))) for row in rows]

    def step(self, batch: Sequence[tuple[Tokens, Tokens]]) -> StepResult:
        """Project every view, and hold the views against each other."""
        loss, logs = self._loss(batch)
        return StepResult(loss, logs)

    def validate(self, epoch: int) -> Mapping[str, float]:
        """``valid_loss`` on views that are the same each time; nothing with fewer than two slides to watch."""
        if len(self._valid) < 2:
            return {}
        views = [self._draw(slide, (self._settings.seed, 0, row)) for row, slide in enumerate(self._valid)]
        return {"valid_loss": float(self._loss(views)[0])}

    def recipe(self) -> Mapping[str, Any]:
        """Slides and settings."""
        settings, views = self._settings, self._settings.views
        return {
            "stage": "slide-ssl",
            "slides": [slide.name for slide in self._slides],
            "tags": [len(slide.files) for slide in self._slides],
            "valid": [slide.name for slide in self._valid],
            "tokens": self._digest,
            "loss": settings.loss,
            "weights": list(settings.weights),
            "temperature": settings.temperature,
            "views": [views.split, *views.area, *views.aspect, *views.kept],
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            **settings.optimiser.recipe(),
        }

    def _draw(self, slide: TokenSlide, seed: tuple[int, int, int]) -> tuple[Tokens, Tokens]:
        rng = np.random.default_rng(seed)
        tags = rng.integers(len(slide.files), size=2)
        dumps = [slide.read(int(tag)) for tag in tags]
        rows = self._settings.views.draw(dumps[0].grid, rng)
        first, second = ((dump.embeddings[each], dump.grid[each]) for dump, each in zip(dumps, rows, strict=True))
        return first, second

    def _loss(self, batch: Sequence[tuple[Tokens, Tokens]]) -> tuple[Tensor, dict[str, Tensor]]:
        seen = see_slides(self.transformer, [view for views in batch for view in views], self._device)
        vectors = self.projection(seen).unflatten(0, (len(batch), 2))
        if self._settings.loss == "simclr":
            return sim_clr(normalize(vectors, dim=-1), temperature=self._settings.temperature), {}
        invariance, variance, covariance = self._settings.weights
        losses = vicreg(vectors, invariance=invariance, variance=variance, covariance=covariance)
        return losses.loss, {name: part.detach() for name, part in losses._asdict().items() if name != "loss"}


def see_slides(
    transformer: SrhSlideTransformer, slides: Sequence[Tokens], device: torch.device
) -> Float[Tensor, "n d"]:
    """Vectors of slides or views of them; those with as many patches as another go through together."""
    alike: dict[int, list[int]] = {}
    for number, (features, _) in enumerate(slides):
        alike.setdefault(len(features), []).append(number)
    found: dict[int, Tensor] = {}
    for numbers in alike.values():
        stacked, places = (
            torch.from_numpy(np.stack([slides[number][part] for number in numbers])).to(device) for part in (0, 1)
        )
        found.update(zip(numbers, transformer(stacked, places), strict=True))
    return torch.stack([found[number] for number in range(len(slides))])
