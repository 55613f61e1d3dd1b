"""The steps of which maps between weights layouts are made. Each knows its inverse.

A step works on a *state*: names to tensors, or, in a wrapped file, names to anything. It never changes a tensor in
place, and it gives new dictionaries. Templates name many keys at once: ``{i}`` and ``{j}`` stand for numbers, ``{p}``
for one part of a name (no dot in it), ``{rest}`` for everything to the end.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor

from microtome.encoders.positions import resample_positions
from microtome.errors import WeightsError

State = Mapping[str, object]

_PARTS = {"i": r"\d+", "j": r"\d+", "p": r"[^.]+", "rest": r".+"}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(re.escape(x) if n % 2 == 0 else f"(?P<{x}>{_PARTS[x]})" for n, x in enumerate(pieces)) + r"\Z"
    )


def match(template: str, key: str) -> dict[str, str] | None:
    """What the template's variables stand for in ``key``; None where it does not fit.

    Example:
        >>> match("blocks.{i}.norm1.{p}", "blocks.11.norm1.bias")
        {'i': '11', 'p': 'bias'}
    """
    found = _pattern(template).match(key)
    return None if found is None else found.groupdict()


def tensor_of(state: State, key: str) -> Tensor:
    """The tensor under ``key``.

    Raises:
        WeightsError: If there is none.
    """
    value = state.get(key)
    if not isinstance(value, Tensor):
        raise WeightsError(f"The weights have no tensor {key!r}. {_listing(state)} Pass the file of another layout.")
    return value


def _listing(keys: Iterable[str]) -> str:
    names = list(keys)
    return f"They have {len(names)} entries, among them {', '.join(repr(k) for k in names[:3])}."


class Step(ABC):
    """One change of layout, and its inverse."""

    @abstractmethod
    def load(self, state: State) -> dict[str, object]:
        """From the published side to ours.

        Raises:
            WeightsError: If the state is not of this layout.
        """

    @abstractmethod
    def publish(self, state: State) -> dict[str, object]:
        """From our side to the published one."""


@dataclass(frozen=True, slots=True)
class Unwrap(Step):
    """Take the dictionary that lies under one entry of the file; the other entries are not looked at.

    Attributes:
        key: Its name.
        optional: Whether files without the wrapper are taken as they are. The inverse always wraps.
        never: Names of entries that show a wrapped file; with one of them and without ``key`` it is refused.
    """

    key: str
    optional: bool = False
    never: tuple[str, ...] = ()

    def load(self, state: State) -> dict[str, object]:
        """The dictionary inside."""
        inner = state.get(self.key)
        if isinstance(inner, Mapping):
            return dict(inner)
        wrong = [name for name in self.never if name in state]
        if self.optional and not wrong:
            return dict(state)
        raise WeightsError(
            f"The weights have no entry {self.key!r}{f', only {wrong[0]!r}' if wrong else ''}. {_listing(state)} "
            f"Pass a file that holds {self.key!r}."
        )

    def publish(self, state: State) -> dict[str, object]:
        """The dictionary wrapped."""
        return {self.key: dict(state)}


@dataclass(frozen=True, slots=True)
class Strip(Step):
    """Remove prefixes, in any order and number, where they are.

    Attributes:
        prefixes: What is removed.
        written: What the inverse puts before every name.
    """

    prefixes: tuple[str, ...]
    written: str

    def load(self, state: State) -> dict[str, object]:
        """Names without the prefixes."""
        out: dict[str, object] = {}
        for key, value in state.items():
            short = key
            while prefix := next((p for p in self.prefixes if short.startswith(p)), ""):
                short = short.removeprefix(prefix)
            if short in out:
                raise WeightsError(f"Two entries of the weights are {short!r} without their prefixes, one is {key!r}.")
            out[short] = value
        return out

    def publish(self, state: State) -> dict[str, object]:
        """Names with the prefix."""
        return {self.written + key: value for key, value in state.items()}


@dataclass(frozen=True, slots=True)
class Add(Step):
    """Put a prefix before every name, as a head does that holds the network as its trunk."""

    prefix: str

    def load(self, state: State) -> dict[str, object]:
        """Names with the prefix."""
        return {self.prefix + key: value for key, value in state.items()}

    def publish(self, state: State) -> dict[str, object]:
        """Names without it."""
        return {key.removeprefix(self.prefix): value for key, value in state.items()}


@dataclass(frozen=True, slots=True)
class Keep(Step):
    """Keep what begins with one of these prefixes; the rest belongs to other networks in the same file."""

    prefixes: tuple[str, ...]

    def load(self, state: State) -> dict[str, object]:
        """What begins so."""
        kept = {key: value for key, value in state.items() if key.startswith(self.prefixes)}
        if not kept:
            raise WeightsError(f"No entry of the weights begins with {' or '.join(self.prefixes)}. {_listing(state)}")
        return kept

    def publish(self, state: State) -> dict[str, object]:
        """All of it: what else the file held is not known here."""
        return dict(state)


@dataclass(frozen=True, slots=True)
class Drop(Step):
    """Leave out entries that the features do not need: heads, mask tokens, buffers that can be computed."""

    templates: tuple[str, ...]

    def load(self, state: State) -> dict[str, object]:
        """What fits none of the templates."""
        return {k: v for k, v in state.items() if all(match(t, k) is None for t in self.templates)}

    def publish(self, state: State) -> dict[str, object]:
        """All of it: what else the file held is not known here."""
        return dict(state)


@dataclass(frozen=True, slots=True)
class Rename(Step):
    """Rename by a table; every name must be in it, so that nothing unknown slips through.

    Attributes:
        table: Pairs of templates with the same variables, the published one first. A part that is the same in both
            may be left to ``{rest}``.
    """

    table: tuple[tuple[str, str], ...]

    def load(self, state: State) -> dict[str, object]:
        """Our names."""
        return self._rename(state, self.table)

    def publish(self, state: State) -> dict[str, object]:
        """Published names."""
        return self._rename(state, tuple((ours, theirs) for theirs, ours in self.table))

    @staticmethod
    def _rename(state: State, table: tuple[tuple[str, str], ...]) -> dict[str, object]:
        out: dict[str, object] = {}
        for key, value in state.items():
            new = _first(key, table)
            if new is None:
                raise WeightsError(
                    f"The weights have an entry {key!r} that this layout does not know. {_listing(state)}"
                )
            if new in out:
                raise WeightsError(f"Two entries of the weights become {new!r}, one of them is {key!r}.")
            out[new] = value
        return out


def _first(key: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in table:
        variables = match(old, key)
        if variables is not None:
            return new.format(**variables)
    return None


@dataclass(frozen=True, slots=True)
class Stack(Step):
    """Put tensors on top of each other: query, key and value become one.

    Attributes:
        parts: Templates of the tensors, in the order in which their rows lie.
        whole: Template of the stacked one.
    """

    parts: tuple[str, ...]
    whole: str

    def load(self, state: State) -> dict[str, object]:
        """Stacked."""
        out: dict[str, object] = {}
        for key, value in state.items():
            hits = [m for m in (match(part, key) for part in self.parts) if m is not None]
            if not hits:
                out[key] = value
                continue
            name = self.whole.format(**hits[0])
            if name not in out:
                out[name] = torch.cat([tensor_of(state, part.format(**hits[0])) for part in self.parts])
        return out

    def publish(self, state: State) -> dict[str, object]:
        """Apart, in parts of one size."""
        out: dict[str, object] = {}
        for key, value in state.items():
            variables = match(self.whole, key)
            if variables is None:
                out[key] = value
                continue
            rows = cast("Tensor", value).chunk(len(self.parts))
            out |= {part.format(**variables): piece.clone() for part, piece in zip(self.parts, rows, strict=True)}
        return out


@dataclass(frozen=True, slots=True)
class FoldClassPosition(Step):
    """Move the class token's position into the class token, as networks have it whose table covers patches only.

    The inverse gives half of the class token to each: their sum is exact.
    """

    def load(self, state: State) -> dict[str, object]:
        """Class token with its position; a table of patches only."""
        token, table = tensor_of(state, "cls_token"), tensor_of(state, "pos_embed")
        return {**state, "cls_token": token + table[:, :1], "pos_embed": table[:, 1:]}

    def publish(self, state: State) -> dict[str, object]:
        """A table whose first row is the class token's."""
        half, table = tensor_of(state, "cls_token") / 2, tensor_of(state, "pos_embed")
        return {**state, "cls_token": half, "pos_embed": torch.cat([half, table], dim=1)}


@dataclass(frozen=True, slots=True)
class Unsqueeze(Step):
    """Give a tensor leading axes of length one.

    Attributes:
        key: Its name.
        axes: How many.
    """

    key: str
    axes: int

    def load(self, state: State) -> dict[str, object]:
        """With the axes."""
        tensor = tensor_of(state, self.key)
        return {**state, self.key: tensor[(None,) * self.axes]}

    def publish(self, state: State) -> dict[str, object]:
        """Without them."""
        tensor = tensor_of(state, self.key)
        return {**state, self.key: tensor[(0,) * self.axes]}


@dataclass(frozen=True, slots=True)
class SkipRows(Step):
    """Leave out the first rows of a table that nothing reads.

    Attributes:
        key: Its name.
        rows: How many; the inverse puts zeros there.
    """

    key: str
    rows: int

    def load(self, state: State) -> dict[str, object]:
        """Without them."""
        return {**state, self.key: tensor_of(state, self.key)[self.rows :]}

    def publish(self, state: State) -> dict[str, object]:
        """With rows of zeros."""
        table = tensor_of(state, self.key)
        return {**state, self.key: torch.cat([table.new_zeros(self.rows, *table.shape[1:]), table])}


@dataclass(frozen=True, slots=True)
class ZeroBias(Step):
    """Give a linear layer without bias a bias of zeros, because the network has one.

    Attributes:
        layer: The layer's name.
    """

    layer: str

    def load(self, state: State) -> dict[str, object]:
        """With it."""
        weight = tensor_of(state, f"{self.layer}.weight")
        return {**state, f"{self.layer}.bias": weight.new_zeros(len(weight))}

    def publish(self, state: State) -> dict[str, object]:
        """Without it."""
        return {key: value for key, value in state.items() if key != f"{self.layer}.bias"}


@dataclass(frozen=True, slots=True)
class Unchunk(Step):
    """Blocks that lie in chunks, ``blocks.<chunk>.<block>``, become ``blocks.<block>``; blocks are numbered through.

    Attributes:
        n_chunks: How many the inverse makes.
    """

    n_chunks: int = 4

    def load(self, state: State) -> dict[str, object]:
        """Without chunks; files without them stay as they are."""
        out: dict[str, object] = {}
        for key, value in state.items():
            variables = match("blocks.{i}.{j}.{rest}", key)
            new = key if variables is None else f"blocks.{variables['j']}.{variables['rest']}"
            if new in out:
                raise WeightsError(f"Two entries of the weights become {new!r}, one of them is {key!r}.")
            out[new] = value
        return out

    def publish(self, state: State) -> dict[str, object]:
        """In chunks."""
        found = {key: match("blocks.{i}.{rest}", key) for key in state}
        depth = 1 + max((int(m["i"]) for m in found.values() if m), default=-1)
        per_chunk = -(-depth // self.n_chunks)
        return {
            key if m is None else f"blocks.{int(m['i']) // per_chunk}.{m['i']}.{m['rest']}": state[key]
            for key, m in found.items()
        }


@dataclass(frozen=True, slots=True)
class Resample(Step):
    """Bring a position table to the network's grid by the source's rule, once; the inverse leaves it.

    Attributes:
        rule: How, one of :data:`microtome.encoders.positions.POSITION_RULES`.
        grid: Rows and columns of the network's tokens.
        n_prefix: Rows before the grid's, which stay.
        key: The table's name.
    """

    rule: str
    grid: tuple[int, int]
    n_prefix: int
    key: str = "pos_embed"

    def load(self, state: State) -> dict[str, object]:
        """With a table of the network's size."""
        table = tensor_of(state, self.key)
        return {**state, self.key: resample_positions(table, self.grid, rule=self.rule, n_prefix=self.n_prefix)}

    def publish(self, state: State) -> dict[str, object]:
        """As it is."""
        return dict(state)
