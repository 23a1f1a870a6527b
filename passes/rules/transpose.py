"""Operators that move axes and leave them whole: Transpose, Squeeze, Unsqueeze, Shape."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import CONTRADICTION, Axis, NoRule, Tracker
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "Transpose")
def transpose(t: Tracker, op: Operator) -> None:
    """Axes in another order."""
    axes = t.wholes(op.input(0))
    order = op.attr("perm") or list(range(len(axes)))[::-1]
    if sorted(order) != list(range(len(axes))):
        raise NoRule(CONTRADICTION)
    t.set(op, 0, [axes[k] for k in order])


@handles(RULES, "Squeeze")
def squeeze(t: Tracker, op: Operator) -> None:
    """Axes of size 1 go."""
    axes = t.axes(op.input(0))
    gone = squeezed_axes(t, op, len(axes))
    for k in gone:
        if not isinstance(axes[k], int):
            t.freeze(op, axes[k], "an axis of one channel is squeezed away")
    t.set(op, 0, [units for k, units in enumerate(axes) if k not in gone])


@handles(RULES, "Unsqueeze")
def unsqueeze(t: Tracker, op: Operator) -> None:
    """New axes of size 1."""
    rest = iter(t.axes(op.input(0)))
    named = _axes(t, op)
    if named is None:
        raise NoRule("its axes are computed in the graph")
    rank = t.rank(op.input(0)) + len(named)
    new = {k % rank for k in named}
    if len(new) < len(named):
        raise NoRule("it names an axis twice")
    out: list[Axis] = [0 if k in new else next(rest) for k in range(rank)]
    t.set(op, 0, out)


def squeezed_axes(t: Tracker, op: Operator, rank: int) -> set[int]:
    """The axes that a Squeeze takes away: those it names, or all of size 1."""
    named = _axes(t, op)
    if named is None:
        return {k for k in range(rank) if t.dim(op.input(0), k) == 1}
    return {k % rank for k in named}


def _axes(t: Tracker, op: Operator) -> list[int] | None:
    if not op.input(1):
        axes = op.attr("axes")
        return None if axes is None else list(axes)
    return t.integers(op.input(1))


@handles(RULES, "Shape", "Size")
def shape(t: Tracker, op: Operator) -> None:
    """A shape is computed at run time and follows by itself; nothing is tied."""
    t.set(op, 0, [0] if op.op_type == "Shape" else [])
