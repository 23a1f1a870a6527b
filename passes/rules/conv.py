"""Convolutions: Conv, ConvTranspose, ConvInteger, QLinearConv, DeformConv and fused forms."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import CONVOLUTIONS, MICROSOFT, WEIGHTED, channel_axis
from conet_graph.passes.channels.units import LONG, Axis, Ids, NoRule, Packed, Tracker
from conet_graph.passes.rules.held import hold
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


def tie_rows(t: Tracker, op: Operator, table: Ids) -> Ids:
    """Tie the rows of a table to its first one, which is returned."""
    if len(table) > 1:
        t.level(op, table)
    if table.size > LONG:
        # Channels merged with pixels make a row a pixel: one like the row before says nothing new.
        told = (table[1:] != table[:-1]).any(axis=1)
        table = table[np.concatenate([np.ones(1, np.bool_), told])]
    first: Ids = table[0]
    if len(table) > 1:
        t.tie(op, np.tile(first, len(table) - 1), table[1:].reshape(-1))
    return first


def in_groups(units: Ids, groups: int) -> Ids:
    """An axis as a table with a row for each group.

    Raises:
        NoRule: the groups do not divide it.

    """
    if groups < 1 or len(units) % groups:
        raise NoRule(f"{groups} groups do not divide {len(units)} channels")
    return units.reshape(groups, -1)


def bind_vector(t: Tracker, op: Operator, value: str, to: Axis) -> None:
    """Tie a vector with an entry for each channel (a bias)."""
    if value and t.rank(value) == 1:
        t.bind(op, value, 0, to)


def bind_scale(t: Tracker, op: Operator, value: str, to: Axis) -> None:
    """Tie a vector of scales or zero points; a single entry serves all channels and is left alone."""
    if value and t.rank(value) == 1 and t.dim(value, 0) != 1:
        t.bind(op, value, 0, to)


def bind_others(t: Tracker, op: Operator, to: Axis) -> None:
    """Tie a layer's bias, scales and zero points to its outputs."""
    record = WEIGHTED[op.op_type]
    for slot in record.per_output:
        bind_scale(t, op, op.input(slot), to)
    if record.bias is not None:
        bind_vector(t, op, op.input(record.bias), to)


@handles(RULES, "Conv", "ConvInteger", "QLinearConv")
@handles(RULES, "QLinearConv", domain=MICROSOFT)
def conv(t: Tracker, op: Operator) -> None:
    """Conv(X, W, B), and of integers; scales and zero points may lie along the outputs.

    ONNX Runtime's own QLinearConv may have its feature maps' channels last; its weight is as ever.
    """
    out = convolve(t, op)
    bind_others(t, op, out)
    t.set(op, 0, behind(t, op, out, window_axes(t, op, op.input(0))))


@handles(RULES, "FusedConv", domain=MICROSOFT)
def fused_conv(t: Tracker, op: Operator) -> None:
    """Conv with an activation and a summand Z (ONNX Runtime's extended optimisations)."""
    conv(t, op)
    if op.input(3):
        t.tie(op, t.axis(op.outputs[0], 1), t.axis(op.input(3), 1))


@handles(RULES, "DeformConv")
def deform_conv(t: Tracker, op: Operator) -> None:
    """DeformConv(X, W, offset, B, mask): offsets and mask say where to look, not what is there."""
    out = convolve(t, op)
    bind_others(t, op, out)
    units = t.axis(op.input(0), 1)
    if not isinstance(units, int) and op.attr("offset_group", 1) > 1:
        tie_rows(t, op, in_groups(units, op.attr("offset_group", 1)))
    hold(t, op, 2, "offsets, not as channels")
    hold(t, op, 4, "a mask of offsets")
    t.set(op, 0, [t.axis(op.input(0), 0), out, *pixel_axes(t, op, op.input(0))])


def convolve(t: Tracker, op: Operator) -> Axis:
    """The channel side of a convolution; returns the output's channels."""
    record = CONVOLUTIONS[op.op_type]
    data, x, w = record.data, op.input(record.data), op.input(record.weight)
    axis = channel_axis(op, t.rank(x))
    group, units = op.attr("group", 1), t.axis(x, axis)
    _kernel_is_spatial(t, op, w, 2)
    per_group = t.dim(w, 1)
    if group == 1:
        t.bind(op, w, 1, units)
        t.contract(op, data, axis, (w, 1))
        return t.axis(w, 0)
    if isinstance(units, int):
        t.bind(op, w, 1, units)
        out = t.unit_by_unit(op, t.axis(w, 0), t.dim(w, 0))
        tie_rows(t, op, in_groups(out, group))
        return out
    if per_group == 1:
        # Depthwise: output unit i*m+j belongs to input unit i, whatever the multiplier m.
        old_out, old_in = t.dim(w, 0), group
        if not isinstance(old_out, int) or old_out % old_in:
            raise NoRule(f"{group} groups do not divide its output channels")
        out = np.repeat(units, old_out // old_in)
        t.bind(op, w, 0, out)
        t.set_attr(op, "group", len(units))
        return out
    if group == t.dim(w, 0) and isinstance(per_group, int):
        out = whole_groups(t, op, units, per_group)
        t.bind(op, w, 0, out)
        t.bind(op, w, 1, 0)
        return out
    t.bind(op, w, 1, tie_rows(t, op, in_groups(units, group)))
    t.contract(op, data, axis, (w, 1))
    out = t.unit_by_unit(op, t.axis(w, 0), t.dim(w, 0))
    tie_rows(t, op, in_groups(out, group))
    return out


def whole_groups(t: Tracker, op: Operator, units: Ids, per_group: int) -> Ids:
    """The outputs of a convolution with one output a group: it goes, or is copied, with all it reads."""
    if len(units) % per_group:
        raise NoRule(f"groups of {per_group} do not divide {len(units)} channels")
    t.set_attr(op, "group", len(units) // per_group)
    return tie_rows(t, op, units.reshape(-1, per_group).T)


@handles(RULES, "ConvTranspose")
def conv_transpose(t: Tracker, op: Operator) -> None:
    """ConvTranspose(X, W, B); W is [in, out / group, ...]."""
    x, w = op.input(0), op.input(1)
    group, units = op.attr("group", 1), t.axis(x, 1)
    _kernel_is_spatial(t, op, w, 2)
    out: Axis
    if group > 1 and group == t.dim(w, 0) and not isinstance(units, int):
        multiplier = t.dim(w, 1)
        if not isinstance(multiplier, int):
            raise NoRule("the shape of its weight is not known")
        out = np.repeat(units, multiplier)
        t.bind(op, w, 0, units)
        t.set_attr(op, "group", len(units))
    elif group > 1 and t.dim(w, 1) == 1 and not isinstance(units, int):
        out = whole_groups(t, op, units, _per_group(t, w, group))
        t.bind(op, w, 0, units)
    else:
        if not isinstance(units, int):
            tie_rows(t, op, in_groups(units, group))
        t.bind(op, w, 0, units)
        t.contract(op, 0, 1, (w, 0))
        out = np.tile(t.unit_by_unit(op, t.axis(w, 1), t.dim(w, 1)), group) if group > 1 else t.axis(w, 1)
    bind_others(t, op, out)
    t.set(op, 0, [t.axis(x, 0), out, *pixel_axes(t, op, x)])


def _per_group(t: Tracker, w: str, group: int) -> int:
    """Channels that a group of a ConvTranspose reads."""
    length = t.dim(w, 0)
    if not isinstance(length, int) or length % group:
        raise NoRule(f"{group} groups do not divide its channels")
    return length // group


def _kernel_is_spatial(t: Tracker, op: Operator, w: str, first: int) -> None:
    """Kernel axes of a weight that the graph computes carry no channels."""
    for axis in range(first, t.rank(w)):
        t.bind(op, w, axis, 0)


def behind(t: Tracker, op: Operator, channels: Axis, pixels: list[Axis]) -> list[Axis | Packed]:
    """The axes of a feature map that an operator makes of its first input's images, in their order."""
    made: list[Axis | Packed] = list(pixels)
    made.insert(channel_axis(op, len(pixels) + 2) - 1, channels)
    return [t.whole(op.input(0), 0), *made]


def _pixels(t: Tracker, op: Operator, x: str) -> list[int]:
    """The axes of a feature map that are neither images nor channels."""
    rank = t.rank(x)
    channels = channel_axis(op, rank)
    return [axis for axis in range(1, rank) if axis != channels]


def pixel_axes(t: Tracker, op: Operator, x: str) -> list[Axis]:
    """Output axes beside the channel axis where pixels are moved: channels folded into them stay."""
    pixels = _pixels(t, op, x)
    for axis in pixels:
        t.tie(op, t.axis(x, axis), 0)
    return [0] * len(pixels)


def window_axes(t: Tracker, op: Operator, x: str) -> list[Axis]:
    """Output axes beside the channel axis of an operator that slides a window.

    A window that slides along channels (the 1-D convolution of an ECA block) keeps their number when
    its stride is 1 and its padding keeps the length; else the channels are frozen.
    """
    axes: list[Axis] = []
    output = op.outputs[0]
    for axis in _pixels(t, op, x):
        units = t.axis(x, axis)
        if isinstance(units, int):
            axes.append(0)
            continue
        if t.dim(output, axis) != t.dim(x, axis) or any(s != 1 for s in op.attr("strides", [1])):
            t.tie(op, units, 0)
            axes.append(0)  # the new positions are not the old ones
            continue
        t.mix(op, units)
        axes.append(units)
    return axes
