"""Resize and Upsample: channels pass; an entry for the channel axis follows."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.passes.rules.registry import Table, rule
from conet_graph.passes.units import Axis, Tracker

RULES: Table = {}


@rule(RULES, "Resize", "Upsample")
def resize(t: Tracker, op: Operator) -> None:
    """Resize(X, roi, scales, sizes)."""
    axes = t.axes(op.input(0))
    named = op.attr("axes")
    out: list[Axis] = []
    for k, units in enumerate(axes):
        if isinstance(units, int):
            out.append(0)
        elif t.dim(op.input(0), k) == t.dim(op.outputs[0], k):
            out.append(units)
        else:
            t.freeze(op, units, "channels are resized like pixels")
            out.append(0)
    if op.input(3):
        order = [a % len(axes) for a in named] if named else range(len(axes))
        t.rewrite(op, 3, [None if isinstance(out[a], int) else len(out[a]) for a in order])  # type: ignore[arg-type]
    t.set(op, 0, out)
