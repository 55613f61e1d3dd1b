"""The folder of a run that learns: its record, the guard against other settings, tables written whole."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import microtome
from microtome.config.base import Options
from microtome.errors import CorruptOutputError, RecipeMismatchError
from microtome.storage import Claim, digest, now_utc, recipe_changes, recipe_text, write_json, written_whole
from microtome.tasks.output import INTENDED_USE, software_versions

RUN_JSON = "run.json"
_NOT_DECISIVE = frozenset(
    {"out", "overwrite", "no_figures", "quiet", "device", "together", "features", "cohort", "n_boot", "splits", "task"}
)
"""Settings that move no trained number (the contents of features, table and folds are in the recipe themselves)."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that one run owns.

    Attributes:
        root: Where it is.
        kind: Which verb made it.
        outputs: Names of files and folders in it that a run may throw away with ``overwrite``.
    """

    root: Path
    kind: str
    outputs: tuple[str, ...]

    @property
    def run_json(self) -> Path:
        """The record."""
        return self.root / RUN_JSON

    @contextmanager
    def claimed(self, recipe: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
        """Hold the folder for one recipe.

        Raises:
            ClaimedError: If another process works in it.
            RecipeMismatchError: If what is there was made with other settings, and ``overwrite`` is off; or by another
                verb.
            CorruptOutputError: If the record there cannot be read, and ``overwrite`` is off.
        """
        with Claim(self.run_json):
            if other := self._other(recipe, overwrite=overwrite):
                if not overwrite:
                    raise RecipeMismatchError(
                        f"'{self.root}' holds a run with other settings ({other}). Choose another --out, or pass "
                        "--overwrite to throw it away."
                    )
                self._clear()
            yield

    def _other(self, recipe: Mapping[str, Any], *, overwrite: bool) -> str:
        """In what the run that is there differs from a recipe; nothing where there is none, or it is the same."""
        try:
            found = read_record(self.run_json)
        except CorruptOutputError:
            if not overwrite:
                raise
            return "it cannot be read"
        if found is None or found.get("recipe_digest") == digest(recipe):
            return ""
        if found.get("kind") != self.kind:  # not ours to throw away
            raise RecipeMismatchError(
                f"'{self.root}' holds results of `microtome {found.get('kind', 'run')}`. Choose another --out."
            )
        return "; ".join(recipe_changes(str(found.get("recipe") or "{}"), recipe_text(recipe)))

    def _clear(self) -> None:
        """Remove what runs of this kind write; nothing else."""
        for name in (RUN_JSON, *self.outputs):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def begin(self, record: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Write down what is about to be done; returns the record, to be handed to :meth:`end`."""
        begun = {
            "kind": self.kind,
            "status": "running",
            "microtome": microtome.__version__,
            "started": now_utc(),
            "ended": None,
            "intended_use": INTENDED_USE,
            **record,
            "versions": {**software_versions(), **_learning_versions()},
            "recipe": recipe_text(recipe),
            "recipe_digest": digest(recipe),
        }
        write_json(self.run_json, begun)
        return begun

    def end(self, record: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Write down what came of it."""
        write_json(self.run_json, {**record, **results, "status": "done", "ended": now_utc()})

    def write_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table as CSV."""
        path = self.root / name
        with written_whole(path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        return path


def decisive(options: Options) -> dict[str, Any]:
    """The settings that decide a trained number, as plain values."""
    return {name: value for name, value in options.model_dump(mode="json").items() if name not in _NOT_DECISIVE}


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a run; None where there is none.

    Raises:
        CorruptOutputError: If it is no such record.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read: {error}. Delete it, or pass --overwrite.") from error
    if not isinstance(found, dict):
        raise CorruptOutputError(f"'{path}' is no record of a run. Delete it, or pass --overwrite.")
    return found


def _learning_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "lifelines")}
