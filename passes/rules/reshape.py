"""Operators that merge and split axes: Reshape, Flatten, DepthToSpace, SpaceToDepth, ConstantOfShape.

A Reshape keeps the row-major order, so its axes fall into *segments*: runs of input axes whose
product is that of a run of output axes. Inside a segment a merge repeats units (over what lies behind
the axis) and tiles them (over what lies before it); a split keeps one factor free and ties units across
the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Dim, Operator, Shape
from conet_graph.ir.op_table import enter as rule
from conet_graph.passes.channels.units import LONGEST_AXIS, Axis, Ids, NoRule, Tracker
from conet_graph.passes.rules.conv import in_groups, pixel_axes, tie_rows
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@dataclass(frozen=True)
class Segment:
    """Input axes and output axes with one product; ``known`` says whether that is sure."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    known: bool = True


def segments(old: Shape, new: Shape, zeros: set[int]) -> list[Segment]:
    """Split a Reshape into segments, from both ends towards the middle.

    Args:
        old: the input's shape.
        new: the output's shape.
        zeros: output axes that copy the input's axis of the same number.

    """
    i, j, front = 0, 0, []
    while i < len(old) and j < len(new):
        step = _match(old, new, range(i, len(old)), range(j, len(new)), zeros)
        if step is None:
            break
        front.append(step)
        i, j = i + len(step.ins), j + len(step.outs)
    m, n, back = len(old), len(new), []
    while m > i and n > j:
        step = _match(old, new, range(m - 1, i - 1, -1), range(n - 1, j - 1, -1), zeros)
        if step is None:
            break
        back.append(Segment(step.ins[::-1], step.outs[::-1]))
        m, n = m - len(step.ins), n - len(step.outs)
    middle: list[Segment] = []
    if i < m or j < n:
        ins, outs = tuple(range(i, m)), tuple(range(j, n))
        known = all(old[k] == 1 for k in ins) and all(new[k] == 1 for k in outs)
        middle = [Segment(ins, outs, known)]
    return [*front, *middle, *back[::-1]]


def _match(old: Shape, new: Shape, ins: range, outs: range, zeros: set[int]) -> Segment | None:
    """The shortest segment at one end, or None where unknown sizes stand in the way."""
    if _same(old[ins[0]], new[outs[0]]) or (ins[0] == outs[0] and outs[0] in zeros):
        return Segment((ins[0],), (outs[0],))
    a, b, took_a, took_b = old[ins[0]], new[outs[0]], 1, 1
    if a == 1 and not isinstance(b, int):
        return Segment((ins[0],), ())
    if b == 1 and not isinstance(a, int):
        return Segment((), (outs[0],))
    while True:
        if not isinstance(a, int) or not isinstance(b, int) or a == 0 or b == 0:
            return None
        if a == b:
            return Segment(tuple(ins[:took_a]), tuple(outs[:took_b]))
        if a < b:
            if took_a == len(ins):
                return None
            step = old[ins[took_a]]
            a, took_a = a * step if isinstance(step, int) else None, took_a + 1
        else:
            if took_b == len(outs):
                return None
            step = new[outs[took_b]]
            b, took_b = b * step if isinstance(step, int) else None, took_b + 1


def _same(a: Dim, b: Dim) -> bool:
    return a is not None and a == b


@rule(RULES, "Reshape")
def reshape(t: Tracker, op: Operator) -> None:
    """Reshape(data, shape); opset 4 and older hold the shape in an attribute."""
    result = t.graph.shape(op.outputs[0])
    if result is None:
        raise NoRule("the shape of its output is not known")
    entries = t.numbers(op.input(1)) if op.input(1) else None
    if entries is None and op.attr("shape") is not None:
        target: list[int | None] = list(op.attr("shape"))
    elif entries is None:
        target = [None] * len(result)
    else:
        target = [None if e.value is None else int(e.value) for e in entries]
    zeros = {k for k, n in enumerate(target) if n == 0 and not op.attr("allowzero", 0)}
    out = regroup(t, op, result, zeros)
    wanted: list[int | None] = [None] * len(out)
    for k, units in enumerate(out):
        if isinstance(units, int) or target[k] == -1:
            continue
        source = t.axis(op.input(0), k) if k in zeros else 0
        if k not in zeros or (isinstance(source, int) or len(source) != len(units)):
            wanted[k] = len(units)
    if op.input(1):
        t.rewrite(op, 1, wanted)
    else:
        t.set_attr(op, "shape", [n if w is None else w for n, w in zip(target, wanted, strict=True)])
    t.set(op, 0, out)


@rule(RULES, "Flatten")
def flatten(t: Tracker, op: Operator) -> None:
    """Flatten to two axes at ``axis``."""
    x = op.input(0)
    rank = t.rank(x)
    axis = op.attr("axis", 1)
    axis = axis + rank if axis < 0 else axis
    out: list[Axis] = []
    for part in (range(axis), range(axis, rank)):
        carried = [k for k in part if not isinstance(t.axis(x, k), int)]
        if not carried:
            out.append(0)
            continue
        out.append(_merge(t, op, tuple(part)))
    t.set(op, 0, out)


def regroup(t: Tracker, op: Operator, result: Shape, zeros: set[int]) -> list[Axis]:
    """The output axes of a reshape of the first input to ``result``."""
    x = op.input(0)
    old = t.graph.shape(x)
    if old is None:
        raise NoRule("the shape of its input is not known")
    out: list[Axis] = [0] * len(result)
    for number, part in enumerate(segments(old, result, zeros)):
        carried = [k for k in part.ins if not isinstance(t.axis(x, k), int)]
        if not carried:
            continue
        if not part.known:
            raise NoRule("it mixes channels with sizes that only the run knows")
        if len(part.ins) == 1 and len(part.outs) == 1:
            out[part.outs[0]] = t.axis(x, part.ins[0])
            continue
        long = [k for k in part.outs if result[k] != 1]
        if not long:
            if not part.outs:
                for k in carried:
                    t.freeze(op, t.axis(x, k), f"{op.op_type} {shown(op.name)} drops its one channel")
                continue
            long = [part.outs[0]]
        merged = _merge(t, op, part.ins)
        if len(long) == 1:
            out[long[0]] = merged
        else:
            sizes = [int(result[k] or 1) for k in long]
            chosen, units = _divide(t, op, number, merged, sizes)
            out[long[chosen]] = units
    return out


def _merge(t: Tracker, op: Operator, ins: tuple[int, ...]) -> Ids:
    """Merge axes of the first input that carry channels, the longest of which stays as it is.

    Raises:
        NoRule: a size is not known.

    """
    x = op.input(0)
    carried = [k for k in ins if not isinstance(t.axis(x, k), int)]
    if len(carried) > 1:
        # A product of two free sizes is no size of ours: the longest axis stays free; of a weight's,
        # whose kernel positions are no channels, the first.
        weight = t.is_weight(x)
        long = [k for k in carried if t.dim(x, k) != 1]
        kept = max(carried, key=lambda k: (_length(t.dim(x, k)), -k))
        kept = long[0] if weight and long else kept
        for k in carried:
            if k != kept:
                what = "one channel" if t.dim(x, k) == 1 else "channels"
                reason = f"{op.op_type} {shown(op.name)} merges its {what} into a longer axis"
                t.freeze(op, t.axis(x, k), reason)
        carried = [kept]
    at = ins.index(carried[0])
    units = t.axis(x, carried[0])
    before = [t.dim(x, k) for k in ins[:at]]
    after = [t.dim(x, k) for k in ins[at + 1 :]]
    if isinstance(units, int) or not all(isinstance(d, int) for d in [*before, *after]):
        raise NoRule("it merges channels with sizes that only the run knows")
    inner = math.prod(d for d in after if isinstance(d, int))
    outer = math.prod(d for d in before if isinstance(d, int))
    if len(units) * inner * outer > LONGEST_AXIS:
        raise NoRule("the merged axis is too long")
    return np.tile(np.repeat(units, inner), outer)


def _length(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0


def _divide(t: Tracker, op: Operator, number: int, merged: Ids, sizes: list[int]) -> tuple[int, Ids]:
    """Split a merged axis into factors, one of which stays free; units are tied across the others."""
    key = (op.index, number)
    if key not in t.choices:
        merits = [_merit(merged, sizes, q) for q in range(len(sizes))]
        best = max(range(len(sizes)), key=lambda q: merits[q])
        # Nothing says how a merged weight falls apart: channels stand before kernel positions.
        unsaid = not merits[best][0] and t.is_weight(op.input(0))
        t.choices[key] = 0 if unsaid else best
    free = t.choices[key]
    outer, inner = math.prod(sizes[:free]), math.prod(sizes[free + 1 :])
    if len(merged) % (outer * inner):
        raise NoRule("its factors do not divide the channels")
    table = merged.reshape(outer, -1, inner).transpose(0, 2, 1).reshape(outer * inner, -1)
    return free, tie_rows(t, op, table)


def _merit(merged: Ids, sizes: list[int], free: int) -> tuple[bool, bool, int, int]:
    """How well a factor serves as the free one: no new ties, then not all tied to one, then many units."""
    outer, inner = math.prod(sizes[:free]), math.prod(sizes[free + 1 :])
    cube = merged.reshape(outer, sizes[free], inner)
    agrees = bool((cube == cube[:1, :, :1]).all())
    units = len(np.unique(cube[0, :, 0])) if agrees else sizes[free]
    return agrees and units > 1, not _is_repeated(cube), units, free


def _is_repeated(cube: Ids) -> bool:
    """Whether the middle axis of a cube holds one unit many times, everywhere: it counts no channels."""
    return cube.shape[1] > 1 and bool((cube == cube[:, :1, :]).all())


@rule(RULES, "DepthToSpace")
def depth_to_space(t: Tracker, op: Operator) -> None:
    """Blocks of channels become pixels: DCR stores them with a stride, CRD side by side."""
    axes = t.axes(op.input(0))
    block = op.attr("blocksize", 1) ** 2
    units = axes[1]
    if not isinstance(units, int):
        if op.attr("mode", "DCR") == "DCR":
            units = tie_rows(t, op, in_groups(units, block))
        else:
            if len(units) % block:
                raise NoRule("its block size does not divide the channels")
            units = tie_rows(t, op, units.reshape(-1, block).T)
    t.set(op, 0, [axes[0], units, *pixel_axes(t, op, op.input(0))])


@rule(RULES, "SpaceToDepth")
def space_to_depth(t: Tracker, op: Operator) -> None:
    """Pixels become channels, a whole set of channels for each place in a block."""
    axes = t.axes(op.input(0))
    units = axes[1]
    if not isinstance(units, int):
        block = op.attr("blocksize", 1) ** 2
        if len(units) * block > LONGEST_AXIS:
            raise NoRule("its block size is not sensible")
        units = np.tile(units, block)
    t.set(op, 0, [axes[0], units, *pixel_axes(t, op, op.input(0))])


@rule(RULES, "ConstantOfShape")
def constant_of_shape(t: Tracker, op: Operator) -> None:
    """A tensor of one value: its axes are as free as the numbers of its shape."""
    sizes = t.integers(op.input(0))
    if sizes is None:
        result = t.graph.shape(op.outputs[0])
        if result is None:
            raise NoRule("its shape is computed in the graph")
        t.set(op, 0, [0] * len(result))
        return
    t.set(op, 0, [t.generate(op, op.outputs[0], k, 0, n) if n > 1 else 0 for k, n in enumerate(sizes)])
