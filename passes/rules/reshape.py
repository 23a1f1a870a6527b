"""Operators that merge and split axes: Reshape, Flatten, DepthToSpace, SpaceToDepth, ConstantOfShape.

A Reshape keeps the row-major order, so its axes fall into *segments*: runs of input axes whose
product is that of a run of output axes. Inside a segment a merge repeats units (over what lies behind
the axis) and tiles them (over what lies before it); a split keeps one factor free and ties units across
the others.
"""

from __future__ import annotations

import math

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Dim, Operator, Shape
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.channels.units import (
    CONTRADICTION,
    LONGEST_AXIS,
    Axis,
    Ids,
    NoRule,
    Packed,
    Tracker,
    length_of,
)
from conet_graph.passes.rules.conv import in_groups, pixel_axes, tie_rows
from conet_graph.passes.rules.pixels import folded, through_pixels
from conet_graph.passes.rules.readers import votes
from conet_graph.passes.rules.registry import Table
from conet_graph.passes.rules.segments import Segment, segments
from conet_graph.passes.shapes.size_products import product, quotient

RULES: Table = {}

UNKNOWN_SIZES = "it mixes channels with sizes that only the run knows"


@handles(RULES, "Reshape")
def reshape(t: Tracker, op: Operator) -> None:
    """Reshape(data, shape); opset 4 and older hold the shape in an attribute."""
    result = t.graph.shape(op.outputs[0])
    if result is None:
        raise NoRule("the shape of its output is not known")
    entries = t.numbers(op.input(1)) if op.input(1) else None
    computed = [e.source is not None and e.source[0] == "size" and e.source[2] > 0 for e in entries or ()]
    if entries is None and op.attr("shape") is not None:
        target: list[int | None] = list(op.attr("shape"))
    elif entries is None:
        target = [None] * len(result)
    else:
        target = [None if e.value is None else int(e.value) for e in entries]
    zeros = {k for k, n in enumerate(target) if n == 0 and not op.attr("allowzero", 0)}
    out = regroup(t, op, result, zeros)
    wanted: list[Axis | Packed | None] = [None] * len(out)
    for k, units in enumerate(out):
        if isinstance(units, int) or target[k] == -1:
            continue
        if target[k] is None and any(computed[k : k + 1]):
            raise NoRule("a number in the graph counts its channels times sizes that only the run knows")
        source = t.whole(op.input(0), k) if k in zeros else 0
        if isinstance(units, Packed):
            wanted[k] = None if k in zeros else units
            if k not in zeros and target[k] is not None and units.size is None:
                raise NoRule(UNKNOWN_SIZES)
        elif k not in zeros or (isinstance(source, int | Packed) or len(source) != len(units)):
            wanted[k] = units
    if op.input(1):
        t.lengths(op, 1, wanted)
    else:
        now = [length_of(axis) for axis in wanted]
        t.set_attr(op, "shape", [n if w is None else w for n, w in zip(target, now, strict=True)])
    t.set(op, 0, out)


@handles(RULES, "Flatten")
def flatten(t: Tracker, op: Operator) -> None:
    """Flatten to two axes at ``axis``."""
    x = op.input(0)
    rank = t.rank(x)
    axis = op.attr("axis", 1)
    axis = axis + rank if axis < 0 else axis
    out: list[Axis | Packed] = []
    for part in (tuple(range(axis)), tuple(range(axis, rank))):
        if all(isinstance(t.whole(x, k), int) for k in part):
            out.append(0)
        elif len(part) == 1:
            out.append(t.whole(x, part[0]))
        else:
            out.append(folded(t, op, part) or _merge(t, op, part))
    t.set(op, 0, out)


def regroup(t: Tracker, op: Operator, result: Shape, zeros: set[int]) -> list[Axis | Packed]:
    """The output axes of a reshape of the first input to ``result``."""
    x = op.input(0)
    old = t.graph.shape(x)
    if old is None:
        raise NoRule("the shape of its input is not known")
    out: list[Axis | Packed] = [0] * len(result)
    for number, part in enumerate(segments(old, result, zeros)):
        carried = [k for k in part.ins if not isinstance(t.whole(x, k), int)]
        if not carried:
            continue
        if len(part.ins) == 1 and len(part.outs) == 1 and part.known:
            out[part.outs[0]] = t.whole(x, part.ins[0])
            continue
        through = through_pixels(t, op, part.ins, part.outs, result, part.known)
        if through is not None:
            out[through[0]] = through[1]
            continue
        if not part.known:
            k, units = _past_images(t, op, number, part, result)
            out[k] = units
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
            chosen, units = _divide(t, op, number, merged, long, sizes)
            out[long[chosen]] = units
    return out


def _past_images(t: Tracker, op: Operator, number: int, part: Segment, result: Shape) -> tuple[int, Ids]:
    """[images, groups, channels] from [images times groups, channels], or the other way round.

    Raises:
        NoRule: it is neither.

    """
    x = op.input(0)
    carried = [k for k in part.ins if not isinstance(t.whole(x, k), int)]
    at = carried[0]
    before = product(t.dim(x, k) for k in part.ins if k < at)
    after = product(t.dim(x, k) for k in part.ins if k > at)
    units = t.whole(x, at)
    if (
        len(carried) > 1
        or isinstance(units, int | Packed)
        or not isinstance(after, int)
        or len(part.outs) < 2
    ):
        raise NoRule(UNKNOWN_SIZES)
    if not isinstance(product(result[k] for k in part.outs[1:]), int):
        raise NoRule(UNKNOWN_SIZES)
    into, out_of = quotient(before, result[part.outs[0]]), quotient(result[part.outs[0]], before)
    if isinstance(into, int) and len(units) * after * into <= LONGEST_AXIS:
        merged = np.tile(np.repeat(units, after), into)
    elif isinstance(out_of, int) and len(units) % out_of == 0 and len(units) * after <= LONGEST_AXIS:
        merged = np.repeat(tie_rows(t, op, in_groups(units, out_of)), after)
    else:
        raise NoRule(UNKNOWN_SIZES)
    long = [k for k in part.outs[1:] if result[k] != 1] or [part.outs[-1]]
    if len(long) == 1:
        return long[0], merged
    chosen, divided = _divide(t, op, number, merged, long, [int(result[k] or 1) for k in long])
    return long[chosen], divided


def _merge(t: Tracker, op: Operator, ins: tuple[int, ...]) -> Ids:
    """Merge axes of the first input that carry channels, one of which may change.

    Raises:
        NoRule: a size is not known.

    """
    x = op.input(0)
    carried = [k for k in ins if not isinstance(t.axis(x, k), int)]
    if len(carried) > 1:
        kept = _kept(t, op, carried)
        for k in carried:
            if k != kept:
                what = "one channel" if t.dim(x, k) == 1 else "channels"
                reason = f"{op.op_type} {shown(op.name)} merges its {what} with others that may change"
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


def _kept(t: Tracker, op: Operator, carried: list[int]) -> int:
    """Which of several axes of the first input may change when they are merged.

    A product of two free sizes is no size of ours. One that can be free comes first, then the longest; of
    a weight's axes, whose kernel positions are no channels, the first.
    """
    x, key = op.input(0), (op.index, ~carried[0])
    if key not in t.choices:
        long = [k for k in carried if t.dim(x, k) != 1]
        if t.is_weight(x) and long:
            t.choices[key] = long[0]
        else:
            t.choices[key] = max(carried, key=lambda k: (t.standing(t.axis(x, k)), _length(t.dim(x, k)), -k))
    return t.choices[key]


def _length(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 0


def _divide(
    t: Tracker, op: Operator, number: int, merged: Ids, axes: list[int], sizes: list[int]
) -> tuple[int, Ids]:
    """Split a merged axis into factors, one of which stays free; units are tied across the others.

    That is the factor in whose terms the axis was merged before, else the one that is read as channels.
    """
    key = (op.index, number)
    if key not in t.choices:
        if math.prod(sizes) != len(merged):
            raise NoRule(CONTRADICTION)
        told = votes(t, op.outputs[0])
        merits = [
            (_agrees(merged, sizes, q), not _is_repeated(merged, sizes, q), told[axes[q]], sizes[q], q)
            for q in range(len(sizes))
        ]
        best = max(range(len(sizes)), key=lambda q: merits[q])
        # Where nothing says how a merged weight falls apart, channels stand before kernel positions.
        unsaid = not merits[best][0] and told[axes[best]] <= 0 and t.is_weight(op.input(0))
        t.choices[key] = 0 if unsaid else best
    free = t.choices[key]
    outer, inner = math.prod(sizes[:free]), math.prod(sizes[free + 1 :])
    if len(merged) % (outer * inner):
        raise NoRule("its factors do not divide the channels")
    table = merged.reshape(outer, -1, inner).transpose(0, 2, 1).reshape(outer * inner, -1)
    return free, tie_rows(t, op, table)


def _agrees(merged: Ids, sizes: list[int], free: int) -> int:
    """How many units a factor would have if it were the free one and nothing new were tied; else 0."""
    outer, inner = math.prod(sizes[:free]), math.prod(sizes[free + 1 :])
    cube = merged.reshape(outer, sizes[free], inner)
    if not (cube == cube[:1, :, :1]).all():
        return 0
    units = len(distinct(cube[0, :, 0]))
    return units if units > 1 else 0


def _is_repeated(merged: Ids, sizes: list[int], free: int) -> bool:
    """Whether a factor holds one unit many times wherever it is looked at: it counts no channels."""
    cube = merged.reshape(math.prod(sizes[:free]), sizes[free], math.prod(sizes[free + 1 :]))
    return sizes[free] > 1 and bool((cube == cube[:, :1, :]).all())


@handles(RULES, "DepthToSpace")
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


@handles(RULES, "SpaceToDepth")
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


@handles(RULES, "Col2Im")
def col2im(t: Tracker, op: Operator) -> None:
    """Columns of blocks become an image: a channel is all numbers of a block, side by side."""
    x = op.input(0)
    block = t.integers(op.input(2))
    result = t.graph.shape(op.outputs[0])
    if block is None or result is None:
        raise NoRule("its block is not known")
    units = t.axis(x, 1)
    if not isinstance(units, int):
        if len(units) % math.prod(block):
            raise NoRule("its block does not divide the channels")
        units = tie_rows(t, op, units.reshape(-1, math.prod(block)).T)
    t.set(op, 0, [t.whole(x, 0), units, *[0] * (len(result) - 2)])
