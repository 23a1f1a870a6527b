"""Fourier transforms along an axis of pixels or samples."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules.held import hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "DFT")
def dft(t: Tracker, op: Operator) -> None:
    """DFT(input, length, axis): the last axis holds real and imaginary parts; all others pass."""
    axes = t.axes(op.input(0))
    named = t.integers(op.input(2)) if op.input(2) else [op.attr("axis", -2 if op.version >= 20 else 1)]
    if named is None:
        raise NoRule("its axis is computed in the graph")
    for axis, what in ((named[0] % len(axes), "an axis to transform"), (len(axes) - 1, "complex numbers")):
        hold_axis(t, op, 0, axis, what)
        axes[axis] = 0
    t.set(op, 0, axes)
