"""Slice: a run of positions of an axis, or every n-th one, forwards or backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import CONTRADICTION, Ids, NoRule, Tracker
from conet_graph.passes.rules.conv import tie_rows
from conet_graph.passes.rules.registry import Table

RULES: Table = {}

# Exporters write the largest 32- or 64-bit integer for "to the end".
OPEN_END = 2**31 - 1
COMPUTED_STEPS = "its steps are computed in the graph"


@dataclass(frozen=True)
class Cut:
    """What a Slice does to one axis: the numbers as the file has them."""

    start: int
    end: int
    step: int


@handles(RULES, "Slice")
def slice_(t: Tracker, op: Operator) -> None:
    """Axes with channels are cut one by one; the numbers follow."""
    axes = t.axes(op.input(0))
    starts, ends, named, steps = _numbers(t, op, len(axes))
    new_starts: list[int | None] = [None] * len(named)
    new_ends: list[int | None] = [None] * len(named)
    for position, axis in enumerate(named):
        units, length = axes[axis], t.dim(op.input(0), axis)
        if isinstance(units, int):
            continue
        start, end, step = starts[position], ends[position], steps[position]
        if start is None or end is None or not isinstance(length, int):
            raise NoRule("it cuts channels at places computed in the graph")
        if not step:
            raise NoRule(CONTRADICTION if op.input(4) and t.integers(op.input(4)) else COMPUTED_STEPS)
        cut = Cut(start, end, step)
        axes[axis], new_starts[position], new_ends[position] = _cut(t, op, axis, units, length, cut)
    t.set(op, 0, axes)
    _write(t, op, new_starts, new_ends)


def _cut(
    t: Tracker, op: Operator, axis: int, units: Ids, length: int, cut: Cut
) -> tuple[Ids, int | None, int | None]:
    """What is left of an axis, and the new start and end; None where the file's number stays true.

    A cut with a step of n takes one channel of each block of n. The channels of a block go or are copied
    together, as blocks; what lies before the first block and behind the last one is free. Behind the last
    pick fewer than n channels may be left: that pick then stays single. A cut backwards is one forwards
    along the reversed axis.
    """
    picks = range(length)[cut.start : cut.end : cut.step]
    back, step = cut.step < 0, abs(cut.step)
    origin = t.origin(op.input(0), axis, units)
    first = (length - 1 - picks.start if back else picks.start) if picks else 0
    along, place = (units[::-1], length - 1 - origin[::-1]) if back else (units, origin)
    blocks = len(picks) if first + len(picks) * step <= length else len(picks) - 1
    stop = first + blocks * step
    single = blocks < len(picks)
    edges = [first, stop, *([stop + 1] if single else [])]
    piece = np.searchsorted(edges, place, side="right")
    t.keep_together(op, units, piece[::-1].max(initial=0) - piece[::-1] if back else piece)
    inside, last = along[piece == 1], along[piece == 2] if single else along[:0]
    if single:
        t.freeze(op, last, "a slice with a step ends at this channel")
    if len(inside) % step:
        raise NoRule("its step does not divide the channels")
    taken = tie_rows(t, op, inside.reshape(-1, step).T) if step > 1 and len(inside) else inside
    chosen = np.concatenate([taken, last])
    begin = int(np.count_nonzero(piece == 0))
    whole = begin + len(inside) + len(last) == len(units)
    return chosen, *_bounds(cut, begin, len(chosen), len(units), whole)


def _bounds(cut: Cut, begin: int, count: int, length: int, whole: bool) -> tuple[int | None, int | None]:
    """Start and end of a cut of ``count`` positions from ``begin`` on, counted the way it goes.

    Args:
        cut: the numbers that the file has; "from the first" and "to the last" stay as they stand.
        begin: how many positions lie before the cut.
        count: how many it takes.
        length: how many the axis has.
        whole: whether nothing is left behind the cut.

    """
    behind = begin + (count - 1) * abs(cut.step) + 1 if count else begin
    if cut.step > 0:
        return (None if cut.start == begin == 0 else begin), (
            None if cut.end >= OPEN_END and whole else behind
        )
    from_last = begin == 0 and (cut.start >= OPEN_END or cut.start == -1)
    start, end = length - 1 - begin, length - 1 - behind
    if cut.end <= -OPEN_END and whole:
        return (None if from_last else start), None
    # -1 would mean the last position: one before the first is written as minus the length, less one.
    return (None if from_last else start), (end if end >= 0 else -length - 1)


def _numbers(
    t: Tracker, op: Operator, rank: int
) -> tuple[list[int | None], list[int | None], list[int], list[int]]:
    """Starts, ends, axes and steps: attributes before opset 10, then inputs."""
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


def _write(t: Tracker, op: Operator, starts: list[int | None], ends: list[int | None]) -> None:
    if len(op.inputs) > 1:
        t.rewrite(op, 1, starts)
        t.rewrite(op, 2, ends)
        return
    for name, new in (("starts", starts), ("ends", ends)):
        old = op.attr(name)
        t.set_attr(op, name, [o if n is None else n for o, n in zip(old, new, strict=True)])
