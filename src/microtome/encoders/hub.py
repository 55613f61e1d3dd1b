"""Published files: from a folder of the user's, from a link of their own, or from the Hugging Face hub."""

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.encoders.base import Card
from microtome.encoders.download import Shown, download
from microtome.encoders.download_progress import BytesShown
from microtome.encoders.weights import (
    WEIGHTS_FILES,
    WEIGHTS_VARIABLE,
    cached_weights,
    download_path,
    folder_name,
    given_weights,
    weights_files,
)
from microtome.errors import OutputWriteError, WeightsError


def fetch_weights(card: Card, *, shown: Shown | None = None) -> Path:
    """The published weights of an encoder: those that MICROTOME_WEIGHTS names, else from the caches, else fetched.

    Args:
        card: The encoder's.
        shown: Told how far a download is; standard error if None. (The hub's own client shows its own.)

    Raises:
        WeightsError: If there are none, or they cannot be had; says how to bring them here by hand.
        OutputWriteError: If there is no space for them.
    """
    given = given_weights(card)
    if given is not None:
        return given
    if card.link:
        return _fetch_from_link(card, shown)
    if card.repo:
        return fetch(card.repo, (card.file,) if card.file else WEIGHTS_FILES, card.revision or None, gated=card.gated)
    if card.url:
        place = f"{folder_name(card)}/{' and '.join(weights_files(card))}"
        raise WeightsError(
            f"The weights of encoder '{card.name}' cannot be downloaded without a person: get "
            f"{' and '.join(weights_files(card))} at {card.url}, then pass --weights {_argument(card)}, or put it in a "
            f"folder as {place} and set {WEIGHTS_VARIABLE} to that folder. To try without weights: --weights none."
        )
    raise WeightsError(
        f"Encoder '{card.name}' has no published weights that can be downloaded. Pass --weights FILE, or --weights "
        "none to try it out with weights filled by rule."
    )


def _argument(card: Card) -> str:
    return "FOLDER" if len(weights_files(card)) > 1 and card.file else "FILE"


def _fetch_from_link(card: Card, shown: Shown | None) -> Path:
    from huggingface_hub import constants

    there = cached_weights(card)
    if there is not None:
        return there
    path = download_path(card)
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"The weights of encoder '{card.name}' are not at '{path}', and HF_HUB_OFFLINE says to use no network. Run "
            f"'microtome encoders fetch {card.name}' where there is one and copy the file here, or pass --weights FILE."
        )
    return download(card.link, path, sha256=card.sha256, shown=shown or BytesShown(path.name))


def fetch_config(repo: str, revision: str | None = None) -> Mapping[str, Any]:
    """``config.json`` of a repository.

    Raises:
        WeightsError: If it cannot be had or is not JSON.
    """
    path = fetch(repo, ("config.json",), revision)
    return read_config(path)


def read_config(path: Path) -> Mapping[str, Any]:
    """A ``config.json`` beside weights.

    Raises:
        WeightsError: If it is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"'{path}' cannot be read as JSON: {error}. Download it again.") from error
    if not isinstance(config, dict):
        raise WeightsError(f"'{path}' is not a JSON object. Download it again.")
    return config


def fetch(repo: str, files: Sequence[str], revision: str | None, *, gated: bool = False) -> Path:
    """The first of some files that a repository has, from the cache or the hub.

    The user's token (``HF_TOKEN``, ``hf auth login``), cache (``HF_HOME``) and ``HF_HUB_OFFLINE`` count.

    Raises:
        WeightsError: If none can be had.
        OutputWriteError: If there is no space for it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    reason = ""
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, revision=revision))
        except GatedRepoError as error:
            raise WeightsError(_gated_text(repo)) from error
        except LocalEntryNotFoundError:  # not in the cache either; asking for the others would only wait as long
            cached = (try_to_load_from_cache(repo, other, revision=revision) for other in files)
            found = next((path for path in cached if isinstance(path, str)), None)
            if found is not None:
                return Path(found)
            reason = "it cannot be reached, and the cache does not have it"
            break
        except EntryNotFoundError:
            reason = reason or f"it has none of {', '.join(files)}"
        except RepositoryNotFoundError as error:
            raise WeightsError(
                f"The Hugging Face hub shows you no repository '{repo}': it does not exist or is private{_login()}. Or "
                "pass --weights FILE."
            ) from error
        except HFValidationError as error:
            raise WeightsError(f"'{repo}' is no name of a repository: {_first_line(error)}") from error
        except Exception as error:  # whatever its client of HTTP raises: no network, proxy, 404, 5xx
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutputWriteError(
                    f"There is no space for {file} of '{repo}'. Free some, or set HF_HOME to a folder on a larger disk."
                ) from error
            reason = f"{type(error).__name__}: {_first_line(error)}"
            break
    terms = f" Accept its terms at https://huggingface.co/{repo} first." if gated else ""
    raise WeightsError(
        f"Cannot get {' or '.join(files)} of '{repo}' from the Hugging Face hub ({reason}).{terms} Where there is no "
        f"network: download it elsewhere ('hf download {repo}'), then pass --weights FILE, put it in a folder that "
        f"{WEIGHTS_VARIABLE} names, or copy the cache folder here and point HF_HOME to it (with HF_HUB_OFFLINE=1). To "
        "try without weights: --weights none."
    )


def _gated_text(repo: str) -> str:
    """What to do, which hangs on whether the hub knows who asks."""
    from huggingface_hub import get_token

    ask = f"open https://huggingface.co/{repo}, accept its terms (some owners take days to answer)"
    if get_token():
        return (
            f"Access to '{repo}' must be asked for, and your token does not have it: {ask}, with the account that 'hf "
            "auth whoami' names; a fine-grained token must allow gated repositories. Or pass --weights FILE."
        )
    return f"Access to '{repo}' must be asked for: {ask}, then 'hf auth login' or set HF_TOKEN. Or pass --weights FILE."


def _login() -> str:
    from huggingface_hub import get_token

    return "" if get_token() else " and you are not logged in ('hf auth login', or set HF_TOKEN)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
