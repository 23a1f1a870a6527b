"""Where the shares of copied channels go: back from a sum over channels to the constants that weigh it.

A weight may be one constant, or be made of several in the graph: joined (Concat), added (W + B A), turned,
decoded. What is summed over copies must be shared out among them exactly once: in every summand, and in one
factor of each product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import PLAIN_PRODUCTS, is_turned
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.channels.units import Axis, Ids

# An operator's input slot.
Use = tuple[int, int]
# Of one axis: what is shared out, by the slot of the input and the axis there.
Places = list[tuple[int, int]]


class NotShared(Exception):
    """The shares of copied channels cannot be brought back to constants."""


@dataclass(frozen=True)
class Share:
    """A constant's axis that shares its values out among copies, where one operator reads it.

    ``whole`` says that the first copy keeps all, because the values are not used in proportion.
    """

    name: str
    axis: int
    use: Use
    whole: bool


class Laid(Protocol):
    """The part of a layout that is asked here."""

    graph: Graph

    def is_constant(self, value: str) -> bool:
        """Whether the file holds the value."""
        raise NotImplementedError

    def axes(self, value: str) -> list[Axis]:
        """All axes of a value."""
        raise NotImplementedError

    def labels(self, tokens: Ids) -> Ids:
        """The labels of tokens."""
        raise NotImplementedError


# What keeps proportions: of one input, position by position.
PROPORTIONAL = frozenset(
    (
        *("Identity", "Cast", "CastLike", "Neg", "Abs", "Relu", "LeakyRelu", "PRelu", "Dropout"),
        *("Slice", "Split", "Pad", "DequantizeLinear"),
    )
)
# Operators that round what they read to whole steps.
QUANTISERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "Quant", "BipolarQuant"})
# What maps zero to zero, but keeps no proportions.
THROUGH_ZERO = QUANTISERS | frozenset(
    (
        *("Round", "Floor", "Ceil", "Sign", "Tanh", "Erf", "Sin", "Clip", "Softsign", "Atan", "Asin"),
        *("Selu", "Elu", "HardSwish", "Gelu"),
    )
)
SUMS = frozenset({"Add", "Sub", "Sum", "Mean"})
RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"})


def shares(laid: Laid, value: str, axis: int, use: Use, whole: bool = False) -> Iterator[Share]:
    """The constants that share out an axis of a value which is made of constants alone.

    Args:
        laid: the layout at the new widths.
        value: a weight.
        axis: its axis that is summed over.
        use: who reads it.
        whole: whether what comes behind keeps no proportions.

    Raises:
        NotShared: an operator on the way leaves no place for the shares.

    """
    rank = len(laid.axes(value))
    axis %= rank
    if laid.is_constant(value):
        yield Share(value, axis, use, whole or not laid.graph.constants[value].is_float)
        return
    op = laid.graph.producers[value]
    if op.op_type in THROUGH_ZERO:
        whole = True
    for slot, along in _places(laid, op, value, axis):
        yield from shares(laid, op.input(slot), along, (op.index, slot), whole)


def _places(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    """The inputs' axes that must share out, so that an axis of the output does."""
    kind = op.op_type
    find = _FOUND.get(kind)
    if find is not None:
        return find(laid, op, value, axis)
    if kind in PROPORTIONAL or kind in THROUGH_ZERO:
        return [(0, axis)]
    if kind in SUMS:
        return _aligned(laid, op, value, axis)
    if kind in RESHAPES:
        return [(0, _alike(laid, op, value, axis))]
    raise NotShared(kind)


def _aligned(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    """The inputs of a broadcasting operator that are long on an axis of its output."""
    rank = len(laid.axes(value))
    found: Places = []
    for slot, name in enumerate(op.inputs):
        along = len(laid.axes(name)) - rank + axis
        if along >= 0 and laid.graph.shape(name) is not None and (laid.graph.shape(name) or ())[along] != 1:
            found.append((slot, along))
    if not found:
        raise NotShared(op.op_type)
    return found


def _sum(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    """Every summand must be long on the axis: what is broadcast along it would count for every copy."""
    found = _aligned(laid, op, value, axis)
    if len(found) < len(op.inputs):
        raise NotShared(op.op_type)
    return found


def _product(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    return _aligned(laid, op, value, axis)[:1]


def _quotient(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    found = _aligned(laid, op, value, axis)[:1]
    if found[0][0] != 0:
        raise NotShared(op.op_type)
    return found


def _choice(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    """Where(condition, X, Y)."""
    return [place for place in _aligned(laid, op, value, axis) if place[0] > 0]


def _joined(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    return [(slot, axis) for slot in range(len(op.inputs))]


def _turned(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    order = op.attr("perm") or list(range(len(laid.axes(value))))[::-1]
    return [(0, int(order[axis]))]


def _matrices(laid: Laid, op: Operator, value: str, axis: int) -> Places:
    """MatMul and Gemm: rows belong to the first matrix, columns to the second."""
    rank = len(laid.axes(value))
    if rank != 2 or len(laid.axes(op.input(0))) != 2 or len(laid.axes(op.input(1))) != 2:
        raise NotShared(op.op_type)
    found = [(axis, 1 - axis if is_turned(op, axis) else axis)]
    if op.input(2):
        raise NotShared(op.op_type)
    return found


_FOUND: dict[str, Callable[[Laid, Operator, str, int], Places]] = {
    "Add": _sum,
    "Sub": _sum,
    "Sum": _sum,
    "Mean": _sum,
    "Mul": _product,
    "Div": _quotient,
    "Where": _choice,
    "Concat": _joined,
    "Transpose": _turned,
    **dict.fromkeys(PLAIN_PRODUCTS, _matrices),
}


def _alike(laid: Laid, op: Operator, value: str, axis: int) -> int:
    """The one input axis that carries what an output's axis carries, behind a change of shape."""
    wanted = laid.axes(value)[axis]
    if isinstance(wanted, int):
        raise NotShared(op.op_type)
    labels = distinct(laid.labels(wanted))
    found = [
        k
        for k, tokens in enumerate(laid.axes(op.input(0)))
        if not isinstance(tokens, int) and np.array_equal(distinct(laid.labels(tokens)), labels)
    ]
    if len(found) != 1:
        raise NotShared(op.op_type)
    return found[0]
