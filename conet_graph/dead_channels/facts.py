"""What is known of every value without running it: bounds of each channel, and which are multiples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Ids, Numbers, alike, all_differ
from conet_graph.dead_channels.hearing import Hearing
from conet_graph.ir.graph import FLOATS, Graph, Operator
from conet_graph.passes.tie_channels import CHANNELS

if TYPE_CHECKING:
    from conet_graph.dead_channels.sums import LinearLayer

# Constants with more numbers are weights, which only the operators that sum over channels look at.
LARGEST_OPERAND = 2**20


@dataclass(frozen=True)
class Along:
    """The positions of one axis of a value, each with what is known of the numbers there.

    Position p lies within ``low[p]`` and ``high[p]``. Positions p and q with the same ``kind`` carry
    values in the ratio ``factor[p] / factor[q]``, pixel by pixel.
    """

    low: Numbers
    high: Numbers
    kind: Ids
    factor: Numbers

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.low)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Where there is one number only."""
        found: NDArray[np.bool_] = (self.low == self.high) & np.isfinite(self.low)
        return found


def between(low: Numbers, high: Numbers) -> Along:
    """Positions of which the bounds are known, and that have nothing to do with each other."""
    return Along(low, high, np.arange(len(low)), np.ones(len(low)))


def told_apart(found: Along) -> bool:
    """Whether anything is known of single positions: other bounds than their neighbours', a multiple."""
    low, high = found.low, found.high
    if not len(found) or low[0] == high[0] or not all_differ(found.kind):
        return True
    return not bool((low == low[0]).all() and (high == high[0]).all())


@dataclass
class Fact:
    """One value: the bounds of all its numbers, and those of its axes whose positions are told apart.

    On an axis that ``along`` lacks, every position has the bounds of the whole, and none is a multiple of
    another: as on most axes of most networks, which therefore take no array at all.
    """

    low: float = -np.inf
    high: float = np.inf
    along: dict[int, Along] = field(default_factory=dict)


class Facts:
    """The facts of a network's values, filled by ``dead_channels.walk``.

    With ``masked``, they hold too when any channels are set to zero where they are summed over.
    """

    def __init__(self, graph: Graph, masked: bool) -> None:
        self.graph, self.masked = graph, masked
        self.units = graph.result(CHANNELS).units
        self.known: dict[str, Fact] = {}
        # By the index of a layer: which inputs its outputs hear; and whether
        # some of its outputs get only some of the products.
        self.hears: dict[int, tuple[Hearing, bool]] = {}
        self.layers: dict[int, LinearLayer] = {}  # by their indices, those that are held during the walk
        self._vectors: dict[str, Numbers | None] = {}
        self._ranges: dict[Hashable, tuple[float, float]] = {}

    def ids(self, value: str, axis: int) -> Ids | None:
        """The units on an axis of a value; None where it carries no channels."""
        if value in self.graph.constants:
            return None
        axes = self.units.values.get(value, [])
        found = axes[axis] if 0 <= axis < len(axes) else 0
        return None if isinstance(found, int) else found

    def rank(self, value: str) -> int | None:
        """Number of axes of a value, where known."""
        shape = self.graph.shape(value)
        return None if shape is None else len(shape)

    def of(self, value: str) -> Fact:
        """What is known of a value as a whole."""
        if value not in self.known:
            self.known[value] = self._constant(value) if value in self.graph.constants else Fact()
        return self.known[value]

    def _constant(self, value: str) -> Fact:
        array = self._numbers(value)
        if array is None or not array.size or not np.isfinite(array).all():
            return Fact()
        fact = Fact(float(array.min()), float(array.max()))
        for axis, length in enumerate(array.shape):
            if length > 1:
                others = tuple(k for k in range(array.ndim) if k != axis)
                fact.along[axis] = between(array.min(axis=others), array.max(axis=others))
        return fact

    def _numbers(self, value: str) -> Numbers | None:
        constant = self.graph.constants[value]
        if constant.size > LARGEST_OPERAND or (not constant.is_float and constant.size > 64):
            return None
        array = self.graph.array(value)
        return array.astype(np.float64) if array.dtype.kind in "fiub" or constant.is_float else None

    def along(self, value: str, axis: int) -> Along | None:
        """The positions of an axis; None where it carries no channels."""
        fact = self.of(value)
        if axis in fact.along:
            return fact.along[axis]
        ids = self.ids(value, axis)
        if ids is None:
            return None
        return between(np.full(len(ids), fact.low), np.full(len(ids), fact.high))

    def plain(self, *values: str) -> bool:
        """Whether nothing tells the positions of these values apart, on any axis."""
        return not any(self.of(value).along for value in values)

    def axes(self, output: str, inputs: Iterable[str]) -> range:
        """The axes of an output to look at: none where nothing tells positions of these inputs apart."""
        return range(0 if self.plain(*inputs) else self.rank(output) or 0)

    def vector(self, value: str, count: int) -> Numbers | None:
        """A constant vector of ``count`` numbers (or one for all of them); None where it is none."""
        if value not in self._vectors:
            array = self._numbers(value) if value in self.graph.constants else None
            self._vectors[value] = None if array is None else array.reshape(-1)
        numbers = self._vectors[value]
        if numbers is None or len(numbers) not in (1, count):
            return None
        return numbers if len(numbers) == count else np.full(count, numbers[0])

    def scalar(self, value: str) -> float | None:
        """A constant of one number."""
        found = self.vector(value, 1)
        return None if found is None else float(found[0])

    def summed_over(self, op: Operator, slot: int, axis: int) -> Along | None:
        """The positions that an operator sums over, where told apart; channels may be masked there."""
        found = self.of(op.input(slot)).along.get(axis)
        if found is None or not self.masked:
            return found
        low, high = np.minimum(found.low, 0.0), np.maximum(found.high, 0.0)
        return Along(low, high, found.kind, found.factor)

    def range_of(self, kind: Hashable, find: Callable[[], tuple[Numbers, Numbers]]) -> tuple[float, float]:
        """The bounds of a whole value: found once for each kind of operator with each kind of inputs."""
        if kind not in self._ranges:
            low, high = find()
            self._ranges[kind] = float(low[-1]), float(high[-1])
        return self._ranges[kind]

    def is_float(self, value: str) -> bool:
        """Whether a value holds floats, as far as is known."""
        if value in self.graph.constants:
            return self.graph.constants[value].is_float
        return self.graph.dtypes.get(value, 0) in FLOATS

    def say(self, op: Operator, low: float, high: float, along: dict[int, Along], output: int = 0) -> None:
        """Note what is known of an output."""
        if output >= len(op.outputs) or not op.outputs[output]:
            return
        name = op.outputs[output]
        kept = {}
        for axis, found in along.items():
            ids = self.ids(name, axis)
            if ids is not None and len(ids) == len(found):
                if told_apart(found):
                    kept[axis] = constants_alike(found)
                low = max(low, float(found.low.min(initial=np.inf))) if len(found) else low
                high = min(high, float(found.high.max(initial=-np.inf))) if len(found) else high
        self.known[name] = Fact(low, high, kept)
        if low == high and np.isfinite(low):
            for axis in range(self.rank(name) or 0):
                every = self.along(name, axis)
                if every is not None:
                    kept[axis] = constants_alike(every)


def constants_alike(found: Along) -> Along:
    """The same positions, with all constants but zero told to be multiples of one another."""
    constant = found.constant & (found.low != 0)
    if not constant.any():
        return found
    # What is a multiple of a constant but for weights too small to count keeps to itself.
    stray = ~constant & np.isin(found.kind, found.kind[constant])
    kind = np.where(stray, np.arange(len(found)), found.kind)
    kind = np.where(constant, np.argmax(constant), kind)
    return Along(found.low, found.high, kind, np.where(constant, found.low, found.factor))


def combined(low: Numbers, high: Numbers, rows: NDArray[Any], bucket: Ids, factor: Numbers) -> Along:
    """Positions with the given bounds that are alike where ``alike`` says so."""
    unknown = np.isnan(low) | np.isnan(high)
    kind, ratio = alike(rows, bucket, factor)
    return Along(np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high), kind, ratio)
