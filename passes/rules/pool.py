"""Pooling, global and windowed, and operators that sample positions of feature maps."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import enter as rule
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules.conv import pixel_axes, window_axes
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@rule(RULES, "MaxPool", "AveragePool", "LpPool")
def pool(t: Tracker, op: Operator) -> None:
    """A window slides over the spatial axes."""
    x = op.input(0)
    axes = [t.axis(x, 0), t.axis(x, 1), *window_axes(t, op, x)]
    for k in range(len(op.outputs)):
        t.set(op, k, axes)
    if len(op.outputs) > 1 and op.outputs[1]:
        t.freeze(op, axes[1], "the indices that MaxPool gives out count channels")


@rule(RULES, "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(t: Tracker, op: Operator) -> None:
    """All spatial axes become 1; channels folded into them are mixed."""
    axes = t.axes(op.input(0))
    for units in axes[2:]:
        t.mix(op, units)
    t.set(op, 0, [*axes[:2], *[0] * (len(axes) - 2)])


@rule(RULES, "QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_pool(t: Tracker, op: Operator) -> None:
    """Quantised pooling in NCHW."""
    if op.attr("channels_last", 0):
        raise NoRule("it works with channels last")
    axes = t.axes(op.input(0))
    t.set(op, 0, [*axes[:2], *pixel_axes(t, op, op.input(0))])


@rule(RULES, "RoiAlign", "MaxRoiPool")
def roi(t: Tracker, op: Operator) -> None:
    """Regions come from another input; channels stay."""
    t.set(op, 0, [0, t.axis(op.input(0), 1), *pixel_axes(t, op, op.input(0))])


@rule(RULES, "GridSample")
def grid_sample(t: Tracker, op: Operator) -> None:
    """GridSample(X, grid)."""
    axes = t.axes(op.input(0))
    t.set(op, 0, [*axes[:2], *pixel_axes(t, op, op.input(0))])


@rule(RULES, "Crop")
def crop(t: Tracker, op: Operator) -> None:
    """Crop of the first opsets: spatial only."""
    axes = t.axes(op.input(0))
    t.set(op, 0, [*axes[:2], *pixel_axes(t, op, op.input(0))])
