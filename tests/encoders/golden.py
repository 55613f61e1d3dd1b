"""Reference cases of encoders: weights by the cases' own rule, inputs by the rules that they state, tolerances."""

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def read_case(case: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The case's description and its arrays."""
    return json.loads((case / "case.json").read_text()), dict(np.load(case / "data.npz"))


def read_layout(case: Path) -> dict[str, dict[str, Any]]:
    """Names, shapes and dtypes of the published file."""
    layout: dict[str, dict[str, Any]] = json.loads((case / "layout.json").read_text())
    return layout


@cache
def _rule(folder: Path) -> Any:
    spec = spec_from_file_location("golden_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(case: Path, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Weights of the case under the names of its layout; of ``keys`` only, where given."""
    layout = read_layout(case)
    seed = read_case(case)[0]["weights"]["seed"]
    wanted = {key: layout[key] for key in (layout if keys is None else keys)}
    arrays = _rule(case.parent).fill_state_dict(wanted, seed=seed)
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def dino_file(case: Path, teacher: Mapping[str, Tensor]) -> dict[str, object]:
    """What a DINO training checkpoint holds: the teacher among everything else."""
    wrapper = read_case(case)[0]["weights"]["checkpoint"]
    heads = {key: torch.zeros(shape) for key, shape in (wrapper["ignored_head_entries"] or {}).items()}
    return {
        "student": {f"module.{key}": torch.full_like(value, math.pi) for key, value in teacher.items()},
        "teacher": {**teacher, **heads},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 65536)},
    }


def image(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """The cases' ``img``."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = rng.integers(0, 256, size=(math.ceil(height / 32), math.ceil(width / 32), 3), dtype=np.uint8)
    fine = rng.integers(0, 64, size=(height, width, 3), dtype=np.uint8)
    large = coarse.repeat(32, 0).repeat(32, 1)[:height, :width].astype(np.uint16)
    return (large * 3 // 4 + fine).astype(np.uint8)


def patch(seed: int, high: int) -> NDArray[np.uint16]:
    """The cases' ``patch``: (2, 300, 300), CH2 first."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = rng.integers(0, high, size=(2, 12, 12), dtype=np.uint16)
    fine = rng.integers(0, 2048, size=(2, 300, 300), dtype=np.uint16)
    return coarse.repeat(25, 1).repeat(25, 2) + fine


def normalised(images: Iterable[NDArray[np.uint8]], mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """Network input from RGB images."""
    pixels = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).to(torch.float32) / 255
    return (pixels - torch.tensor(list(mean))[:, None, None]) / torch.tensor(list(std))[:, None, None]


def tolerance(stated: object) -> tuple[float, float]:
    """Absolute and relative tolerance as a case states it, in numbers or in words."""
    if isinstance(stated, dict):
        return stated["atol"], stated["rtol"]
    first = float(re.findall(r"\d+(?:\.\d+)?e-?\d+", str(stated))[0])
    return first, first if "relative" in str(stated) else 0.0


def assert_close(got: Tensor, expected: NDArray[Any], stated: object) -> None:
    """Each value within the absolute or within the relative tolerance."""
    atol, rtol = tolerance(stated)
    values = got.detach().numpy()
    assert values.shape == expected.shape
    error = np.abs(values - expected)
    assert (error <= np.maximum(atol, rtol * np.abs(expected))).all(), f"largest difference {error.max():.2e}"
