"""One walk over the network, from its inputs to its outputs, that fills the facts of every value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conet_graph.dead_channels.alike import all_differ, bucket_of
from conet_graph.dead_channels.curves import UNARY, curve
from conet_graph.dead_channels.facts import Fact, Facts, between, combined
from conet_graph.dead_channels.glance import NONSENSE, Beside, Glance, glances
from conet_graph.dead_channels.hearing import deaf
from conet_graph.dead_channels.moves import concatenated, moved, padded, pooled, resized
from conet_graph.dead_channels.pointwise import BOUNDS, scaled, several
from conet_graph.dead_channels.sums import out_axis_of, output_of, read_again
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import PLAIN_PRODUCTS


def walk(graph: Graph, masked: bool, beside: Beside | None = None) -> Facts:
    """The facts of all values of an analysed network.

    Args:
        graph: with its channels solved.
        masked: whether the facts are to hold when channels are set to zero where they are summed over.
        beside: called with the name and the numbers of each layer's weight when it is first read.

    """
    facts = Facts(graph, masked)
    summed_later = _summed_later(facts)
    ruled = [op for op in graph.operators if _has_rule(op)]
    seen = glances(facts, (op for op in ruled if op.op_type in LAYERS), beside)
    for op in ruled:
        try:
            if op.op_type not in LAYERS:
                RULES[op.op_type](facts, op)
            elif op.index in seen:
                (_layer if op.outputs[0] in summed_later else _last_layer)(facts, op, seen[op.index])
        except NONSENSE:
            facts.known.update({name: Fact() for name in op.outputs if name})
    facts.layers.clear()
    return facts


def _has_rule(op: Operator) -> bool:
    named = op.op_type in RULES or op.op_type in LAYERS
    return named and not op.domain and not op.subgraphs() and any(op.outputs) and bool(op.input(0))


def _summed_later(facts: Facts) -> set[str]:
    """The values that an operator further on sums over, or that such a value is made of."""
    sums = {op.index for op, *_ in facts.units.contractions}
    found: set[str] = set()
    for op in reversed(facts.graph.operators):
        if op.index in sums or op.subgraphs() or not found.isdisjoint(op.outputs):
            found.update(op.inputs)
    return found


def _last_layer(facts: Facts, op: Operator, glance: Glance) -> None:
    """A layer behind which nothing is summed: all that counts is which outputs hear nothing at all."""
    if glance.both_signs:
        return
    layer = read_again(facts, op)
    silent = deaf(layer.weight)
    if silent.any():
        low, high = np.where(silent, layer.bias, -np.inf), np.where(silent, layer.bias, np.inf)
        facts.say(op, -np.inf, np.inf, {out_axis_of(facts, op, layer): between(low, high)})


def _layer(facts: Facts, op: Operator, glance: Glance) -> None:
    fact, data = facts.of(op.input(0)), facts.summed_over(op, 0, glance.axis)
    low, high = (min(fact.low, 0.0), max(fact.high, 0.0)) if facts.masked else (fact.low, fact.high)
    if data is None and glance.tells_nothing(low, high):
        return
    layer = read_again(facts, op)
    found = output_of(layer, data, low, high, masked=facts.masked, apart=glance.apart)
    if found is not None:
        facts.say(op, -np.inf, np.inf, {out_axis_of(facts, op, layer): found})


def _batch_norm(facts: Facts, op: Operator) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, channel by channel."""
    shape = facts.graph.shape(op.input(0)) or ()
    count = shape[1] if len(shape) > 1 else None
    if not isinstance(count, int) or op.attr("training_mode", 0) or len([o for o in op.outputs if o]) > 1:
        return
    slope, fact = facts.vector(op.input(1), count), facts.of(op.input(0))
    endless = not fact.along and fact.low == -np.inf and fact.high == np.inf
    if slope is None or (endless and (slope != 0).all()):
        return  # nothing is known of the output either
    vectors = [facts.vector(name, count) for name in op.inputs[1:5]]
    if len(vectors) < 4 or any(v is None for v in vectors):
        return
    scale, shift, mean, variance = (np.asarray(v) for v in vectors)
    with np.errstate(all="ignore"):
        slope = scale / np.sqrt(variance + float(op.attr("epsilon", 1e-5)))
        offset = shift - mean * slope
    off = scale == 0
    if off.any():  # that leaves the shift, whatever the statistics are
        slope, offset = np.where(off, 0.0, slope), np.where(off, shift, offset)
    found = facts.along(op.input(0), 1)
    fact = facts.of(op.input(0))
    found = found if found is not None else between(np.full(count, fact.low), np.full(count, fact.high))
    low, high = scaled(found.low, found.high, slope)
    alone = all_differ(found.kind)
    rows = np.ones((count, 1)) if alone else np.stack([slope * found.factor, offset], axis=1)
    along = combined(low + offset, high + offset, rows, found.kind, np.ones(count))
    facts.say(op, -np.inf, np.inf, {1: along})


def _instance_norm(facts: Facts, op: Operator) -> None:
    """What is the same everywhere, or scaled with zero, leaves the shift."""
    found = facts.along(op.input(0), 1)
    if found is None:
        return
    scale, shift = facts.vector(op.input(1), len(found)), facts.vector(op.input(2), len(found))
    if scale is None or shift is None:
        return
    fixed = scale == 0
    low, high = np.where(fixed, shift, -np.inf), np.where(fixed, shift, np.inf)
    facts.say(op, -np.inf, np.inf, {1: between(low, high)})


def _quantised(facts: Facts, op: Operator) -> None:
    """QuantizeLinear and DequantizeLinear with one scale for all channels."""
    step = facts.scalar(op.input(1))
    zero = facts.scalar(op.input(2)) if op.input(2) else 0.0
    if step is None or zero is None or not step > 0:
        return
    if op.op_type == "QuantizeLinear" and not op.input(2):
        return
    fact = facts.of(op.input(0))
    least, most = _steps(facts, op)

    def turned(numbers: np.ndarray) -> np.ndarray:
        if op.op_type == "DequantizeLinear":
            return (numbers - zero) * step
        return np.clip(np.rint(numbers / step) + zero, least, most)

    along = {}
    for axis, found in fact.along.items():
        bucket = bucket_of(found.kind, found.factor)
        one = np.ones(len(found))
        along[axis] = combined(turned(found.low), turned(found.high), one[:, None], bucket, one)
    low, high = turned(np.array([fact.low, fact.high]))
    facts.say(op, float(low), float(high), along)


def _steps(facts: Facts, op: Operator) -> tuple[float, float]:
    """The least and the largest number that a quantiser writes."""
    if op.op_type == "DequantizeLinear":
        return -np.inf, np.inf
    kind = facts.graph.array(op.input(2)).dtype
    found = np.iinfo(kind)
    return float(found.min), float(found.max)


LAYERS = frozenset(("Conv", "ConvTranspose", *PLAIN_PRODUCTS))
RULES: dict[str, Callable[[Facts, Operator], None]] = {
    **dict.fromkeys(UNARY, curve),
    **dict.fromkeys(BOUNDS, several),
    **dict.fromkeys(
        (
            *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather"),
            *("DepthToSpace", "SpaceToDepth", "Expand", "Tile"),
        ),
        moved,
    ),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), pooled),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax"), pooled),
    **dict.fromkeys(("Resize", "Upsample"), resized),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "Concat": concatenated,
    "Pad": padded,
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _quantised,
}
