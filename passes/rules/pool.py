"""Pooling, global and windowed, and operators that sample positions of feature maps."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT, channel_axis
from conet_graph.passes.channels.units import Tracker
from conet_graph.passes.rules.conv import behind, pixel_axes, window_axes
from conet_graph.passes.rules.held import hold, hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "MaxPool", "AveragePool", "LpPool")
def pool(t: Tracker, op: Operator) -> None:
    """A window slides over the spatial axes."""
    x = op.input(0)
    axes = [t.whole(x, 0), t.axis(x, 1), *window_axes(t, op, x)]
    for k in range(len(op.outputs)):
        t.set(op, k, axes)
    if len(op.outputs) > 1 and op.outputs[1] and not _is_unpooled(t, op):
        t.freeze(op, t.axis(x, 1), "the indices that MaxPool gives out count channels")


def _is_unpooled(t: Tracker, op: Operator) -> bool:
    """Whether the places of the maxima go to MaxUnpool alone: they are found anew at other widths."""
    places = op.outputs[1]
    uses = t.graph.consumers.get(places, [])
    known = places not in t.graph.outputs and places not in t.graph.captured
    return known and all(use.op_type == "MaxUnpool" and slot == 1 for use, slot in uses)


@handles(RULES, "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(t: Tracker, op: Operator) -> None:
    """All spatial axes become 1; channels folded into them are mixed."""
    axes = t.axes(op.input(0))
    for units in axes[2:]:
        t.mix(op, units)
    t.set(op, 0, [*axes[:2], *[0] * (len(axes) - 2)])


@handles(RULES, "NhwcMaxPool", "QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_pool(t: Tracker, op: Operator) -> None:
    """Quantised pooling, its channels second or last."""
    x = op.input(0)
    t.set(op, 0, behind(t, op, t.axis(x, channel_axis(op, t.rank(x))), pixel_axes(t, op, x)))


@handles(RULES, "RoiAlign", "MaxRoiPool")
def roi(t: Tracker, op: Operator) -> None:
    """RoiAlign(X, rois, batch_indices): channels stay."""
    hold(t, op, 1, "boxes, not as channels")
    hold(t, op, 2, "numbers of images")
    t.set(op, 0, [0, t.axis(op.input(0), 1), *pixel_axes(t, op, op.input(0))])


@handles(RULES, "GridSample")
def grid_sample(t: Tracker, op: Operator) -> None:
    """GridSample(X, grid): the grid's points are the output's pixels, its last axis their coordinates."""
    axes = t.axes(op.input(0))
    hold(t, op, 1, "points, not as channels")
    t.set(op, 0, [*axes[:2], *pixel_axes(t, op, op.input(0))])


@handles(RULES, "AffineGrid")
def affine_grid(t: Tracker, op: Operator) -> None:
    """AffineGrid(theta, size): matrices become points."""
    hold(t, op, 0, "matrices that move points")
    t.set(op, 0, [0] * t.rank(op.outputs[0]))


@handles(RULES, "CenterCropPad")
def center_crop_pad(t: Tracker, op: Operator) -> None:
    """CenterCropPad(input, shape): axes that keep their length pass."""
    axes = t.axes(op.input(0))
    named = op.attr("axes")
    changed = range(len(axes)) if named is None else [k % len(axes) for k in named]
    entries = t.numbers(op.input(1)) or []
    wanted: list[int | None] = [None] * len(changed)
    for place, axis in enumerate(changed):
        units = axes[axis]
        if isinstance(units, int):
            continue
        if place < len(entries) and entries[place].value == t.dim(op.input(0), axis):
            wanted[place] = len(units)
            continue
        hold_axis(t, op, 0, axis, "an axis to crop or to pad")
        axes[axis] = 0
    t.rewrite(op, 1, wanted)
    t.set(op, 0, axes)


@handles(RULES, "MaxUnpool")
def max_unpool(t: Tracker, op: Operator) -> None:
    """MaxUnpool(X, I, output_shape): I are places that a MaxPool of as many channels gave out."""
    x = op.input(0)
    t.bind(op, op.input(1), 1, t.axis(x, 1))
    for axis in (0, *range(2, t.rank(x))):
        hold_axis(t, op, 1, axis, "places in a feature map")
    units = t.axis(x, 1)
    if op.input(2) and not isinstance(units, int):
        t.rewrite(op, 2, [None, len(units)])
    t.set(op, 0, [t.axis(x, 0), units, *pixel_axes(t, op, x)])


@handles(RULES, "Crop")
def crop(t: Tracker, op: Operator) -> None:
    """Crop of the first opsets: spatial only."""
    axes = t.axes(op.input(0))
    t.set(op, 0, [*axes[:2], *pixel_axes(t, op, op.input(0))])
