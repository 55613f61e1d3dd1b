"""Small things to train on: patches without pixels, slides' vectors with a planted degree, networks without depth."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.tasks.pretrain.patches import PatchPatient
from microtome.tasks.pretrain.tokens import TokenSlide

SIDE = 3  # patches across and down a slide


class TinyNet(nn.Module):
    """Means, deviations and edges of an image to 512 numbers; remembers what it was shown."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * channels, 512)
        self.sides: list[int] = []

    def forward(self, x):
        self.sides.append(x.shape[-1])
        edges = (x[..., 1:] - x[..., :-1]).abs().mean((2, 3))
        return self.layer(torch.cat([x.mean((2, 3)), x.std((2, 3)), edges], dim=1))


def patients(n: int, *, n_slides: int = 2, n_patches: int = 3) -> list[PatchPatient]:
    """Every third has normal tissue; files are names alone."""
    return [
        PatchPatient(
            f"P{i}",
            "normal" if i % 3 == 0 else "hgg",
            tuple(tuple(Path(f"P{i}/{s}/{p}.tif") for p in range(n_patches)) for s in range(n_slides)),
        )
        for i in range(n)
    ]


@lru_cache(maxsize=256)
def drawn_patch(path: Path, *, side: int) -> np.ndarray:
    """Pixels that follow from the file's name: those of normal patients are smoother."""
    rng = np.random.default_rng([*str(path).encode()])
    patient = path.parts[0][1:]
    rough = 500 if patient.isdigit() and int(patient) % 3 == 0 else 4000
    return (12000 + rough * rng.standard_normal((2, side, side), np.float32)).clip(0, 65535).astype(np.uint16)


def write_tokens(
    folder: Path, *, n_patients: int = 8, per_patient: int = 2, n_tags: int = 1, seed: int = 0, **changes: Any
) -> list[TokenSlide]:
    """Vectors of slides in which a direction of space says how infiltrated each patch is."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(512).astype(np.float32)
    grid = np.array([(r, c) for r in range(SIDE) for c in range(SIDE)], np.int64)
    found = []
    for number in range(n_patients * per_patient):
        patient, slide, grade = f"P{number // per_patient:02d}", str(number % per_patient), number % 4
        strength = grade * (rng.random(len(grid)) < 0.7)
        files = []
        for tag in range(n_tags):
            vectors = rng.standard_normal((len(grid), 512)) * 0.5 + strength[:, None] * direction / 3
            files.append(dump_path(folder, patient, slide, str(tag)))
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            write_dump(files[-1], SrhDump(vectors.astype(np.float32), grid, label=str(grade)))
        found.append(replace(TokenSlide(patient, slide, tuple(files), str(grade)), **changes))
    return found


def weights(task) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in task.modules().items()
        for key, value in module.state_dict().items()
    }


class Stopped(Exception):  # noqa: N818 - stands for a kill
    """What a training dies of in a test."""


def stop_after(task, n_steps: int):
    """Make the training of a task die in the step after the n-th."""
    step, left = task.step, [n_steps]

    def dying(batch):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return step(batch)

    task.step = dying
    return task
