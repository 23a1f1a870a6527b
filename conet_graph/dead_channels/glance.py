"""A first look at all layers together: most show in how their weights begin that nothing is special."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from conet_graph.dead_channels.alike import BEGINNING, begin_alike
from conet_graph.dead_channels.facts import Facts
from conet_graph.dead_channels.hearing import Hearing, Weights
from conet_graph.dead_channels.sums import layer_of, read_again
from conet_graph.ir.graph import Operator

# Called with the name of a weight, and its numbers as the file lays them out.
Beside = Callable[[str, Weights], None]
# So many rows are looked at together: few enough to stay in the cache.
SHEET = 4096
# A file may claim anything of an operator that is not looked at closer: nothing is known then.
NONSENSE = (IndexError, ValueError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class Glance:
    """What a first look at a layer's weights tells.

    ``apart``: no output is a multiple of another one of its group. ``both_signs``: every output has a
    positive weight and a negative one. ``axis`` of the input is summed over.
    """

    axis: int
    apart: bool
    both_signs: bool

    def tells_nothing(self, low: float, high: float) -> bool:
        """Whether outputs have no bounds and are no multiples of each other, for all inputs within bounds."""
        return self.apart and self.both_signs and not (np.isfinite(low) and np.isfinite(high))


def glances(facts: Facts, ops: Iterable[Operator], beside: Beside | None = None) -> dict[int, Glance]:
    """A first look at those of the operators that are layers with known weights, by their indices.

    Notes in the facts what they hear, and holds there the weights that are computed. ``beside`` is called
    with each weight of the file as it is read.
    """
    found, sheet, axes = dict[int, Glance](), _Sheet(), dict[int, int]()
    for op in ops:
        try:
            layer = layer_of(facts, op)
        except NONSENSE:
            continue
        if layer is None:
            continue
        if op.input(1) not in facts.graph.constants:
            facts.layers[op.index] = layer
        elif beside is not None:
            beside(op.input(1), layer.stored)
        facts.hears[op.index] = Hearing.of(layer.weight, partial(_weights, facts, op)), layer.partial
        axes[op.index] = layer.axis
        if not sheet.has_room(layer.weight):
            found |= sheet.told(axes)
        sheet.add(op.index, layer.weight)
    return found | sheet.told(axes)


def _weights(facts: Facts, op: Operator) -> Weights:
    return read_again(facts, op).weight


class _Sheet:
    """The beginnings of the rows of several layers, side by side in one array that is used again."""

    def __init__(self) -> None:
        self.rows = np.zeros((SHEET, BEGINNING), np.float32)
        self.crowd = np.zeros(SHEET, np.int64)
        self.first: dict[int, int] = {}
        self.filled = self.groups = 0

    def has_room(self, weight: Weights) -> bool:
        return bool(self.filled + weight.shape[0] * weight.shape[1] <= len(self.rows))

    def add(self, index: int, weight: Weights) -> None:
        """Add a layer, by the index of its operator."""
        groups, outputs, _, kernel = weight.shape
        start = weight[:, :, : -(-BEGINNING // kernel)].reshape(groups * outputs, -1)[:, :BEGINNING]
        stop = self.filled + len(start)
        if stop > len(self.rows):
            self.rows, self.crowd = np.zeros((stop, BEGINNING), np.float32), np.zeros(stop, np.int64)
        with np.errstate(over="ignore"):  # too large for floats of this size: as if it were no number
            self.rows[self.filled : stop, : start.shape[1]] = start
        self.rows[self.filled : stop, start.shape[1] :] = 0.0
        self.crowd[self.filled : stop].reshape(groups, outputs)[:] = np.arange(groups)[:, None] + self.groups
        self.first[index] = self.filled
        self.filled, self.groups = stop, self.groups + groups

    def told(self, axes: Mapping[int, int]) -> dict[int, Glance]:
        """What the layers show; empties the sheet."""
        if not self.first:
            return {}
        rows, flags = self.rows[: self.filled], np.ones((2, self.filled), np.bool_)
        one = np.ones(BEGINNING, np.float32)  # numpy is slow in sums over short axes, the product is not
        with np.errstate(all="ignore"):
            flags[0, begin_alike(rows, self.crowd[: self.filled])[0]] = False
            flags[1] = (np.maximum(rows, 0) @ one > 0) & (np.minimum(rows, 0) @ one < 0)
        of_layers = np.logical_and.reduceat(flags, list(self.first.values()), axis=1).T.tolist()
        found = {k: Glance(axes[k], *both) for k, both in zip(self.first, of_layers, strict=True)}
        self.first, self.filled, self.groups = {}, 0, 0
        return found
