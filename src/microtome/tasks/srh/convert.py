"""`microtome srh convert`: a FastGlioma checkpoint to one safetensors file with a model card."""

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from microtome.config.srh import SrhConvertConfig
from microtome.encoders.families.fastglioma import ENCODERS
from microtome.encoders.srh_model import MARK, MODELS, SrhModel, load_srh_model
from microtome.encoders.srh_reference import (
    Calibration,
    Familiar,
    calibration_text,
    fit_familiar,
)
from microtome.encoders.srh_use import BANDS, INTENDED_USE, NOT_INTENDED
from microtome.errors import ConfigError, CorruptOutputError, RecipeMismatchError
from microtome.storage import write_text, written_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"

_FORMAT = "microtome-srh-1"


def srh_convert(config: SrhConvertConfig) -> Path:
    """Turn a checkpoint into ``model.safetensors`` (names as published) and ``README.md``, its card.

    Args:
        config: Which checkpoint, and where to.

    Returns:
        The file; `microtome score --model` takes it.

    Raises:
        ConfigError: If a setting cannot be honoured.
        WeightsError: If the checkpoint cannot be read, or is of another resolution.
        RecipeMismatchError: If something is there and may not be overwritten.
        OutputWriteError: If it cannot be written.
    """
    path = config.out / MODEL_FILE
    if path.exists() and not config.overwrite:
        raise RecipeMismatchError(f"'{path}' is there. Pass --overwrite to replace it, or choose another --out.")
    if config.model.suffix and path.resolve() == config.model.resolve():
        raise ConfigError(f"'{path}' would be written over itself. Choose another --out.")
    model = load_srh_model(str(config.model), tokenizer=config.tokenizer, patch_input=config.patch_input)
    if model.tokenizer is None:
        raise ConfigError(
            f"'{config.model}' is a scorer alone, and one file is to hold the whole model. Pass --tokenizer FILE."
        )
    familiar = model.familiar if config.validation is None else fit_familiar(_read_embeddings(config.validation))
    write_srh_model(path, model, calibration=model.calibration, familiar=familiar)
    write_text(config.out / CARD_FILE, model_card(model, licence=config.licence, familiar=familiar))
    return path


def write_srh_model(
    path: Path, model: SrhModel, *, calibration: Calibration | None = None, familiar: Familiar | None = None
) -> None:
    """Write a whole model as safetensors: the 255 tensors under their published names, and what goes with them.

    Args:
        path: Where to.
        model: With a patch encoder.
        calibration: Of its score; None for the plain sigmoid.
        familiar: Slides that it was validated on; None for an out-of-distribution flag that says "unavailable".

    Raises:
        ConfigError: If the model has no patch encoder.
        OutputWriteError: If it cannot be written.
    """
    from safetensors.torch import save_file

    said = {"format": _FORMAT, "patch_input": model.patch_input}
    tensors = published_tensors(model)
    if calibration is not None:
        said["calibration"] = calibration_text(calibration)
    if familiar is not None:
        said |= {
            "ood_limit": repr(familiar.limit),
            "ood_neighbours": str(familiar.n_neighbours),
            "ood_quantile": repr(familiar.quantile),
        }
        tensors[f"{MARK}validation_embeddings"] = _tensor(familiar.embeddings)
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=said)


def published_tensors(model: SrhModel) -> dict[str, Tensor]:
    """A model's tensors under the names of the published file.

    Raises:
        ConfigError: If it has no patch encoder.

    References:
        specs FastGlioma section 1.5.
    """
    if model.network is None:
        raise ConfigError("A model without a patch encoder is not whole. Pass --tokenizer FILE.")
    named: dict[str, Mapping[str, Tensor]] = {
        "model.backbone.": model.network.state_dict(),
        "model.bb.mil.": model.scorer.slide.state_dict(),
        "model.head.": model.scorer.head.state_dict(),
    }
    return {
        f"{prefix}{name}": tensor.detach().cpu().contiguous().clone()
        for prefix, state in named.items()
        for name, tensor in state.items()
    }


def _tensor(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _read_embeddings(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return np.asarray(file["embeddings"], np.float32)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CorruptOutputError(
            f"'{path}' cannot be read as embeddings of slides ({error}). Pass the embeddings.npz of `microtome score` "
            "on validation slides."
        ) from error


def model_card(model: SrhModel, *, licence: str | None, familiar: Familiar | None) -> str:
    """The card of a converted model, with the intended use in full."""
    published = ENCODERS[MODELS["fastglioma-lowres" if model.patch_input == "lowres" else "fastglioma-highres"]].card
    lines = [
        "---",
        f"license: {(licence or published.licence).lower()}",
        "library_name: microtome",
        "---",
        "",
        f"# {model.name}: infiltration of glioma on stimulated Raman histology",
        "",
        f"Patch encoder (ResNet-34, sees {model.patch_input}), slide transformer and score head of FastGlioma as one "
        "safetensors file, tensors under their published names.",
        "",
        "## Intended use",
        "",
        *(f"- {point}" for point in INTENDED_USE),
        "",
        "Not intended:",
        "",
        *(f"- {point}" for point in NOT_INTENDED),
        "",
        "## Score",
        "",
        "| score | tier | meaning |",
        "| --- | --- | --- |",
        *(f"| {band.percent} | {band.name} | {band.meaning} |" for band in BANDS),
        "",
        "## Input and output",
        "",
        "- Patches of 300 x 300 px, two raw 16-bit channels: CH2 (2845 per cm) first, CH3 (2930 per cm) second.",
        "- The row and the column of each patch on the slide's grid.",
        "- A logit; the score is "
        + ("its sigmoid." if model.calibration is None else "what the calibration in the file makes of it."),
        "",
        "## What else is in the file",
        "",
        f"- Calibration: {'none' if model.calibration is None else f'fitted on {model.calibration.n_slides} slides'}.",
        "- Out-of-distribution flag: "
        + ("unavailable." if familiar is None else f"{len(familiar.embeddings)} validation slides."),
        "",
        "## Where it is from",
        "",
        f"- Weights: SHA-256 {model.weights_sha256} before conversion.",
        f"- Licence: {licence or published.licence}.",
        f"- Paper: {published.citation}, {published.paper}.",
        f"- Code of the original: {published.code}.",
        "",
        "`microtome score SLIDE --model model.safetensors`",
        "",
    ]
    return "\n".join(lines)
