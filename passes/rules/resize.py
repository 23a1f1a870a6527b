"""Resize and Upsample: channels pass; an entry for the channel axis follows."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import Axis, Tracker
from conet_graph.passes.rules.registry import Table
from conet_graph.passes.shapes.shape_arithmetic import scales_slot

RULES: Table = {}


@handles(RULES, "Resize", "Upsample")
def resize(t: Tracker, op: Operator) -> None:
    """Resize(X, roi, scales, sizes)."""
    axes = t.axes(op.input(0))
    named = op.attr("axes")
    out: list[Axis] = []
    for k, units in enumerate(axes):
        if isinstance(units, int):
            out.append(0)
        elif _is_kept(t, op, k, len(axes)):
            out.append(units)
        else:
            t.freeze(op, units, "channels are resized like pixels")
            out.append(0)
    if op.input(3):
        order = [a % len(axes) for a in named] if named else range(len(axes))
        t.lengths(op, 3, [out[a] for a in order])
    t.set(op, 0, out)


def _is_kept(t: Tracker, op: Operator, axis: int, rank: int) -> bool:
    """Whether an axis keeps its size: by its sizes, its scale, or the shapes on both sides."""
    named = op.attr("axes")
    order = [a % rank for a in named] if named else list(range(rank))
    if axis not in order:
        return True
    old = t.dim(op.input(0), axis)
    sizes = t.numbers(op.input(3)) if op.input(3) else None
    if sizes is not None and len(sizes) == len(order) and sizes[order.index(axis)].value == old:
        return True
    name = op.input(scales_slot(op))
    scales = t.floats(name) if name else op.attr("scales")
    if scales is not None and len(scales) == len(order):
        return float(scales[order.index(axis)]) == 1.0
    return old is not None and old == t.dim(op.outputs[0], axis)
