"""Operators that join and cut along an axis: Concat, Split, Slice, Pad."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import enter as rule
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import LONGEST_AXIS, Axis, NoRule, Tracker
from conet_graph.passes.rules.conv import tie_rows
from conet_graph.passes.rules.registry import Table

RULES: Table = {}

# Exporters write the largest 32- or 64-bit integer for "to the end".
OPEN_END = 2**31 - 1


@rule(RULES, "Concat")
def concat(t: Tracker, op: Operator) -> None:
    """Inputs one behind the other along ``axis``; their other axes are tied."""
    join(t, op, op.inputs)


@rule(RULES, "QLinearConcat", domain=MICROSOFT)
def qlinear_concat(t: Tracker, op: Operator) -> None:
    """QLinearConcat(ys, yz, x1, s1, z1, x2, ...)."""
    join(t, op, op.inputs[2::3])


def join(t: Tracker, op: Operator, names: list[str]) -> None:
    """Concatenate the axes of ``names``."""
    rank = t.rank(names[0])
    axis = op.attr("axis", 1) % rank
    out: list[Axis] = []
    for k in range(rank):
        parts = [t.axis(n, k) for n in names]
        if k == axis:
            if all(isinstance(p, int) for p in parts):
                out.append(parts[0])
            else:
                full = [t.ones(op, p, t.dim(n, k)) for p, n in zip(parts, names, strict=True)]
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


@rule(RULES, "Split")
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


@rule(RULES, "Slice")
def slice_(t: Tracker, op: Operator) -> None:
    """A run of positions, or every n-th one, of some axes."""
    axes = t.axes(op.input(0))
    starts, ends, named, steps = _slice_numbers(t, op, len(axes))
    out = list(axes)
    new_starts: list[int | None] = [None] * len(named)
    new_ends: list[int | None] = [None] * len(named)
    for position, axis in enumerate(named):
        units, length = axes[axis], t.dim(op.input(0), axis)
        if isinstance(units, int):
            continue
        start, end, step = starts[position], ends[position], steps[position]
        if start is None or end is None or not isinstance(length, int):
            raise NoRule("it cuts channels at places computed in the graph")
        begin, stop, _ = slice(start, end, step).indices(length)
        if step == 1:
            origin = t.origin(op.input(0), axis, units)
            t.keep_together(op, units, np.searchsorted([begin, stop], origin, side="right"))
            chosen = np.flatnonzero((origin >= begin) & (origin < stop))
            out[axis] = units[chosen]
            new_starts[position] = int(chosen[0]) if len(chosen) else 0
            open_end = end >= OPEN_END
            new_ends[position] = None if open_end else int(chosen[0] if len(chosen) else 0) + len(chosen)
        elif step > 1 and length % step == 0 and 0 <= begin < step and stop > length - step + begin:
            out[axis] = tie_rows(t, op, units.reshape(-1, step).T)
            if end < OPEN_END:
                new_ends[position] = len(units)
        elif step == -1 and begin == length - 1 and stop == -1:
            out[axis] = units[::-1]
            new_starts[position] = None if start >= OPEN_END or start == -1 else len(units) - 1
        else:
            raise NoRule("it picks channels in a pattern that is not understood")
    t.set(op, 0, out)
    _write_slice(t, op, new_starts, new_ends)


def _slice_numbers(
    t: Tracker, op: Operator, rank: int
) -> tuple[list[int | None], list[int | None], list[int], list[int]]:
    if len(op.inputs) == 1:
        starts, ends = op.attr("starts"), op.attr("ends")
        axes = op.attr("axes") or list(range(len(starts)))
        return list(starts), list(ends), [a % rank for a in axes], [1] * len(starts)
    first, last = t.numbers(op.input(1)), t.numbers(op.input(2))
    named = t.integers(op.input(3)) if op.input(3) else None
    if named is None:
        if op.input(3):
            raise NoRule("its axes are computed in the graph")
        if first is None:
            raise NoRule("its axes are not known")
        named = list(range(len(first)))
    steps = t.integers(op.input(4)) if op.input(4) else [1] * len(named)
    unknown: list[int | None] = [None] * len(named)
    begin = unknown if first is None else [None if e.value is None else int(e.value) for e in first]
    stop = unknown if last is None else [None if e.value is None else int(e.value) for e in last]
    return begin, stop, [a % rank for a in named], steps or [0] * len(named)


def _write_slice(t: Tracker, op: Operator, starts: list[int | None], ends: list[int | None]) -> None:
    if len(op.inputs) > 1:
        t.rewrite(op, 1, starts)
        t.rewrite(op, 2, ends)
        return
    for name, new in (("starts", starts), ("ends", ends)):
        old = op.attr(name)
        t.set_attr(op, name, [o if n is None else n for o, n in zip(old, new, strict=True)])


@rule(RULES, "Pad")
def pad(t: Tracker, op: Operator) -> None:
    """Spatial padding passes; padding of the channel axis shifts the channels."""
    axes = t.axes(op.input(0))
    if all(isinstance(units, int) for units in axes):
        t.set(op, 0, axes)
        return
    numbers = op.attr("pads") or op.attr("paddings") if len(op.inputs) == 1 else t.integers(op.input(1))
    named = t.integers(op.input(3)) if op.input(3) else list(range(len(axes)))
    if named is None or (numbers is None and not _spatial_pads(t, op, axes)):
        raise NoRule("its padding is computed in the graph")
    out = list(axes)
    for position, axis in enumerate(named):
        units = axes[axis]
        if numbers is None or isinstance(units, int):
            continue
        before, after = numbers[position], numbers[position + len(named)]
        if before == after == 0:
            continue
        if (
            before < 0
            or after < 0
            or before + after > LONGEST_AXIS
            or op.attr("mode", "constant") != "constant"
        ):
            raise NoRule("it crops or mirrors channels")
        zeros = t.frozen(f"channels of zeros that Pad {shown(op.name)} adds")
        out[axis] = np.concatenate([np.full(before, zeros, np.int64), units, np.full(after, zeros, np.int64)])
    t.set(op, 0, out)


def _spatial_pads(t: Tracker, op: Operator, axes: list[Axis]) -> bool:
    """Whether a computed padding leaves every axis with channels as long as it was."""
    return all(
        isinstance(units, int)
        or (isinstance(t.dim(op.input(0), k), int) and t.dim(op.input(0), k) == t.dim(op.outputs[0], k))
        for k, units in enumerate(axes)
    )
