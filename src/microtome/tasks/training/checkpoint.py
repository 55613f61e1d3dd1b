"""A training's files: weights, and the state that goes with them.

Weights lie in files of their own, which bear the number of the step; ``state.pt`` names those that it goes with and is
written after them, so that whatever a kill leaves is one whole checkpoint.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from microtome.errors import CorruptOutputError, MissingOutputError, WeightsError
from microtome.storage import remove_leftovers_in, written_whole

STATE = "state.pt"
_KINDS = ("last", "best")


def write_weights(path: Path, modules: Mapping[str, nn.Module], metadata: Mapping[str, str] | None = None) -> None:
    """Write the modules' weights and buffers as ``<module>.<key>``.

    The same weights give the same bytes as long as the metadata has one entry at most: safetensors keeps no order.

    Raises:
        OutputWriteError: If the file cannot be written.
    """
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    with written_whole(path) as temporary:
        save_file(tensors, temporary, dict(metadata or {}))


def read_weights(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load what :func:`write_weights` wrote into modules of the same names and layout.

    Raises:
        MissingOutputError: If there is no such file.
        CorruptOutputError: If it cannot be read.
        WeightsError: If the modules are others.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise MissingOutputError(f"There are no weights at '{path}'.") from None
    except (OSError, SafetensorError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read as weights: {error}. Train into a new folder.") from error
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(f"The weights in '{path}' do not fit the module '{name}': {error}") from error
    if tensors:
        raise WeightsError(f"'{path}' has weights of other modules: {', '.join(sorted(tensors)[:3])}.")


class Checkpoints:
    """The checkpoint of one folder.

    Args:
        folder: Of the training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, step: int | None = None) -> Path:
        """Where the ``last`` or ``best`` weights of a step are, or, without one, those of a finished training."""
        return self.folder / (f"{kind}.safetensors" if step is None else f"{kind}-{step:08d}.safetensors")

    def read(self) -> dict[str, Any] | None:
        """The state, on the CPU; None where there is none.

        Raises:
            CorruptOutputError: If it cannot be read.
        """
        path = self.folder / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever unpickling meets
            raise CorruptOutputError(
                f"'{path}' cannot be read as a checkpoint: {error}. Train into a new folder."
            ) from error
        return state

    def commit(self, state: Mapping[str, Any]) -> None:
        """Write the state, whose ``last`` and ``best`` name its weights; then remove other steps' weights.

        Raises:
            OutputWriteError: If it cannot be written.
        """
        with written_whole(self.folder / STATE) as temporary:
            torch.save(dict(state), temporary)
        self.tidy(state)

    def tidy(self, state: Mapping[str, Any] | None) -> None:
        """Remove weights that the state does not name, and what a kill left."""
        remove_leftovers_in(self.folder)
        kept = {state[kind] for kind in _KINDS} if state else set()
        for kind in _KINDS:
            for path in self.folder.glob(f"{kind}*.safetensors"):
                if path.name not in kept:
                    with suppress(OSError):
                        path.unlink()


def generators(device: torch.device) -> dict[str, Any]:
    """State of the generators of torch, numpy and Python, in plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one: a task may draw from it
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def set_generators(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators where :func:`generators` found them."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if device.type == "cuda" and "device" in state:
        torch.cuda.set_rng_state(state["device"], device)


@contextmanager
def seeded(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """Seed the generators, each process's by itself; afterwards they are as the caller had them."""
    before = generators(device)
    own = int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    try:
        torch.manual_seed(own)
        np.random.seed(own)  # noqa: NPY002 - the global one: a task may draw from it
        random.seed(own)
        yield
    finally:
        set_generators(before, device)


def plain_state(value: Any) -> Any:  # noqa: ANN401 - whatever a state holds
    """A task's state with numpy's numbers and arrays as what a closed unpickler admits."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: plain_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_state(item) for item in value]
    return value
