"""Inputs that are no feature maps: points, boxes, indices, sizes. Their axes stay, and the reason says so."""

from __future__ import annotations

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.operators import TELLS_SIZES
from conet_graph.passes.channels.units import Tracker

# Operators that read nothing but an input's shape or type.
SHAPE_READERS = TELLS_SIZES | {"CastLike", "EyeLike", "RandomNormalLike", "RandomUniformLike"}


def hold(t: Tracker, op: Operator, slot: int, what: str) -> None:
    """Keep all axes of an input that the operator reads as ``what``; absent inputs are left alone."""
    if op.input(slot):
        for axis in range(t.rank(op.input(slot))):
            hold_axis(t, op, slot, axis, what)


def hold_axis(t: Tracker, op: Operator, slot: int, axis: int, what: str) -> None:
    """Keep one axis of an input that the operator reads as ``what``."""
    value = op.input(slot)
    if t.is_constant(value) or not isinstance(t.whole(value, axis), int):
        t.stop(op, value, axis, t.frozen(f"{op.op_type} {shown(op.name)} reads it as {what}"))


def hold_unread(t: Tracker, op: Operator) -> None:
    """Keep the axes of inputs that the operator's rule did not look at: it knows no channels there."""
    if op.op_type in SHAPE_READERS:
        return
    for slot, value in enumerate(op.inputs):
        if value in t.values and value not in t.read and not t.is_constant(value):
            hold(t, op, slot, f"its input {slot}, which holds no channels")
