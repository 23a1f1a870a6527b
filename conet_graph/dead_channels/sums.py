"""Bounds of what layers compute: sums over channels, weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Numbers, alike, all_differ
from conet_graph.dead_channels.facts import Along, Facts
from conet_graph.ir.graph import Operator
from conet_graph.ir.operators import CONVOLUTIONS, PRODUCTS, WEIGHTED, bias_factor, is_turned, product_factor
from conet_graph.passes.shapes.constant_values import value_of

Weights = NDArray[Any]
# Weights that are looked at together: few enough to stay in the cache.
BLOCK = 2**16
# So many inputs of each output are enough to see that most have no bounds.
GLANCE = 8


@dataclass(frozen=True)
class LinearLayer:
    """A layer's weight as [groups, outputs a group, inputs a group, kernel], whatever its operator.

    ``stored`` is the same as the file lays it out. ``bias`` has a number for each output. ``partial``: near
    the border (or for a transposed convolution anywhere) an output may get only some of the products that
    make it up.
    """

    weight: Weights
    stored: Weights
    bias: Numbers
    partial: bool
    axis: int


def layer_of(facts: Facts, op: Operator) -> LinearLayer | None:
    """The weight of a layer in floats; None where it is none, or not known before the network runs."""
    if op.index in facts.layers:
        return facts.layers[op.index]
    record = WEIGHTED.get(op.op_type)
    if record is None or record.is_quantised or record.activated or op.domain:
        return None
    if op.op_type in CONVOLUTIONS:
        return _convolution(facts, op)
    return _product(facts, op) if op.op_type in PRODUCTS else None


def read_again(facts: Facts, op: Operator) -> LinearLayer:
    """The weight of an operator that ``layer_of`` has found to be a layer."""
    layer = layer_of(facts, op)
    assert layer is not None, "it was read before"
    return layer


def _convolution(facts: Facts, op: Operator) -> LinearLayer | None:
    slots = CONVOLUTIONS[op.op_type]
    array = _floats(facts, op.input(slots.weight))
    groups = int(op.attr("group", 1))
    if array is None or array.ndim < 3 or groups < 1:
        return None
    first, second = array.shape[:2]
    if first % groups or not array.size:
        return None
    split = array.reshape(groups, first // groups, second, -1)
    weight = split.transpose(0, 2, 1, 3) if slots.transposed else split
    outputs = groups * weight.shape[1]
    bias = _bias(facts, "" if slots.bias is None else op.input(slots.bias), outputs)
    if bias is None:
        return None
    return LinearLayer(weight, array, bias, is_partial(op, array.shape[2:]), 1)


def is_partial(op: Operator, kernel: tuple[int, ...]) -> bool:
    """Whether some outputs of a convolution get only some of its products."""
    pointwise = all(k == 1 for k in kernel)
    if CONVOLUTIONS[op.op_type].transposed:
        strides = op.attr("strides", [1])
        return not pointwise or any(s != 1 for s in strides) or any(op.attr("output_padding", [0]))
    return any(op.attr("pads", [0])) or (
        str(op.attr("auto_pad", "NOTSET")).startswith("SAME") and not pointwise
    )


def _product(facts: Facts, op: Operator) -> LinearLayer | None:
    slots = PRODUCTS[op.op_type]
    array = _floats(facts, op.input(slots.weight))
    rank = facts.rank(op.input(slots.data))
    if array is None or array.ndim != 2 or not array.size or not rank or is_turned(op, slots.data):
        return None
    weight = array if is_turned(op, slots.weight) else array.T
    alpha, beta = product_factor(op), bias_factor(op)
    bias = _bias(facts, "" if slots.bias is None else op.input(slots.bias), len(weight))
    if bias is None:
        return None
    weight = weight if alpha == 1.0 else weight * np.asarray(alpha, weight.dtype)
    return LinearLayer(weight[None, :, :, None], array, beta * bias, False, rank - 1)


def _floats(facts: Facts, name: str) -> Weights | None:
    if name not in facts.graph.derived:
        return None
    array = value_of(facts.graph, name)
    if array is None or not facts.is_float(name):
        return None
    # numpy does not compute with bfloat16, and slowly with half floats.
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _bias(facts: Facts, name: str, count: int) -> Numbers | None:
    return facts.vector(name, count) if name else np.zeros(count)


def out_axis_of(facts: Facts, op: Operator, layer: LinearLayer) -> int:
    """The axis of a layer's output that carries its channels."""
    rank = facts.rank(op.outputs[0])
    return 1 if layer.axis == 1 and op.op_type in CONVOLUTIONS else (rank or 1) - 1


def output_of(
    layer: LinearLayer, data: Along | None, low: float, high: float, *, masked: bool, apart: bool
) -> Along | None:
    """What is known of a layer's output channels; None where nothing tells them apart, or bounds them.

    Args:
        layer: the weights.
        data: the channels that are summed over, where told apart; else all lie within ``low`` and ``high``.
        low: the least number of the data.
        high: the largest.
        masked: whether channels may be set to zero where they are summed over.
        apart: whether no output's weights are a multiple of another's of its group.

    """
    groups, outputs, inputs, _ = layer.weight.shape
    data = data if data is not None and len(data) == groups * inputs else None
    if apart and (data is None or all_differ(data.kind)):
        kind, factor = np.arange(groups * outputs), np.ones(groups * outputs)
    else:
        kind, factor = _likeness(layer, data, masked)
    if layer.partial:
        low, high = min(low, 0.0), max(high, 0.0)
    if data is None:
        todo = np.flatnonzero(~_endless_by_signs(layer.weight, low, high).all(axis=0))
        if not len(todo) and all_differ(kind):
            return None
    lows = np.full(groups * inputs, low) if data is None else data.low
    highs = np.full(groups * inputs, high) if data is None else data.high
    if layer.partial:
        lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    low_in, high_in = lows.reshape(groups, 1, -1), highs.reshape(groups, 1, -1)
    least, most = np.full((groups, outputs), -np.inf), np.full((groups, outputs), np.inf)
    if data is not None:
        todo = np.flatnonzero(~_endless_at_a_glance(layer.weight, low_in, high_in).all(axis=0))
    step = max(1, BLOCK * outputs // layer.weight.size)
    for start in range(0, len(todo), step):
        part = todo[start : start + step]
        up, down = signed_sums(layer.weight[:, part])
        least[:, part], most[:, part] = _bounds(up, down, low_in, high_in)
    bounds = least.reshape(-1) + layer.bias, most.reshape(-1) + layer.bias
    return Along(*bounds, kind, factor)


def signed_sums(weight: Weights) -> tuple[Weights, Weights]:
    """Sums over the kernel of the positive weights and of the negative ones: [groups, outputs, inputs]."""
    kernel = weight.shape[3]
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    if kernel == 1:
        return up[..., 0], down[..., 0]
    # By the matrix product: numpy is slow in sums over short last axes.
    one = np.ones(kernel, weight.dtype)
    shape = weight.shape[:3]
    return (up.reshape(-1, kernel) @ one).reshape(shape), (down.reshape(-1, kernel) @ one).reshape(shape)


def _endless_by_signs(weight: Weights, low: float, high: float) -> NDArray[np.bool_]:
    """The same where all inputs lie within the same bounds."""
    if np.isfinite(low) and np.isfinite(high):
        return np.zeros(weight.shape[:2], np.bool_)
    some = weight[:, :, :GLANCE]
    up, down = some.max(axis=(2, 3)) > 0, some.min(axis=(2, 3)) < 0
    return np.asarray(up & down if np.isfinite(low) or np.isfinite(high) else up | down)


def _endless_at_a_glance(weight: Weights, low: Numbers, high: Numbers) -> NDArray[np.bool_]:
    """Outputs of which a few weights show that they have no bounds: [groups, outputs].

    Behind a ReLU nearly all: one positive and one negative weight are enough.
    """
    some = weight[:, :, :GLANCE]
    up, down = (some > 0).any(axis=3), (some < 0).any(axis=3)
    no_low, no_high = np.isneginf(low[..., :GLANCE]), np.isposinf(high[..., :GLANCE])
    endless_up = (up & no_high) | (down & no_low)
    endless_down = (up & no_low) | (down & no_high)
    return np.asarray(endless_up.any(axis=2) & endless_down.any(axis=2), np.bool_)


def _bounds(up: Weights, down: Weights, low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """The least and the largest that the products of each output add up to, [groups, outputs].

    Args:
        up: positive weights, [groups, outputs, inputs].
        down: negative ones.
        low: the least that the inputs can be, [groups, 1, inputs].
        high: the largest.

    """
    ups, downs = up.astype(np.float64), down.astype(np.float64)
    some_low, some_high = _finite(low)[:, 0, :, None], _finite(high)[:, 0, :, None]
    with np.errstate(invalid="ignore"):
        least, most = (downs @ some_high)[..., 0], (ups @ some_high)[..., 0]
        if some_low.any():  # behind a ReLU it is not
            least, most = least + (ups @ some_low)[..., 0], most + (downs @ some_low)[..., 0]
    endless_up = endless_down = ~(np.isfinite(least) & np.isfinite(most))  # of weights that are no numbers
    no_low, no_high = np.isneginf(low), np.isposinf(high)
    if no_low.any() or no_high.any():
        has_up, has_down = up > 0, down < 0
        endless_up = endless_up | ((has_up & no_high) | (has_down & no_low)).any(axis=2)
        endless_down = endless_down | ((has_up & no_low) | (has_down & no_high)).any(axis=2)
    return np.where(endless_down, -np.inf, least), np.where(endless_up, np.inf, most)


def _finite(bounds: Numbers) -> Numbers:
    return np.where(np.isfinite(bounds), bounds, 0.0)


def _likeness(layer: LinearLayer, data: Along | None, masked: bool) -> tuple[NDArray[np.int64], Numbers]:
    """Which outputs are multiples of one another: those whose weights and bias are."""
    groups, outputs, inputs, _ = layer.weight.shape
    weight, bucket = layer.weight, np.repeat(np.arange(groups), outputs)
    if data is not None and inputs == 1:
        # Depthwise: channels that are alike stay alike under the same filter.
        bucket = np.repeat(data.kind, outputs)
        weight = weight * data.factor.astype(weight.dtype)[:, None, None, None]
    elif data is not None and groups == 1 and not masked and not all_differ(data.kind):
        weight = _folded(weight, data)
    rows = weight.reshape(groups * outputs, -1)
    kind, factor = alike(rows, bucket)
    if layer.bias.any() and not all_differ(kind):
        # The bias has to be a multiple, too. Only rows that have a twin are copied for it.
        mine = np.flatnonzero(np.bincount(kind)[kind] > 1)
        longer = np.concatenate([rows[mine], layer.bias[mine, None].astype(rows.dtype)], axis=1)
        number, factor[mine] = alike(longer, kind[mine])
        kind[mine] = mine[number]
    return kind, factor


def _folded(weight: Weights, data: Along) -> Weights:
    """Weights with those of channels that are alike added up in the first of their kind."""
    kinds, first, inverse = np.unique(data.kind, return_index=True, return_inverse=True)
    ratio = (data.factor / data.factor[first][inverse]).astype(weight.dtype)
    folded = np.zeros((1, weight.shape[1], len(kinds), weight.shape[3]), weight.dtype)
    # Input channels first, in a view: they are what is added up.
    np.add.at(folded[0].transpose(1, 0, 2), inverse, (weight[0] * ratio[None, :, None]).transpose(1, 0, 2))
    return folded
