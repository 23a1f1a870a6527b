"""Channels merged with pixels or images in a Reshape: sizes of images change nothing, even unknown ones.

A group norm written as Reshape merges the channels of a group with all pixels, some networks merge channels
into the batch. Position by position such an axis grows with the image; packed, it does not.
"""

from __future__ import annotations

import math

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Dim, Operator, Shape
from conet_graph.passes.channels.units import LONGEST_AXIS, Axis, Packed, Tracker
from conet_graph.passes.rules.conv import in_groups, tie_rows
from conet_graph.passes.rules.readers import votes

# Merged axes with more positions than this are packed.
LONG_MERGED = 2**16

Through = tuple[int, Axis | Packed]


def through_pixels(
    t: Tracker, op: Operator, ins: tuple[int, ...], outs: tuple[int, ...], result: Shape, known: bool
) -> Through | None:
    """The output axis that carries the channels of a part of a Reshape, and what it carries.

    Args:
        t: the tracker.
        op: the Reshape.
        ins: axes of its first input, with one product.
        outs: axes of its output, with the same product.
        result: the output's shape.
        known: whether the products are known; if they are, and small, there is nothing to do here.

    Returns:
        None where another way must be found.

    """
    x = op.input(0)
    carried = [k for k in ins if not isinstance(t.whole(x, k), int)]
    for k in carried if len(carried) > 1 else ():
        axis = t.whole(x, k)
        if t.dim(x, k) == 1 and not isinstance(axis, Packed):
            t.freeze(op, axis, f"{op.op_type} {shown(op.name)} merges this one channel with others")
    carried = [k for k in carried if len(carried) == 1 or t.dim(x, k) != 1]
    if len(carried) != 1:
        return None
    at = carried[0]
    before, after = [[t.dim(x, k) for k in ins if (k < at) == first and k != at] for first in (True, False)]
    long = [k for k in outs if result[k] != 1]
    axis = t.whole(x, at)
    if isinstance(axis, Packed):
        return _unfold(axis, before, after, long, result)
    length = t.dim(x, at)
    if isinstance(axis, int) or not isinstance(length, int) or not long:
        return None
    if known and length * math.prod(d for d in (*before, *after) if isinstance(d, int)) <= LONG_MERGED:
        return None
    if all(d == 1 for d in before):
        return _into_pixels(t, op, axis, length, after, long, result)
    return _into_images(t, op, axis, length, before, after, long, result)


def folded(t: Tracker, op: Operator, part: tuple[int, ...]) -> Packed | None:
    """Axes merged into one, where that is long or its length is not known; None elsewhere."""
    x = op.input(0)
    found = through_pixels(t, op, part, (0,), (None,), all(isinstance(t.dim(x, k), int) for k in part))
    return found[1] if found is not None and isinstance(found[1], Packed) else None


def _product(sizes: list[Dim]) -> int | None:
    numbers = [d for d in sizes if isinstance(d, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _into_pixels(
    t: Tracker,
    op: Operator,
    units: Axis,
    length: int,
    after: list[Dim],
    long: list[int],
    result: Shape,
) -> Through | None:
    """[channels, pixels] becomes [groups, channels of a group times pixels]."""
    groups = _product([result[k] for k in long[:-1]])
    if isinstance(units, int) or groups is None or length % groups or groups == length:
        return None
    row = tie_rows(t, op, in_groups(units, groups)) if groups > 1 else units
    return long[-1], Packed(row, length // groups, _product(after))


def _into_images(
    t: Tracker,
    op: Operator,
    units: Axis,
    length: int,
    before: list[Dim],
    after: list[Dim],
    long: list[int],
    result: Shape,
) -> Through | None:
    """[images, channels] becomes [images times groups, channels of a group]; pixels may be merged, too."""
    if isinstance(units, int):
        return None
    if any(d != 1 for d in after):
        pixels, rest = _product(after), _product([result[k] for k in long[1:]])
        if pixels is None or rest is None or pixels % rest:
            return None
        return long[0], Packed(units, length, pixels // rest, _product(before))
    if len(long) == 1:
        return long[0], Packed(units, length, 1, _product(before))
    inner = result[long[1]]
    if len(long) > 2 or not isinstance(inner, int):
        return None
    if inner % length == 0:
        return long[1], np.tile(units, inner // length)
    if length % inner:
        return None
    told = votes(t, op.outputs[0])
    if told[long[0]] > told[long[1]]:
        # [images times channels, parts of a channel]
        row = tie_rows(t, op, units.reshape(-1, inner).T)
        return long[0], Packed(row, length // inner, 1, _product(before))
    return long[1], tie_rows(t, op, in_groups(units, length // inner))


def _unfold(
    axis: Packed, before: list[Dim], after: list[Dim], long: list[int], result: Shape
) -> Through | None:
    """Packed channels come apart again, or are merged further."""
    outer = _product(before)
    if axis.times == 1 and outer is not None:
        if len(axis.units) * outer > LONGEST_AXIS:
            return None
        whole = Packed(np.tile(axis.units, outer), axis.length * outer, axis.each)
        if len(long) == 1 and all(d == 1 for d in after):
            return long[0], whole
        if long and result[long[0]] == whole.length:
            return long[0], whole.units
        if len(long) > 1 and result[long[0]] == outer and result[long[1]] == axis.length:
            return long[1], axis.units
        return None
    pixels = _product(after)
    if axis.each is None or pixels is None or any(d != 1 for d in before):
        return None
    for place, k in enumerate(long):
        behind = _product([result[j] for j in long[place + 1 :]])
        if result[k] == axis.length and behind == axis.each * pixels:
            return k, axis.units
    return None
