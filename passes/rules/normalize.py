"""Normalisation: batch, instance, layer, group; LRN, LpNormalization, Softmax."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules.conv import bind_vector, in_groups, tie_rows
from conet_graph.passes.rules.elementwise import broadcast
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "BatchNormalization")
def batch_normalization(t: Tracker, op: Operator) -> None:
    """BatchNormalization(X, scale, B, mean, var); training forms give statistics back.

    Training forms (standardised weights, exported) take the statistics of X, over all axes but the second.
    """
    axes = t.axes(op.input(0))
    units = axes[1] if len(axes) > 1 else 0
    for slot in range(1, 5):
        bind_vector(t, op, op.input(slot), units)
    if op.attr("training_mode", 0) or len(op.outputs) > 1:
        for along in (*axes[:1], *axes[2:]):
            t.mix(op, along)
    t.set(op, 0, axes)
    for k in range(1, len(op.outputs)):
        t.set(op, k, [units])


@handles(RULES, "InstanceNormalization")
def instance_normalization(t: Tracker, op: Operator) -> None:
    """InstanceNormalization(X, scale, B); channels folded behind axis 1 (a group norm) are mixed."""
    axes = t.wholes(op.input(0))
    for slot in (1, 2):
        bind_vector(t, op, op.input(slot), t.axis(op.input(0), 1))
    for units in axes[2:]:
        t.mix(op, units)
    t.set(op, 0, axes)


@handles(RULES, "LayerNormalization", "RMSNormalization")
@handles(RULES, "SimplifiedLayerNormalization")
def layer_normalization(t: Tracker, op: Operator) -> None:
    """LayerNormalization(X, Scale, B) over the axes from ``axis`` on."""
    axes = t.wholes(op.input(0))
    first = op.attr("axis", -1) % len(axes)
    for units in axes[first:]:
        t.mix(op, units)
    out = broadcast(t, op, [op.input(0), *[n for n in op.inputs[1:] if n]])
    t.set(op, 0, out)
    for k in (1, 2):
        t.set(op, k, [*axes[:first], *[0] * (len(axes) - first)])


@handles(RULES, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(t: Tracker, op: Operator) -> None:
    """SkipLayerNormalization(input, skip, gamma, beta, bias); the simplified one has no beta."""
    out = broadcast(t, op, [n for n in op.inputs if n])
    t.mix(op, out[-1])
    t.set(op, 0, out)
    t.set(op, 3, out)


@handles(RULES, "GroupNormalization")
def group_normalization(t: Tracker, op: Operator) -> None:
    """GroupNormalization(X, scale, bias): opset 18 has a scale a group, opset 21 a scale a channel."""
    axes = t.axes(op.input(0))
    groups, units = op.attr("num_groups", 1), axes[1]
    if not isinstance(units, int):
        if groups == t.dim(op.input(0), 1):
            t.set_attr(op, "num_groups", len(units))
        else:
            tie_rows(t, op, in_groups(units, groups))
            t.mix(op, units)
    per_channel = t.dim(op.input(1), 0) == t.dim(op.input(0), 1)
    for slot in (1, 2):
        if per_channel:
            bind_vector(t, op, op.input(slot), units)
        elif op.input(slot) and not t.is_constant(op.input(slot)):
            t.tie(op, t.axis(op.input(slot), 0), 0)
    t.set(op, 0, axes)


@handles(RULES, "LRN")
def lrn(t: Tracker, op: Operator) -> None:
    """LRN looks at neighbouring channels."""
    t.mix(op, t.axis(op.input(0), 1))
    axes = t.axes(op.input(0))
    t.set(op, 0, axes)


@handles(RULES, "MeanVarianceNormalization")
def mean_variance_normalization(t: Tracker, op: Operator) -> None:
    """MeanVarianceNormalization over ``axes``."""
    axes = t.axes(op.input(0))
    for k in op.attr("axes", [0, 2, 3]):
        t.mix(op, axes[k])
    t.set(op, 0, axes)


@handles(RULES, "LpNormalization", "CumSum", "CumProd")
def along_one_axis(t: Tracker, op: Operator) -> None:
    """One axis is looked along."""
    axes = t.axes(op.input(0))
    if op.op_type == "LpNormalization":
        along = op.attr("axis", -1)
    else:
        numbers = t.integers(op.input(1))
        if numbers is None:
            raise NoRule("its axis is computed in the graph")
        along = numbers[0]
    t.mix(op, axes[along])
    t.set(op, 0, axes)


@handles(RULES, "Softmax", "LogSoftmax", "Hardmax")
@handles(RULES, "QLinearSoftmax", domain=MICROSOFT)
def softmax(t: Tracker, op: Operator) -> None:
    """Softmax; before opset 13 over all axes from ``axis`` on together."""
    axes = t.axes(op.input(0))
    old = t.graph.opset < 13
    first = op.attr("axis", 1 if old else -1) % max(len(axes), 1)
    for units in axes[first:] if old else axes[first : first + 1]:
        t.select(op, units)
    t.set(op, 0, axes)
