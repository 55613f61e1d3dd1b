"""A trained model as a folder: ``weights.safetensors``, ``model.json`` and ``MODEL_CARD.md``.

``model.json`` is written last and holds the hash of the weights, so that a folder with it is whole.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

import microtome
from microtome.cohort.targets import Target, Unit
from microtome.encoders.checkpoints import check_finite, compare
from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError, RecipeMismatchError, WeightsError
from microtome.evaluation.calibration import Calibration
from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.registry import build_aggregator
from microtome.models.objectives import build_objective
from microtome.models.objectives.base import Objective
from microtome.storage import Claim, hash_file, write_text, written_whole
from microtome.tasks.mil.calibration import check_calibration
from microtome.tasks.mil.digests import Digests
from microtome.tasks.mil.features_recipe import FeaturesRecipe
from microtome.tasks.mil.jobs import ModelSpec
from microtome.tasks.mil.model_card import model_card
from microtome.tasks.output import INTENDED_USE, software_versions

FORMAT, FORMAT_VERSION = "microtome-model", 1
WEIGHTS, RECORD, CARD = "weights.safetensors", "model.json", "MODEL_CARD.md"
_MEAN = "mean_features"
_UNITS: tuple[Unit, ...] = ("slide", "biopsy", "patient")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that was trained, with all that is needed to use it on other slides.

    Several members (models of several folds, say) predict together: their logits are averaged, then calibrated.

    Attributes:
        spec: The aggregator.
        target: What it predicts.
        objective: Name of the objective, for ``build_objective``.
        objective_state: Its ``state()``.
        members: The weights of each member, under the aggregator's own names.
        features: What kind of features it takes.
        unit: What one bag is.
        training_patients: ``Digests.of(patient_ids)`` of all patients that had a part in it, selection included.
        training_slides: The same of their slides.
        mean_features: Mean vector of the training tiles (each bag counts the same), the baseline of attributions;
            None has the zero vector.
        calibration: Of the averaged logits, or None.
        metrics: Name → estimate, low and high (the latter two may be None), as expected on new patients.
        training: How it was trained, for people: number of bags and patients, hyper-parameters, seeds, cohort.
        intended_use: What it is for, in a sentence or two.
    """

    spec: ModelSpec
    target: Target
    objective: str
    objective_state: Mapping[str, Any]
    members: Sequence[Mapping[str, Tensor]]
    features: FeaturesRecipe
    unit: Unit = "slide"
    training_patients: Digests = field(default_factory=Digests)
    training_slides: Digests = field(default_factory=Digests)
    mean_features: Float32[np.ndarray, " d"] | None = None
    calibration: Calibration | None = None
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    intended_use: str = INTENDED_USE

    @cached_property
    def reading(self) -> Objective:
        """The objective, which reads logits as predictions."""
        return build_objective(self.target, **{**self.objective_state, "name": self.objective})

    @cached_property
    def modules(self) -> tuple[Aggregator, ...]:
        """The members as modules, in evaluation mode, on the CPU.

        Raises:
            WeightsError: If weights are missing, of another shape, of no such network, or not finite.
        """
        return tuple(self._module(number, weights) for number, weights in enumerate(self.members))

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each logit is of: a class, ``ge_<class>``, ``value``, ``risk``, ``time_<bin>``."""
        return output_names(self.target, self.reading.n_outputs)

    @cached_property
    def digest(self) -> str:
        """A digest of everything that decides what it predicts, 32 hexadecimal digits."""
        content = {name: value for name, value in _record(self).items() if name in _DECISIVE}
        text = json.dumps(content, sort_keys=True) + hashlib.sha256(_weights(self)).hexdigest()
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _module(self, number: int, weights: Mapping[str, Tensor]) -> Aggregator:
        with torch.random.fork_rng(devices=[]):  # weights that are replaced at once
            module = build_aggregator(
                self.spec.name, self.features.n_features, self.reading.n_outputs, **self.spec.options
            )
        fit = compare(f"member {number}", "", weights, module.state_dict())
        if not fit.is_whole:
            raise WeightsError(f"The weights are not those of '{self.spec.name}' as it was set up: {fit.explanation}.")
        check_finite(Path(WEIGHTS), weights)
        module.load_state_dict(dict(weights))
        return module.eval().requires_grad_(requires_grad=False)


def output_names(target: Target, n_outputs: int) -> tuple[str, ...]:
    """A name for each logit of a model of this target.

    Example:
        >>> output_names(Target("msi", "binary", ("msi",), ("MSS", "MSI-H")), 1)
        ('MSI-H',)
        >>> output_names(Target("os", "survival", ("time", "event")), 1)
        ('risk',)
    """
    if target.type == "binary" and n_outputs == 1:
        return target.classes[1:]
    if target.type == "ordinal" and n_outputs == len(target.classes) - 1:
        return tuple(f"ge_{name}" for name in target.classes[1:])
    if len(target.classes) == n_outputs:
        return target.classes
    if n_outputs == 1:
        return ({"survival": "risk", "ordinal": "grade"}.get(target.type, "value"),)
    kind = "time" if target.type == "survival" else "output"
    return tuple(f"{kind}_{i}" for i in range(n_outputs))


def save_model(folder: str | Path, model: TrainedModel, *, overwrite: bool = False) -> Path:
    """Write a model as a folder, whole; other files that are in it stay.

    Args:
        folder: Where.
        model: What.
        overwrite: Replace another model that is there.

    Returns:
        The folder.

    Raises:
        ConfigError: If the model has no member, or a calibration that cannot be kept.
        WeightsError: If its weights are not those of its aggregator.
        RecipeMismatchError: If another model is there.
        ClaimedError: If another process is writing it.
        OutputWriteError: If it cannot be written.
    """
    folder = Path(folder)
    _check(model)
    weights = _weights(model)
    sha256 = hashlib.sha256(weights).hexdigest()
    text = json.dumps({**_record(model), "weights_sha256": sha256}, indent=1, ensure_ascii=False, allow_nan=False)
    record = folder / RECORD
    with Claim(record):
        if record.exists():
            if record.read_text(encoding="utf-8") == text + "\n" and _is_whole(folder / WEIGHTS, sha256):
                return folder
            if not overwrite:
                raise RecipeMismatchError(
                    f"'{folder}' holds another model. Pass --overwrite to replace it, or another --out."
                )
            record.unlink()  # from here until the end no model is there
        with written_whole(folder / WEIGHTS) as temporary:
            temporary.write_bytes(weights)
        write_text(folder / CARD, model_card(json.loads(text)))
        write_text(record, text + "\n")
    return folder


def load_model(folder: str | Path) -> TrainedModel:
    """Read a model folder.

    Raises:
        MissingOutputError: If there is none, or it was not finished.
        CorruptOutputError: If a file is damaged, or was changed after it was written.
        ConfigError: If another version of the program wrote it in a form that this one does not know.
        WeightsError: If weights are missing, too many, or of another network.
    """
    folder = Path(folder)
    values = _read_record(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise MissingOutputError(f"The model '{folder}' has no '{WEIGHTS}'. Copy the whole folder.")
    try:
        model = _from_record(values, *_read_weights(path, values))
        _ = model.modules
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, WeightsError | CorruptOutputError):
            raise
        raise CorruptOutputError(
            f"'{folder / RECORD}' cannot be understood: {type(error).__name__} {error}. Copy the folder again, or fit "
            "the model again."
        ) from error
    return model


_DECISIVE = ("spec", "target", "objective", "features", "unit", "calibration", "n_members")
_KEYS = frozenset(
    ("format", "version", "microtome", "spec", "target", "objective", "features", "unit", "calibration", "n_members",
     "training_patients", "training_slides", "metrics", "training", "intended_use", "versions", "weights_sha256",
     "outputs")
)  # fmt: skip


def _check(model: TrainedModel) -> None:
    if not model.members:
        raise ConfigError("A model needs the weights of at least one member.")
    if model.calibration is not None:
        check_calibration(model.calibration)
    mean = model.mean_features
    if mean is not None and (mean.shape != (model.features.n_features,) or not np.isfinite(mean).all()):
        raise ConfigError(f"mean_features must be {model.features.n_features} finite numbers. Got shape {mean.shape}.")
    if model.unit not in _UNITS:
        raise ConfigError(f"unit must be {', '.join(_UNITS)}. Got {model.unit!r}.")
    _ = model.modules, model.output_names


def _record(model: TrainedModel) -> dict[str, Any]:
    def digests(names: Digests) -> dict[str, Any]:
        return {"salt": names.salt, "sha256": sorted(names.hashes)}

    plain: dict[str, Any] = _plain(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "microtome": microtome.__version__,
            "spec": {"name": model.spec.name, "options": dict(model.spec.options)},
            "target": model.target.as_dict(),
            "outputs": model.output_names,
            "objective": {"name": model.objective, "state": dict(model.objective_state)},
            "unit": model.unit,
            "n_members": len(model.members),
            "features": model.features.as_dict(),
            "calibration": None if model.calibration is None else model.calibration.as_dict(),
            "metrics": model.metrics,
            "training": model.training,
            "intended_use": model.intended_use,
            "versions": {**software_versions(), "torch": torch.__version__},
            "training_patients": digests(model.training_patients),
            "training_slides": digests(model.training_slides),
        }
    )
    return plain


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a state holds comes in, JSON comes out
    """Arrays, tuples and numpy's numbers as lists and plain numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _weights(model: TrainedModel) -> bytes:
    """All tensors as the bytes of one safetensors file: ``<member>.<name>``, and the mean vector."""
    from safetensors.torch import save

    tensors = {
        f"{number}.{name}": tensor.detach().cpu().contiguous().clone()
        for number, member in enumerate(model.members)
        for name, tensor in member.items()
    }
    if model.mean_features is not None:
        tensors[_MEAN] = torch.from_numpy(np.array(model.mean_features, np.float32))
    return save(tensors)


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hash_file(path) == sha256


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingOutputError(
            f"There is no finished model at '{folder}': it has no '{RECORD}'. Name the folder that fit wrote."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read: {error}. Copy the folder again.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CorruptOutputError(f"'{path}' is not the record of a microtome model. Name the folder that fit wrote.")
    if values.get("version") != FORMAT_VERSION:
        raise ConfigError(
            f"'{path}' has format version {values.get('version')!r}, written by microtome {values.get('microtome')}; "
            f"microtome {microtome.__version__} reads version {FORMAT_VERSION}. Use the version that wrote it."
        )
    if values.keys() != _KEYS:
        wrong = [f"lacks {key}" for key in sorted(_KEYS - values.keys())]
        wrong += [f"has the unknown entry {key}" for key in sorted(values.keys() - _KEYS)]
        raise CorruptOutputError(f"'{path}' {', '.join(wrong[:4])}. It was changed; copy the folder again.")
    return values


def _read_weights(
    path: Path, values: Mapping[str, Any]
) -> tuple[list[dict[str, Tensor]], Float32[np.ndarray, " d"] | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if hash_file(path) != values["weights_sha256"]:
        raise CorruptOutputError(
            f"'{path}' is damaged, or not the file that '{RECORD}' was written for. Copy the folder again."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read: {error}. Copy the folder again.") from error
    mean = tensors.pop(_MEAN, None)
    members: list[dict[str, Tensor]] = [{} for _ in range(int(values["n_members"]))]
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or int(number) >= len(members):
            raise WeightsError(f"'{path}' has the tensor '{key}', which is of no member. Fit the model again.")
        members[int(number)][name] = tensor
    return members, None if mean is None else mean.numpy()


def _from_record(
    values: Mapping[str, Any], members: list[dict[str, Tensor]], mean: Float32[np.ndarray, " d"] | None
) -> TrainedModel:
    def digests(name: str) -> Digests:
        return Digests(str(values[name]["salt"]), frozenset(values[name]["sha256"]))

    calibration = values["calibration"]
    return TrainedModel(
        spec=ModelSpec(values["spec"]["name"], values["spec"]["options"]),
        target=Target.from_dict(values["target"]),
        objective=values["objective"]["name"],
        objective_state=values["objective"]["state"],
        members=members,
        features=FeaturesRecipe.from_dict(values["features"]),
        unit=_UNITS[_UNITS.index(values["unit"])],
        training_patients=digests("training_patients"),
        training_slides=digests("training_slides"),
        mean_features=mean,
        calibration=None if calibration is None else Calibration.from_dict(calibration),
        metrics=values["metrics"],
        training=values["training"],
        intended_use=values["intended_use"],
    )
