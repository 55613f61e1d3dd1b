"""Saved vectors of slides' patches: made by a patch encoder, read by the stages that follow.

References:
    specs FastGlioma section 3, "Embedding dump".
"""

import json
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from microtome.encoders.srh_dump import SrhDump, dump_path, read_dump, write_dump
from microtome.errors import (
    CohortError,
    CorruptOutputError,
    MissingOutputError,
    ModalityError,
    RecipeMismatchError,
    TileError,
)
from microtome.storage import digest, hash_file, write_json
from microtome.tasks.pretrain.patches import PatchViews
from microtome.tiles.opensrh import SrhSlide
from microtome.tiles.srh import grid_of, patch_place

TOKEN_DIM = 512
"""Length of the vectors that the slide transformer takes."""

_AT_ONCE = 16
_RECIPE = "recipe.json"


@dataclass(frozen=True)
class PatchEncoder:
    """What makes vectors of patches.

    Attributes:
        network: With its weights.
        views: How patches are seen, and how they are changed where several tags are wanted.
        weights_sha256: Of the weights.
        device: Where it runs.
        workers: Threads that read and change patches; what comes does not hang on them.
    """

    network: nn.Module
    views: PatchViews
    weights_sha256: str
    device: str = "cpu"
    workers: int = 1

    def encode(self, files: Sequence[Path], chance: tuple[int, ...] | None) -> Float32[np.ndarray, "n d"]:
        """Vectors of patches, changed at random if a seed is given."""
        network, parts = self.network.to(self.device).eval(), []

        def see(number: int) -> Tensor:
            image = self.views.read(files[number])
            return image if chance is None else self.views.augment(image, np.random.default_rng((*chance, number)))

        with ThreadPoolExecutor(self.workers) as pool, torch.inference_mode():
            for start in range(0, len(files), _AT_ONCE):
                images = list(pool.map(see, range(start, min(start + _AT_ONCE, len(files)))))
                parts.append(network(torch.stack(images).to(self.device)).float().cpu().numpy())
        return np.concatenate(parts).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class TokenSlide:
    """A slide whose patches' vectors are saved.

    Attributes:
        patient_id: Whose.
        slide_id: Which.
        files: One file per tag: the same patches, differently changed before they were encoded.
        grade: Degree of infiltration; empty where nobody says.
        label: The patient's diagnosis; empty likewise.
    """

    patient_id: str
    slide_id: str
    files: tuple[Path, ...]
    grade: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """Patient and slide."""
        return f"{self.patient_id}.{self.slide_id}"

    def read(self, tag: int = 0) -> SrhDump:
        """The vectors of one tag.

        Raises:
            WeightsError: If the file cannot be read, or holds NaN.
            ModalityError: If its vectors are another encoder's.
        """
        dump = read_dump(self.files[tag])
        if dump.embeddings.shape[1] != TOKEN_DIM:
            raise ModalityError(
                f"'{self.files[tag]}' has vectors of {dump.embeddings.shape[1]} numbers; the slide transformer takes "
                f"{TOKEN_DIM}. Make them with FastGlioma's patch encoder."
            )
        return dump


def save_tokens(
    folder: Path,
    slides: Sequence[SrhSlide],
    encoder: PatchEncoder,
    *,
    n_tags: int = 1,
    seed: int = 0,
    on_slide: Callable[[str], None] | None = None,
) -> list[TokenSlide]:
    """Encode the patches of slides and save their vectors; what is there is kept.

    Args:
        folder: Where to.
        slides: Of a study; all of their patches are encoded.
        encoder: What encodes them.
        n_tags: How many times: once, unchanged; several times, changed anew for each tag.
        seed: Decides the changes.
        on_slide: Told each slide when it is done.

    Raises:
        RecipeMismatchError: If the folder holds vectors that were made otherwise.
        SlideOpenError: If a patch cannot be read.
        OutputWriteError: If a file cannot be written.
    """
    recipe = {**encoder.views.recipe(), "weights": encoder.weights_sha256, "n_tags": n_tags, "seed": seed}
    _claim_recipe(folder, digest(recipe))
    found = []
    for slide in slides:
        files = tuple(dump_path(folder, slide.patient_id, slide.slide_id, str(tag)) for tag in range(n_tags))
        for tag, path in enumerate(files):
            if not path.is_file():
                chance = None if n_tags == 1 else (seed, tag, zlib.crc32(slide.name.encode()))
                vectors = encoder.encode(slide.patches, chance)
                grid = np.array([grid_of(*patch_place(file.name)) for file in slide.patches], np.int64)
                names = tuple(str(file) for file in slide.patches)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_dump(path, SrhDump(vectors, grid, names, slide.slide_class or slide.patient_class))
        found.append(TokenSlide(slide.patient_id, slide.slide_id, files, slide.slide_class, slide.patient_class))
        if on_slide is not None:
            on_slide(slide.name)
    return found


def find_tokens(folder: Path, slides: Sequence[SrhSlide]) -> list[TokenSlide]:
    """The saved vectors of slides, all tags of each.

    Raises:
        MissingOutputError: If a slide has none.
        CohortError: If there are no slides.
    """
    if not slides:
        raise CohortError("There are no slides whose saved embeddings could be looked for.")
    found = []
    for slide in slides:
        first = dump_path(folder, slide.patient_id, slide.slide_id)
        stem = f"{slide.patient_id}.{slide.slide_id}-"
        files = tuple(sorted(path for path in first.parent.glob("*.pt") if path.name.startswith(stem)))
        if not files:
            raise MissingOutputError(
                f"Slide '{slide.name}' has no saved embeddings in '{first.parent}'. Make them with `microtome score "
                "--save-embeddings`, or pass a tokenizer."
            )
        found.append(TokenSlide(slide.patient_id, slide.slide_id, files, slide.slide_class, slide.patient_class))
    return found


def list_tokens(folder: Path) -> list[TokenSlide]:
    """Every slide whose vectors are saved in a folder, without degrees or diagnoses, by patient and slide.

    Raises:
        MissingOutputError: If there is none.
    """
    found = []
    for place in sorted(path for path in (folder / "studies").glob("*/*") if path.is_dir()):
        stem = f"{place.parent.name}.{place.name}-"
        files = tuple(sorted(path for path in place.glob("*.pt") if path.name.startswith(stem)))
        if files:
            found.append(TokenSlide(place.parent.name, place.name, files))
    if not found:
        raise MissingOutputError(
            f"'{folder}' has no saved embeddings (studies/PATIENT/SLIDE/PATIENT.SLIDE-TAG.pt). Make them with "
            "`microtome score --save-embeddings`."
        )
    return found


def check_tokens(slides: Sequence[TokenSlide], *, least: int = 1) -> str:
    """Read every file once, so that a bad one is found before training and not in the middle of it.

    Args:
        slides: Whose files are read.
        least: Patches that a slide must have.

    Returns:
        A digest of all that the files hold.

    Raises:
        WeightsError: If a file cannot be read, or holds NaN.
        ModalityError: If vectors are another encoder's.
        TileError: If a slide has too few patches, or its tags are of different patches.
    """
    seen = []
    for slide in slides:
        dumps = [slide.read(tag) for tag in range(len(slide.files))]
        if len(dumps[0].grid) < least:
            raise TileError(
                f"Slide '{slide.name}' has {len(dumps[0].grid)} patch(es), and {least} are needed. Leave it out."
            )
        if any(not np.array_equal(dump.grid, dumps[0].grid) for dump in dumps):
            raise TileError(f"The tags of slide '{slide.name}' are of different patches. Make its embeddings again.")
        seen.append((slide.name, *(hash_file(file) for file in slide.files)))
    return digest({"tokens": seen})


def _claim_recipe(folder: Path, wanted: str) -> None:
    """Note how the vectors of a folder are made, or make sure that it is the same."""
    path = folder / _RECIPE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"digest": wanted})
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read: {error}. Delete the folder and run again.") from error
    if there != wanted:
        raise RecipeMismatchError(
            f"'{folder}' holds embeddings that another encoder made, or with other changes. Choose another folder."
        )
