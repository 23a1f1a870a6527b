"""Element by element: activations, arithmetic with broadcasting, Where, PRelu, Clip."""

from __future__ import annotations

from collections.abc import Sequence

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import BROADCASTING, CURVES, MICROSOFT, PRIVATE_ELEMENTWISE
from conet_graph.passes.channels.units import Axis, Packed, Tracker
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, *CURVES, "Bernoulli", "RandomNormalLike", "RandomUniformLike")
def unary(t: Tracker, op: Operator) -> None:
    """One input, the same axes out (further inputs are scalars)."""
    for k in range(len(op.outputs)):
        t.set(op, k, t.wholes(op.input(0)))


@handles(RULES, *PRIVATE_ELEMENTWISE, domain=MICROSOFT)
def private(t: Tracker, op: Operator) -> None:
    """Those of ONNX Runtime; a second long input is a bias."""
    names = [op.input(slot) for slot in PRIVATE_ELEMENTWISE[op.op_type]]
    t.set(op, 0, broadcast(t, op, [name for name in names if name]))


@handles(RULES, *BROADCASTING)
def n_ary(t: Tracker, op: Operator) -> None:
    """Several inputs, broadcast together (Broadcasting in ONNX); opset 6 and older had ``axis``."""
    names = [n for n in op.inputs if n]
    offset = op.attr("axis")
    if op.attr("broadcast", 0) and offset is not None and len(names) == 2:
        rank, own = t.rank(names[0]), t.rank(names[1])
        axes = t.axes(names[0])
        for k in range(own):
            axes[offset % rank + k] = broadcast_axis(t, op, [(names[0], offset % rank + k), (names[1], k)])
        t.set(op, 0, axes)
        return
    t.set(op, 0, broadcast(t, op, names))


@handles(RULES, "Affine", "ImageScaler")
def experimental(t: Tracker, op: Operator) -> None:
    """Experimental operators of the first opsets; ImageScaler has a bias for each channel."""
    axes = t.axes(op.input(0))
    if op.op_type == "ImageScaler" and op.attr("bias"):
        t.freeze(op, axes[1], f"the attribute 'bias' of {op.op_type} has an entry for each channel")
    t.set(op, 0, axes)


def broadcast(t: Tracker, op: Operator, names: Sequence[str]) -> list[Axis | Packed]:
    """The axes of several values broadcast together, aligned at the right."""
    ranks = [t.rank(n) for n in names]
    rank = max(ranks)
    out: list[Axis | Packed] = []
    for k in range(rank):
        places = [(n, k - rank + own) for n, own in zip(names, ranks, strict=True) if k - rank + own >= 0]
        packed = _packed_together(t, op, places) if t.packed else None
        out.append(packed or broadcast_axis(t, op, places))
    return out


def _packed_together(t: Tracker, op: Operator, places: Sequence[tuple[str, int]]) -> Packed | None:
    """One axis on which all that are longer than 1 are packed alike, or carry no channels."""
    long = [t.whole(n, k) for n, k in places if t.dim(n, k) != 1 and not t.is_constant(n)]
    fixed = any(t.is_constant(n) and t.dim(n, k) != 1 for n, k in places)
    lead = next((axis for axis in long if isinstance(axis, Packed)), None)
    if lead is None or fixed or not all(isinstance(axis, int | Packed) for axis in long):
        return None
    for axis in long:
        if isinstance(axis, int):
            t.tie(op, lead.units, axis)
        elif isinstance(axis, Packed):
            if (axis.length, axis.each, axis.times) != (lead.length, lead.each, lead.times):
                return None
            t.tie(op, lead.units, axis.units)
    return lead


def broadcast_axis(t: Tracker, op: Operator, places: Sequence[tuple[str, int]]) -> Axis:
    """One axis of several values broadcast together; a size of 1 is not tied to anything."""
    long = [(n, k) for n, k in places if t.dim(n, k) != 1]
    if not long:
        # All are 1 long: units that happen to be single channels still belong together.
        long = [(n, k) for n, k in places if not t.is_constant(n)]
        if not long:
            return 0
    if len(long) > 1:
        long.sort(key=lambda place: _rank_as_lead(t, place))
    name, axis = long[0]
    lead = t.axis(name, axis)
    for other, k in long[1:]:
        if t.is_constant(other):
            t.bind(op, other, k, lead)
        else:
            t.tie(op, lead, t.axis(other, k))
    for other, k in places:
        if (other, k) in long or t.is_constant(other):
            continue
        single = t.axis(other, k)
        if not isinstance(single, int):
            t.freeze(op, single, "its one channel is broadcast over many")
    return lead


def _rank_as_lead(t: Tracker, place: tuple[str, int]) -> int:
    """Activations with channels first, then those without, constants last."""
    name, axis = place
    if t.is_constant(name):
        return 2
    return 1 if isinstance(t.axis(name, axis), int) else 0
