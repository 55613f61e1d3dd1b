"""Where weights lie on this machine: a folder of the user's, microtome's own downloads, the Hugging Face cache.

Looks at names of files and nothing else: no network, no torch.
"""

import os
import re
from pathlib import Path

from microtome.encoders.base import Card
from microtome.encoders.compiled_cache import cache_folder
from microtome.errors import WeightsError

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a repository keeps its weights if its card does not say."""

WEIGHTS_VARIABLE = "MICROTOME_WEIGHTS"
"""Environment variable that names a folder of weights files."""

_OPEN_NAMES = ("timm:", "hf-hub:")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def cached_weights(card: Card) -> Path | None:
    """The weights of an encoder, if they are on this machine.

    Args:
        card: The encoder's.

    Returns:
        The file (the folder, where weights are several files), or None where it would have to be brought here. Whether
        it is whole is not looked at.

    Raises:
        WeightsError: If MICROTOME_WEIGHTS names what is no folder.
    """
    given = given_weights(card)
    if given is not None:
        return given
    if card.link:
        path = download_path(card)
        return path if path.is_file() else None
    return _in_hub_cache(card) if card.repo else None


def given_weights(card: Card) -> Path | None:
    """The weights of an encoder in the folder that MICROTOME_WEIGHTS names: ``<name>/<file>`` or ``<file>``.

    ``<file>`` alone counts only where the name is the encoder's own: a dozen repositories have a pytorch_model.bin, and
    two of them may even fit the same network.

    Raises:
        WeightsError: If there is no such folder.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise WeightsError(f"{WEIGHTS_VARIABLE} names '{folder}', which is no folder. Make it, or unset the variable.")
    own = folder / folder_name(card)
    files = weights_files(card)
    if len(files) > 1 and card.file:  # several files are one encoder's weights, in one folder
        return next((place for place in (own, folder) if all((place / file).is_file() for file in files)), None)
    for file in files:
        if (own / file).is_file():
            return own / file
    alone = [folder / file for file in files if file not in WEIGHTS_FILES]
    return next((path for path in alone if path.is_file()), None)


def weights_files(card: Card) -> tuple[str, ...]:
    """Names that an encoder's weights may have; all of its files where they are several and the card names them."""
    return tuple(Path(name.strip()).name for name in card.file.split(",")) if card.file else WEIGHTS_FILES


def folder_name(card: Card) -> str:
    """Name of an encoder's folder of weights; its variants share it."""
    name = card.name if card.name.startswith(_OPEN_NAMES) else card.name.partition(":")[0]
    return re.sub(r"[^\w.+-]", "_", name)


def download_path(card: Card) -> Path:
    """Where the file of an encoder is kept that is downloaded from a link of its own."""
    return cache_folder() / "weights" / folder_name(card) / weights_files(card)[0]


def _in_hub_cache(card: Card) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{card.repo.replace('/', '--')}"
    revision = card.revision or "main"
    if not _COMMIT.fullmatch(revision):
        try:
            revision = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    files = (card.file,) if card.file else WEIGHTS_FILES
    paths = (repository / "snapshots" / revision / file for file in files)
    return next((path for path in paths if path.is_file()), None)
