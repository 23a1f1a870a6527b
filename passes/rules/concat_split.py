"""Operators that join and cut along an axis: Concat, Split, Pad."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import (
    CONTRADICTION,
    LONGEST_AXIS,
    Axis,
    Ids,
    NoRule,
    Tracker,
    beside,
    length_of,
)
from conet_graph.passes.rules.readers import votes
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "Concat")
def concat(t: Tracker, op: Operator) -> None:
    """Inputs one behind the other along ``axis``; their other axes are tied."""
    join(t, op, op.inputs)


@handles(RULES, "QLinearConcat", domain=MICROSOFT)
def qlinear_concat(t: Tracker, op: Operator) -> None:
    """QLinearConcat(ys, yz, x1, s1, z1, x2, ...)."""
    join(t, op, op.inputs[2::3])


def join(t: Tracker, op: Operator, names: list[str]) -> None:
    """Concatenate the axes of ``names``."""
    rank = t.rank(names[0])
    axis = op.attr("axis", 1) % rank
    out: list[Axis] = []
    inputs = [t.axes(name) for name in names]
    if any(len(axes) != rank for axes in inputs):
        raise NoRule(CONTRADICTION)
    for k, parts in enumerate(zip(*inputs, strict=True)):
        if k == axis:
            if all(isinstance(p, int) for p in parts):
                out.append(parts[0])
            else:
                full = [t.unit_by_unit(op, p, t.dim(n, k)) for p, n in zip(parts, names, strict=True)]
                if sum(len(part) for part in full) > LONGEST_AXIS:
                    raise NoRule("an axis is too long to carry channels")
                out.append(np.concatenate(full))
            continue
        lead = next(
            (p for p, n in zip(parts, names, strict=True) if not isinstance(p, int) and not t.is_constant(n)),
            parts[0],
        )
        for part, name in zip(parts, names, strict=True):
            if t.is_constant(name):
                t.bind(op, name, k, lead)
            else:
                t.tie(op, lead, part)
        out.append(lead)
    t.set(op, 0, out)


@handles(RULES, "Split")
def split(t: Tracker, op: Operator) -> None:
    """Pieces of an axis; their sizes follow."""
    axes = t.axes(op.input(0))
    axis = op.attr("axis", 0) % len(axes)
    units = axes[axis]
    if isinstance(units, int):
        for k in range(len(op.outputs)):
            t.set(op, k, axes)
        return
    sizes = _split_sizes(t, op, axis)
    piece = np.searchsorted(np.cumsum(sizes), t.origin(op.input(0), axis, units), side="right")
    t.keep_together(op, units, piece)
    pieces = [units[piece == k] for k in range(len(sizes))]
    for k, part in enumerate(pieces):
        t.set(op, k, [*axes[:axis], part, *axes[axis + 1 :]])
    now = [len(p) for p in pieces]
    if op.input(1):
        t.lengths(op, 1, pieces)
    elif now != sizes or op.attr("split") is not None:
        _set_split_sizes(t, op, now)


def _split_sizes(t: Tracker, op: Operator, axis: int) -> list[int]:
    sizes = t.integers(op.input(1)) if op.input(1) else op.attr("split")
    if sizes is not None:
        return list(sizes)
    total, count = t.dim(op.input(0), axis), len(op.outputs)
    if op.input(1) or not isinstance(total, int):
        raise NoRule("its sizes are computed in the graph")
    each = -(-total // count)
    return [each] * (count - 1) + [total - each * (count - 1)]


def _set_split_sizes(t: Tracker, op: Operator, sizes: list[int]) -> None:
    """Write sizes into a Split that had none: an attribute before opset 13, an input from then on."""
    if t.graph.opset < 13:
        t.set_attr(op, "split", sizes)
    else:
        t.replace_numbers(op, 1, sizes)


@handles(RULES, "Pad")
def pad(t: Tracker, op: Operator) -> None:
    """Spatial padding passes; what is put before and behind channels are channels of one value."""
    axes = t.axes(op.input(0))
    if all(isinstance(units, int) for units in axes):
        t.set(op, 0, axes)
        return
    written = op.attr("pads") or op.attr("paddings") if len(op.inputs) == 1 else None
    numbers = t.integers(op.input(1)) if written is None else list(written)
    named = t.integers(op.input(3)) if op.input(3) else list(range(len(axes)))
    if named is None or (numbers is None and not _spatial_pads(t, op, axes)):
        raise NoRule("its padding is computed in the graph")
    if numbers is not None and len(numbers) != 2 * len(named):
        raise NoRule(CONTRADICTION)
    out = list(axes)
    wanted: list[Axis | None] = [None] * (2 * len(named))
    for position, axis in enumerate(named):
        units, behind = axes[axis], position + len(named)
        if numbers is None or isinstance(units, int) or numbers[position] == numbers[behind] == 0:
            continue
        front, back = _added(t, op, axis % len(axes), numbers[position], numbers[behind])
        out[axis] = np.concatenate([front, units, back])
        wanted[position], wanted[behind] = front, back
    if written is None:
        t.lengths(op, 1, wanted)
    elif any(units is not None for units in wanted):
        now = [length_of(units) for units in wanted]
        name = "pads" if op.attr("pads") else "paddings"
        t.set_attr(op, name, [o if n is None else n for o, n in zip(written, now, strict=True)])
    t.set(op, 0, out)


def _added(t: Tracker, op: Operator, axis: int, before: int, behind: int) -> tuple[Ids, Ids]:
    """The channels of one value that a Pad puts before and behind others.

    They may change where what follows reads the axis as channels (the shortcut of a ResNet for CIFAR).

    Raises:
        NoRule: it takes channels away, or repeats them.

    """
    count = before + behind
    if min(before, behind) < 0 or count > LONGEST_AXIS or op.attr("mode", "constant") != "constant":
        raise NoRule("it crops or mirrors channels")
    if votes(t, op.outputs[0]).get(axis, 0) < 1:
        zeros = t.frozen(f"channels of zeros that Pad {shown(op.name)} adds")
        return np.full(before, zeros, np.int64), np.full(behind, zeros, np.int64)
    units = t.added(op, axis, count)
    piece = (t.origin(op.outputs[0], beside(axis), units) >= before).astype(np.int64)
    t.keep_together(op, units, piece)
    return units[piece == 0], units[piece == 1]


def _spatial_pads(t: Tracker, op: Operator, axes: list[Axis]) -> bool:
    """Whether a computed padding leaves every axis with channels as long as it was."""
    return all(
        isinstance(units, int)
        or (isinstance(t.dim(op.input(0), k), int) and t.dim(op.input(0), k) == t.dim(op.outputs[0], k))
        for k, units in enumerate(axes)
    )
