"""Operators that make axes longer, or from nothing: Expand, Tile, ConstantOfShape, Range.

A number in the file that counts channels follows them: the axis that it makes has units of its own.
"""

from __future__ import annotations

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator, ShapeNumber
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import LONGEST_AXIS, Axis, NoRule, Packed, Tracker
from conet_graph.passes.rules.readers import votes
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


def grown(t: Tracker, op: Operator, axis: int, slot: int, place: int, entry: ShapeNumber) -> Axis | Packed:
    """An output axis that one entry of an input of numbers makes.

    Read off another value's shape, it is as long as that axis at every width, and carries the same channels.
    It carries none where readers take it for pixels, or where no number in the file stands for it.
    """
    if entry.source is not None and entry.source[0] == "dim" and entry.source[1] in t.values:
        return t.whole(entry.source[1], entry.source[2])
    if entry.value == 1 or votes(t, op.outputs[0]).get(axis, 0) < 0:
        return 0
    stands = entry.source is not None and entry.source[0] == "const"
    if not stands or not isinstance(entry.value, int) or not 0 < entry.value <= LONGEST_AXIS:
        return t.frozen(f"{op.op_type} {shown(op.name)} makes it as long as the graph computes")
    return t.generate(op, axis, slot, place, entry.value)


@handles(RULES, "Tile")
def tile(t: Tracker, op: Operator) -> None:
    """Tile(input, repeats): an axis of length 1 becomes as long as it is repeated."""
    axes = t.axes(op.input(0))
    entries = t.numbers(op.input(1))
    out: list[Axis | Packed] = []
    for k, units in enumerate(axes):
        if t.dim(op.input(0), k) == 1:
            out.append(
                _repeated_one(t, op, k, units, entries[k] if entries is not None else ShapeNumber(None))
            )
            continue
        if isinstance(units, int):
            out.append(units)
            continue
        if entries is None or entries[k].value is None:
            raise NoRule("it repeats channels as often as the graph computes")
        times = int(entries[k].value or 1)
        if not 0 < times * len(units) <= LONGEST_AXIS:
            raise NoRule("it repeats channels too often")
        out.append(np.tile(units, times))
    t.set(op, 0, out)


def _repeated_one(t: Tracker, op: Operator, axis: int, units: Axis, entry: ShapeNumber) -> Axis | Packed:
    """One position, repeated."""
    if entry.value == 1:
        return units
    if not isinstance(units, int):
        t.freeze(op, units, f"{op.op_type} {shown(op.name)} repeats this one channel")
    return grown(t, op, axis, 1, axis, entry)


@handles(RULES, "Expand")
def expand(t: Tracker, op: Operator) -> None:
    """Expand(input, shape): sizes of 1 grow; an entry for a channel axis follows it."""
    axes, result = t.axes(op.input(0)), t.graph.shape(op.outputs[0])
    if result is None:
        raise NoRule("the shape of its output is not known")
    entries = t.numbers(op.input(1))
    if entries is None:
        entries = [ShapeNumber(None)] * len(result)
    missing, shift = len(result) - len(axes), len(entries) - len(result)
    out: list[Axis | Packed] = []
    wanted: list[Axis | None] = [None] * len(entries)
    for k in range(len(result)):
        place = k + shift
        entry = entries[place] if place >= 0 else ShapeNumber(1)
        units = axes[k - missing] if k >= missing else 0
        if k < missing or (t.dim(op.input(0), k - missing) == 1 and result[k] != 1):
            if not isinstance(units, int):
                t.freeze(op, units, f"Expand {shown(op.name)} broadcasts this one channel over many")
            out.append(grown(t, op, k, 1, place, entry))
            continue
        out.append(units)
        if not isinstance(units, int) and place >= 0 and entry.value != 1:
            wanted[place] = units
    t.lengths(op, 1, wanted)
    t.set(op, 0, out)


@handles(RULES, "ConstantOfShape")
def constant_of_shape(t: Tracker, op: Operator) -> None:
    """A tensor of one value: its axes are as free as the numbers of its shape."""
    entries = t.numbers(op.input(0))
    if entries is None:
        result = t.graph.shape(op.outputs[0])
        if result is None:
            raise NoRule("its shape is computed in the graph")
        entries = [ShapeNumber(None)] * len(result)
    t.set(op, 0, [grown(t, op, k, 0, k, entry) for k, entry in enumerate(entries)])


@handles(RULES, "Range")
def range_(t: Tracker, op: Operator) -> None:
    """Range(start, limit, delta): places, of which there are as many as the graph computes."""
    t.set(op, 0, [0])
