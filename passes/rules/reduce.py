"""Reductions over axes."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import Axis, NoRule, Packed, Tracker
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(
    RULES,
    *["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"],
    *["ReduceProd", "ReduceSum", "ReduceSumSquare"],
)
def reduction(t: Tracker, op: Operator) -> None:
    """A sum over channels is exact when channels go; a mean, a maximum and the like are not."""
    axes = t.wholes(op.input(0))
    reduced = reduced_axes(t, op, len(axes))
    out: list[Axis | Packed] = []
    for k, units in enumerate(axes):
        if k not in reduced:
            out.append(units)
            continue
        if not isinstance(units, int):
            if op.op_type == "ReduceSum" and not isinstance(units, Packed):
                t.contract(op, 0, k, None)
            else:
                t.mix(op, units)
        if op.attr("keepdims", 1):
            out.append(0)
    t.set(op, 0, out)


@handles(RULES, "ArgMax", "ArgMin")
def arg(t: Tracker, op: Operator) -> None:
    """The result counts positions."""
    axes = t.axes(op.input(0))
    axis = op.attr("axis", 0) % len(axes)
    t.select(op, axes[axis])
    kept = [0] if op.attr("keepdims", 1) else []
    t.set(op, 0, [*axes[:axis], *kept, *axes[axis + 1 :]])


@handles(RULES, "TopK")
def top_k(t: Tracker, op: Operator) -> None:
    """The indices count positions, and no more are picked than there are."""
    axes = t.axes(op.input(0))
    axis = op.attr("axis", -1) % len(axes)
    units, picked = axes[axis], t.dim(op.outputs[0], axis)
    if not isinstance(units, int):
        t.select(op, units)
        if not isinstance(picked, int) or picked > len(units):
            raise NoRule("it picks more than there are, or nobody knows how many")
    axes[axis] = 0
    t.set(op, 0, axes)
    t.set(op, 1, axes)


def reduced_axes(t: Tracker, op: Operator, rank: int) -> set[int]:
    """The axes that are reduced: an attribute before opset 18 (ReduceSum: 13), then an input.

    Raises:
        NoRule: they are computed in the graph.

    """
    axes = op.attr("axes")
    if axes is None and op.input(1):
        axes = t.integers(op.input(1))
        if axes is None:
            raise NoRule("its axes are computed in the graph")
    if not axes:
        return set() if op.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes} if rank else set()
