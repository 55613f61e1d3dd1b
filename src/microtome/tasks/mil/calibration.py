"""Calibration of a trained model's logits: fitted on rows that no member was trained on, applied before anything else.

Only maps that scale and shift logits are kept with a model, so that attributions of the calibrated logit are the
scaled attributions of the raw one.
"""

import numpy as np
from jaxtyping import Float, Float64

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.evaluation.calibration import Calibration, fit_calibration


def fit_logit_calibration(
    target: Target, logits: Float[np.ndarray, "n c"], values: Float[np.ndarray, "n k"]
) -> Calibration:
    """Fit on held-out rows: scale and shift of a single logit (Platt), one temperature of several.

    Args:
        target: What is predicted: binary or multiclass.
        logits: Of rows on which the model was not trained.
        values: Their values, as in :class:`~microtome.cohort.targets.Labels`.

    Raises:
        ConfigError: If targets of this type are not calibrated.
    """
    if target.type not in ("binary", "multiclass"):
        raise ConfigError(
            f"Calibration is of probabilities of classes, and '{target.name}' is {target.type}. Leave it out."
        )
    if logits.shape[1] == 1:
        return fit_calibration("affine", values[:, 0], logits[:, 0])
    return fit_calibration("temperature", values[:, 0], logits)


def check_calibration(calibration: Calibration) -> None:
    """Refuse a map that is not linear in the logits, or that turns their order round.

    Raises:
        ConfigError: If it is one.
    """
    if calibration.kind == "isotonic" or not calibration.scale > 0:
        raise ConfigError(
            f"A model keeps affine calibrations that rise with the logit. Got {calibration.kind} with scale "
            f"{calibration.scale:g}. A scale below 0 says that the model is worse than chance."
        )


def calibrated(calibration: Calibration | None, logits: Float64[np.ndarray, "*n c"]) -> Float64[np.ndarray, "*n c"]:
    """Calibrated logits; as they are without a calibration."""
    return logits if calibration is None else logits * calibration.scale + calibration.shift
