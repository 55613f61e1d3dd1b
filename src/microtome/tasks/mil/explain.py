"""What a trained model saw in a bag: its attention, and what each tile added to each logit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from microtome.errors import ConfigError
from microtome.features.bag import Bag
from microtome.models.aggregators.base import Aggregator
from microtome.tasks.mil.attribution import TOLERANCE, integrate_gradients, mean_logits
from microtome.tasks.mil.calibration import calibrated
from microtome.tasks.mil.model_folder import TrainedModel

Baseline = Literal["auto", "mean", "zero"]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What a model says of one bag, and why, tile by tile; from the same tiles as the prediction.

    Attributes:
        names: What each logit is of.
        logits: (c,) calibrated, where the model is.
        attention: (n, m) the model's own maps, averaged over its members; what they are each aggregator's class says.
        attribution: (n, c) what each tile adds to each logit; None where it was not asked for.
        baseline_logits: (c,) of the bag whose tiles are all the baseline: ``attribution.sum(0) + baseline_logits`` is
            ``logits``, up to ``gap``.
        gap: (c,) how much of that is missed.
        baseline: ``mean`` (of the training tiles) or ``zero``.
        n_evaluations: How many gradients were computed.
    """

    names: tuple[str, ...]
    logits: Float64[np.ndarray, " c"]
    attention: Float32[np.ndarray, "n m"]
    attribution: Float64[np.ndarray, "n c"] | None = None
    baseline_logits: Float64[np.ndarray, " c"] | None = None
    gap: Float64[np.ndarray, " c"] | None = None
    baseline: str = ""
    n_evaluations: int = 0

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Columns for a table of tiles, named attention (or ``attention_<output>``) and ``attribution_<output>``."""
        n_maps = self.attention.shape[1]
        each = self.names if n_maps == len(self.names) else tuple(str(i) for i in range(n_maps))
        names = ["attention"] if n_maps == 1 else [f"attention_{name}" for name in each]
        found: dict[str, Float[np.ndarray, " n"]] = {n: self.attention[:, i] for i, n in enumerate(names)}
        if self.attribution is not None:
            found |= {f"attribution_{name}": self.attribution[:, i] for i, name in enumerate(self.names)}
        return found


@dataclass(frozen=True, eq=False)
class Explainer:
    """A model on a device, ready to predict and explain bags.

    Attributes:
        model: The model.
        modules: Its members, on the device.
        device: Where they are.
    """

    model: TrainedModel
    modules: Sequence[Aggregator]
    device: torch.device

    @classmethod
    def on(cls, model: TrainedModel, device: str = "cpu") -> "Explainer":
        """Put a model on a device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``mps``."""
        from copy import deepcopy

        from microtome.encoders.hardware import resolve_device

        place = torch.device(resolve_device(device))
        same = place.type == "cpu"
        return cls(model, tuple(m if same else deepcopy(m).to(place) for m in model.modules), place)

    def explain(
        self,
        features: Float[np.ndarray, "n d"],
        *,
        attribution: bool = True,
        baseline: Baseline = "auto",
        tolerance: float = TOLERANCE,
    ) -> Explanation:
        """Predict one bag and say why.

        Args:
            features: All tiles of the bag.
            attribution: Whether tiles are told what they add; without it one pass is all.
            baseline: What a tile that says nothing is: ``mean`` of the training tiles, the ``zero`` vector, or
                ``auto``, the mean where the model has it.
            tolerance: Share of a logit's change that attributions may miss.

        Raises:
            ConfigError: If there is no tile, vectors have another length, are not finite, or the model has no mean.
            AttributionError: If attributions cannot be made complete.
        """
        bag = self._bag(features)
        logits, attention = self._predict(bag)
        names, calibration = self.model.output_names, self.model.calibration
        if not attribution:
            return Explanation(names, calibrated(calibration, logits), attention)
        kind, vector = self._baseline(baseline)
        found = integrate_gradients(self.modules, bag, vector, tolerance=tolerance)
        scale = 1.0 if calibration is None else calibration.scale
        return Explanation(
            names,
            calibrated(calibration, found.logits),
            attention,
            found.values * scale,
            calibrated(calibration, found.baseline),
            found.gap * scale,
            kind,
            found.n_evaluations,
        )

    def _bag(self, features: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
        if features.ndim != 2 or not len(features) or features.shape[1] != self.model.features.n_features:
            raise ConfigError(
                f"A bag must have at least one tile with {self.model.features.n_features} features. Got shape "
                f"{features.shape}."
            )
        if not np.isfinite(features).all():
            raise ConfigError("A bag holds NaN or infinity. Extract its features again.")
        return torch.from_numpy(np.array(features, np.float32)).to(self.device)

    def _predict(self, bag: Float[Tensor, "n d"]) -> tuple[Float64[np.ndarray, " c"], Float32[np.ndarray, "n m"]]:
        with torch.no_grad():
            logits = mean_logits(self.modules, bag[None])[0].cpu().numpy()
            maps = [module(bag[None]).attention[0].float() for module in self.modules]
            attention = torch.stack(maps).mean(dim=0).cpu().numpy()
        return logits, attention

    def _baseline(self, kind: Baseline) -> tuple[str, Float[Tensor, " d"]]:
        mean = self.model.mean_features
        if kind == "mean" and mean is None:
            raise ConfigError("The model does not know the mean of its training tiles. Pass --baseline zero.")
        if mean is None or kind == "zero":
            return "zero", torch.zeros(self.model.features.n_features, device=self.device)
        return "mean", torch.from_numpy(np.array(mean, np.float32)).to(self.device)


def explain(
    model: TrainedModel,
    features: Float[np.ndarray, "n d"] | Bag,
    *,
    baseline: Baseline = "auto",
    tolerance: float = TOLERANCE,
    device: str = "cpu",
) -> Explanation:
    """What each tile of a bag adds to each logit of a model, by integrated gradients, and the model's attention.

    Args:
        model: As ``load_model`` gives it.
        features: A bag of a feature store, which must be of the model's kind, or plain vectors.
        baseline: What a tile that says nothing is; see :meth:`Explainer.explain`.
        tolerance: Share of a logit's change that attributions may miss.
        device: Where to compute.

    Returns:
        Logits, attention and attributions; ``columns`` has them by name.

    Raises:
        ConfigError: If the features are of another kind than the model's.
        AttributionError: If attributions cannot be made complete.
    """
    if isinstance(features, Bag):
        from microtome.tasks.mil.features_recipe import check_features, features_recipe

        check_features(model.features, features_recipe(features), what=f"'{features.slide_id}'")
        features = features.features
    return Explainer.on(model, device).explain(features, baseline=baseline, tolerance=tolerance)
