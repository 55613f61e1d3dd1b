"""Reads weights files of any layout without running anything that is in them, and fits them to a network.

Tile encoders, aggregators and SRH models alike are read here.
"""

import argparse
import json
import pickle
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microtome.errors import WeightsError
from microtome.storage import hash_file

PREFERRED = (
    "teacher",
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model",
    "module",
    "student",
)
"""Which part of a file is taken where several fit: that of the first of these words, then any other."""

_SHOWN = 6
_unpickling = threading.Lock()  # what torch may unpickle is a setting of the whole process


@dataclass(frozen=True)
class Checkpoint:
    """A weights file as it was read.

    Attributes:
        path: The file.
        sha256: Its hash.
        content: Nested mappings with tensors as leaves (and whatever else training wrote beside them).
    """

    path: Path
    sha256: str
    content: Mapping[Any, Any]


@dataclass(frozen=True)
class Fit:
    """How much of a network one part of a file gives under one prefix.

    Attributes:
        part: Path of the state dict in the file, dotted; empty for the file's top level.
        prefix: What the names there start with.
        tensors: The tensors under that prefix, without it.
        missing: Names that the network has and the file has not.
        unexpected: Names that the file has under the prefix and the network has not.
        misshapen: Name → its shape in the file and in the network, where they differ.
    """

    part: str
    prefix: str
    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the network is there, in its shape, and no other."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def explanation(self) -> str:
        """What does not fit, in words."""
        said = []
        if self.misshapen:
            name, (got, wanted) = next(iter(self.misshapen.items()))
            said.append(f"{len(self.misshapen)} tensors of another shape ('{name}' is {got}, here it is {wanted})")
        if self.missing:
            said.append(f"{len(self.missing)} tensors are missing ({_listed(self.missing)})")
        if self.unexpected:
            said.append(f"{len(self.unexpected)} tensors are not of this network ({_listed(self.unexpected)})")
        where = f" under '{self.part}'" if self.part else ""
        return f"{'; '.join(said)}{where}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a weights file: safetensors, or what ``torch.save`` wrote, whatever its suffix.

    Nothing in it is executed: pickles are read weights-only, where besides tensors and plain containers only
    ``argparse.Namespace`` and numpy's scalars may appear (DINO's and other training scripts store them).

    Raises:
        WeightsError: If it is absent, empty, cut off, or not a weights file.
    """
    path = Path(path)
    head = _read_head(path)
    if _is_safetensors(head):
        content = _read_safetensors(path)
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        content = _read_pickle(path, is_zip=head[:2] == b"PK")
    else:
        raise WeightsError(f"'{path}' is not a weights file: it is {_kind(head)}. {_what_to_do(head)}")
    if not isinstance(content, Mapping):
        raise WeightsError(f"'{path}' holds a {type(content).__name__}, not a state dict. Save the state dict itself.")
    return Checkpoint(path, hash_file(path), content)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except IsADirectoryError as error:
        raise WeightsError(f"'{path}' is a folder. Name the weights file in it.") from error
    except FileNotFoundError as error:
        raise WeightsError(f"There is no weights file '{path}'. Check the path.") from error
    except OSError as error:
        raise WeightsError(f"Weights file '{path}' cannot be read: {error.strerror or error}.") from error
    if not head:
        raise WeightsError(f"Weights file '{path}' is empty. Download it again.")
    return head


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _kind(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, in place of the file"
    if start.startswith((b"{", b"[")):
        return "JSON text"
    return f"of an unknown kind (it starts with {head[:8]!r})"


def _what_to_do(head: bytes) -> str:
    kind = _kind(head)
    if "web page" in kind:
        return "The download was answered with a page (a login, a licence to accept, an error). Download it again."
    if "LFS" in kind:
        return "Run 'git lfs pull', or download the file itself."
    return "Pass a safetensors file, or one that torch.save wrote."


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise WeightsError(f"Weights file '{path}' is cut off or damaged: {error}. Download it again.") from error


def _read_pickle(path: Path, *, is_zip: bool) -> Any:  # noqa: ANN401 - whatever was saved
    if is_zip and not zipfile.is_zipfile(path):
        raise WeightsError(f"Weights file '{path}' is cut off: its end is missing. Download it again.")
    scalar = np.float32(0).__reduce__()[0]
    allowed: list[Any] = [argparse.Namespace, np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]
    # numpy 1 wrote the old name of the module, numpy 2 writes the new one.
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with _unpickling, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickle protocols; what cannot be read is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _first_sentence(str(error))
        raise WeightsError(
            f"Weights file '{path}' holds more than tensors and plain values, and is not opened: {reason}. If it is "
            "from somebody you trust, save its state dict alone, best as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"Weights file '{path}' is cut off or damaged: {_first_sentence(str(error))}. Download it again."
        ) from error


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    chosen = (named or lines or ["no reason given"])[0]
    return chosen.split(". ")[0].rstrip(".:")


def state_dicts(content: Mapping[Any, Any], path: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping in a file that has tensors as values, with its dotted path."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    if depth > 1:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from state_dicts(value, f"{path}.{name}".lstrip("."), depth - 1)


def fit_checkpoint(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Tensor],
    *,
    head: frozenset[str] = frozenset(),
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Fit:
    """Find the part and the prefix of a file that give a network its tensors.

    Args:
        checkpoint: The file.
        wanted: The network's state dict.
        head: Names of a classifier that the network was built without; the file may have them.
        adapt: Brings tensors of an older layout, without their prefix, under the network's names; tried where they do
            not fit as they are.

    Returns:
        The fit; not whole where the file is of another network.

    Raises:
        WeightsError: If the file holds no tensors, or several parts fit and nothing says which is meant.
    """
    fits = [
        fit
        for part, tensors in state_dicts(checkpoint.content)
        for fit in _fit_under_prefixes(part, tensors, wanted, head, adapt)
    ]
    if not fits:
        raise WeightsError(f"Weights file '{checkpoint.path}' holds no tensors. Pass a file with a state dict.")
    whole = [fit for fit in fits if fit.is_whole]
    if len(whole) > 1:
        return _preferred(checkpoint.path, whole)
    return whole[0] if whole else min(fits, key=lambda f: len(f.missing) + len(f.misshapen) + len(f.unexpected))


def _fit_under_prefixes(
    part: str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    head: frozenset[str],
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
) -> Iterator[Fit]:
    """One fit per prefix under which names of the network are found, or one that says that there is none."""
    for prefix in _prefixes(tensors, wanted):
        inside = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        fit = compare(part, prefix, inside, wanted, head)
        if not fit.is_whole and adapt is not None:
            try:
                adapted = compare(part, prefix, adapt(inside), wanted, head)
            except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, TypeError, AssertionError):
                adapted = fit  # not of the kind that the rule was made for
            fit = adapted if adapted.is_whole else fit
        yield fit


def _prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Prefixes under which at least half as many names of the network are found as under the best one."""
    found: Counter[str] = Counter()
    for name in tensors:
        words = name.split(".")
        for i in range(len(words)):
            if ".".join(words[i:]) in wanted:
                found["".join(f"{word}." for word in words[:i])] += 1
    most = max(found.values(), default=0)
    return [prefix for prefix, count in found.items() if 2 * count >= most] or [""]


def compare(
    part: str,
    prefix: str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    head: frozenset[str] = frozenset(),
) -> Fit:
    """How far tensors are those of a network; ``part`` and ``prefix`` say where in the file they are from."""
    own = {name: tensor for name, tensor in tensors.items() if name in wanted or name not in head}
    return Fit(
        part,
        prefix,
        own,
        # Old files lack the counter of batches, which decides nothing when encoding.
        tuple(name for name in wanted if name not in own and not name.endswith("num_batches_tracked")),
        tuple(name for name in own if name not in wanted),
        {
            name: (tuple(tensor.shape), tuple(wanted[name].shape))
            for name, tensor in own.items()
            if name in wanted and tensor.shape != wanted[name].shape
        },
    )


def _preferred(path: Path, fits: Sequence[Fit]) -> Fit:
    """The one that is meant of several that fit."""

    def words(fit: Fit) -> list[str]:
        return [word for word in f"{fit.part}.{fit.prefix}".split(".") if word]

    for word in PREFERRED:
        named = [fit for fit in fits if word in words(fit)]
        if len(named) == 1:
            return named[0]
        fits = named or fits
    names = ", ".join(repr(".".join(words(fit)) or "top level") for fit in fits)
    raise WeightsError(
        f"Weights file '{path}' holds several networks that fit ({names}). Save the one that you mean in its own file."
    )


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        WeightsError: If there are any.
    """
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise WeightsError(
            f"Weights file '{path}' has NaN or infinity in {len(bad)} of {len(tensors)} tensors ({_listed(bad)}). The "
            "training that made it went wrong, or the file is damaged. Use another one."
        )
