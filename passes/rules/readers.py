"""Which axis of a value the operators behind it read as channels: a look ahead, along the feature maps."""

from __future__ import annotations

from collections.abc import Mapping

from conet_graph.ir.einsum import axes_of, terms_of
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS, PRODUCTS, channel_axis, summed_axis
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules import elementwise
from conet_graph.passes.rules.reduce import reduced_axes
from conet_graph.passes.rules.segments import segments
from conet_graph.passes.rules.transpose import squeezed_axes

# So many values are looked at, then what is found so far counts.
FURTHEST = 200
# Operators that keep every axis in its place, besides the element-wise ones.
IN_PLACE = frozenset(("Concat", "Pad", "InstanceNormalization", "LayerNormalization", "Softmax"))
REDUCTIONS = frozenset(
    (
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare", "Squeeze"),
    )
)
POOLS = frozenset(
    ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Resize", "Upsample")
)
PIXEL_READERS = POOLS | {"BatchNormalization", "DepthToSpace", "GridSample", "PRelu", "SpaceToDepth"}

# For each axis of the value asked about, where it lies in the value reached; in several places once split.
Where = dict[int, tuple[int, ...]]


def votes(t: Tracker, value: str) -> dict[int, int]:
    """How often readers take each axis as channels, less how often they take it for something else."""
    if value not in t.votes:
        t.votes[value] = _counted(t, value)
    return t.votes[value]


def _counted(t: Tracker, value: str) -> dict[int, int]:
    graph = t.graph
    shape = graph.shape(value)
    found = dict.fromkeys(range(len(shape or ())), 0)
    pending: list[tuple[str, Where]] = [(value, {k: (k,) for k in found})]
    seen = {value}
    while pending and len(seen) < FURTHEST:
        name, where = pending.pop()
        for op, slot in graph.consumers.get(name, []):
            channel, others = _read(graph, op, slot, len(graph.shape(name) or ()))
            for axis, places in where.items():
                found[axis] += 1 if channel in places else -(not others.isdisjoint(places))
            further = _further(t, op, slot, where)
            output = op.outputs[0]
            if further and output not in seen:
                seen.add(output)
                pending.append((output, further))
    return found


def _read(graph: Graph, op: Operator, slot: int, rank: int) -> tuple[int, set[int]]:
    """The axis that an operator reads as channels (-1: none), and those that it reads as pixels or images."""
    convolved = op.op_type in CONVOLUTIONS and slot == CONVOLUTIONS[op.op_type].data
    if convolved or (op.op_type in PIXEL_READERS and slot == 0):
        axis = channel_axis(op, rank)
        return axis, set(range(rank)) - {axis}
    if op.op_type in PRODUCTS and slot in (PRODUCTS[op.op_type].data, PRODUCTS[op.op_type].weight):
        return summed_axis(op, slot, rank), set(range(rank - 2))
    if op.op_type in ("Attention", "MultiHeadAttention") and slot < 3:
        return rank - 1, set(range(rank - 2))
    if op.op_type == "Einsum":
        return _read_by_letters(op, slot, rank)
    return -1, set()


def _read_by_letters(op: Operator, slot: int, rank: int) -> tuple[int, set[int]]:
    """The last axis of an Einsum's operand that is summed over, and those that go through all operands."""
    terms, result = terms_of(str(op.attr("equation", "")))
    if slot >= len(terms):
        return -1, set()
    own = [c for c in terms[slot] if c != "."]
    shared = [c for c in own if c in result and all(c in term for term in terms)]
    try:
        summed = axes_of([c for c in own if c not in result], terms[slot], rank)
        return summed[-1] if summed else -1, set(axes_of(shared, terms[slot], rank))
    except ValueError:
        return -1, set()


def _further(t: Tracker, op: Operator, slot: int, where: Where) -> Where:
    """Where the axes lie in an operator's output; empty where they are not followed."""
    graph = t.graph
    if op.op_type in REDUCTIONS and slot == 0:
        return _reduced(t, op, where)
    if op.op_type == "Transpose":
        order = op.attr("perm") or list(range(len(graph.shape(op.input(0)) or ())))[::-1]
        return _moved(where, {place: (k,) for k, place in enumerate(order)})
    if op.op_type == "Gather" and slot == 0:
        rank, more = len(graph.shape(op.input(0)) or ()), len(graph.shape(op.input(1)) or ()) - 1
        axis = op.attr("axis", 0) % max(rank, 1)
        return _moved(where, {k: (k if k < axis else k + more,) for k in range(rank) if k != axis})
    kept = (op.domain, op.op_type) in elementwise.RULES or op.op_type in IN_PLACE
    if op.op_type in POOLS and slot == 0:
        return where
    if op.op_type == "Reshape" and slot == 0:
        old, new = graph.shape(op.input(0)), graph.shape(op.outputs[0])
        if old is None or new is None:
            return {}
        parts = [p for p in segments(old, new, set()) if len(p.ins) == 1 and p.outs]
        return _moved(where, {p.ins[0]: tuple(k for k in p.outs if new[k] != 1) or p.outs for p in parts})
    if not kept or not op.outputs or not op.outputs[0]:
        return {}
    shape, result = graph.shape(op.inputs[slot]), graph.shape(op.outputs[0])
    return where if shape is not None and result is not None and len(shape) == len(result) else {}


def _reduced(t: Tracker, op: Operator, where: Where) -> Where:
    """Where the axes lie that a reduction or a Squeeze leaves; empty where nobody knows which go."""
    rank, squeezes = len(t.graph.shape(op.input(0)) or ()), op.op_type == "Squeeze"
    try:
        gone = squeezed_axes(t, op, rank) if squeezes else reduced_axes(t, op, rank)
    except NoRule:
        return {}
    kept = not squeezes and bool(op.attr("keepdims", 1))
    left = [place for place in range(rank) if place not in gone]
    return _moved(where, {place: (place if kept else k,) for k, place in enumerate(left)})


def _moved(where: Where, now: Mapping[int, tuple[int, ...]]) -> Where:
    """Where the axes lie now, by where each place has gone; without those that have gone nowhere."""
    moved = {axis: tuple(k for place in places for k in now.get(place, ())) for axis, places in where.items()}
    return {axis: places for axis, places in moved.items() if places}
