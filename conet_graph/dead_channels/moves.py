"""Facts of positions that are carried elsewhere: reshaped, sliced, pooled, concatenated."""

from __future__ import annotations

import numpy as np

from conet_graph.dead_channels.alike import Ids, Numbers, alike, bucket_of
from conet_graph.dead_channels.facts import Along, Facts, combined
from conet_graph.ir.graph import Operator

# Elsewhere a rule may give a position the unit of a channel that is only tied to the one it holds, or
# several channels end up as the pixels of one: then the class alone tells what there may be.
REGROUPING = frozenset(
    (
        *("DepthToSpace", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth", "Split"),
        "Tile",
    )
)


def moved(facts: Facts, op: Operator) -> None:
    """Operators that only say where numbers go: every output holds numbers of the first input."""
    fact = facts.of(op.input(0))
    for output, name in enumerate(op.outputs):
        along = {}
        for axis in facts.axes(name, op.inputs[:1]):
            ids = facts.ids(name, axis)
            found = None if ids is None else _carried(facts, op, ids)
            if found is not None:
                along[axis] = found
        facts.say(op, fact.low, fact.high, along, output)


def _carried(facts: Facts, op: Operator, ids: Ids) -> Along | None:
    """The positions of an axis of an output, found in the input by the channels that they carry."""
    name = op.input(0)
    known, parts = [], []
    for axis in range(facts.rank(name) or 0):
        mine, found = facts.ids(name, axis), facts.along(name, axis)
        if mine is not None and found is not None:
            known.append(mine)
            parts.append(found)
    if not known:
        return None
    have = np.concatenate(known)
    classes = facts.units.classes
    if op.op_type not in REGROUPING and np.isin(ids, have).all():
        return _looked_up(ids, have, parts)
    if np.isin(classes[ids], classes[have]).all():
        return _looked_up(classes[ids], classes[have], parts)
    return None


def _looked_up(wanted: Ids, given: Ids, parts: list[Along]) -> Along:
    low, high = np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts])
    kinds, factors = np.concatenate([p.kind for p in parts]), np.concatenate([p.factor for p in parts])
    order = np.argsort(given, kind="stable")
    found, start, times = np.unique(given[order], return_index=True, return_counts=True)
    at = np.searchsorted(found, wanted)
    least, most = np.minimum.reduceat(low[order], start)[at], np.maximum.reduceat(high[order], start)[at]
    turn = _turns(wanted)
    alone = (times[at] == 1) & (len(parts) == 1)
    source = order[start[at]]
    # Positions that carry one channel (its pixels) differ; so do those that several places may have filled.
    bucket = bucket_of(np.where(alone, kinds[source], -1 - np.arange(len(wanted))), turn)
    one = np.ones((len(wanted), 1))
    return combined(least, most, one, bucket, np.where(alone, factors[source], 1.0))


def _turns(wanted: Ids) -> Ids:
    """How often each entry has occurred before it."""
    order = np.argsort(wanted, kind="stable")
    ordered = wanted[order]
    first = np.searchsorted(ordered, ordered, side="left")
    turns = np.empty(len(wanted), np.int64)
    turns[order] = np.arange(len(wanted)) - first
    return turns


def concatenated(facts: Facts, op: Operator) -> None:
    """Several inputs side by side along an axis."""
    names, rank = op.inputs, facts.rank(op.outputs[0]) or 0
    bounds = {(facts.of(name).low, facts.of(name).high) for name in names}
    if len(bounds) == 1 and facts.plain(*names):
        facts.say(op, *bounds.pop(), {})
        return
    along_axis = int(op.attr("axis", 1)) % max(rank, 1)
    along = {}
    for axis in range(rank):
        ids = facts.ids(op.outputs[0], axis)
        parts = [] if ids is None else [facts.along(name, axis) for name in names]
        if axis == along_axis:
            joined = _side_by_side(facts, names, axis, parts)
        else:
            joined = _one_behind_another([p for p in parts if p is not None], len(parts))
        if joined is not None:
            along[axis] = joined
    low = min(facts.of(n).low for n in names)
    facts.say(op, low, max(facts.of(n).high for n in names), along)


def _side_by_side(facts: Facts, names: list[str], axis: int, parts: list[Along | None]) -> Along | None:
    lows: list[Numbers] = []
    highs: list[Numbers] = []
    for name, part in zip(names, parts, strict=False):
        shape = facts.graph.shape(name)
        length = len(part) if part is not None else shape[axis] if shape is not None else None
        if not isinstance(length, int):
            return None
        fact = facts.of(name)
        lows.append(part.low if part is not None else np.full(length, fact.low))
        highs.append(part.high if part is not None else np.full(length, fact.high))
    if not parts:
        return None
    kinds, factors, start = [], [], 0
    for part, low in zip(parts, lows, strict=True):
        kinds.append(start + (np.arange(len(low)) if part is None else part.kind))
        factors.append(np.ones(len(low)) if part is None else part.factor)
        start += len(low)
    return Along(np.concatenate(lows), np.concatenate(highs), np.concatenate(kinds), np.concatenate(factors))


def _one_behind_another(parts: list[Along], wanted: int) -> Along | None:
    if not parts or len(parts) != wanted or len({len(p) for p in parts}) != 1:
        return None
    low, high = np.min([p.low for p in parts], axis=0), np.max([p.high for p in parts], axis=0)
    columns = [column for p in parts for column in (p.kind, p.factor)]
    return combined(low, high, np.ones((len(low), 1)), bucket_of(*columns), np.ones(len(low)))


def pooled(facts: Facts, op: Operator) -> None:
    """Every number of the output is the mean, or the largest, of some numbers of its channel."""
    mean = "Average" in op.op_type or op.op_type in ("ReduceMean", "Resize", "Upsample")
    padded = bool(op.attr("count_include_pad", 0))
    fact, along = facts.of(op.input(0)), {}
    for axis in facts.axes(op.outputs[0], op.inputs[:1]):
        ids = facts.ids(op.outputs[0], axis)
        found = None if ids is None else _carried(facts, op, ids)
        if found is not None:
            along[axis] = _pooled(found, mean, padded)
    low, high = (min(fact.low, 0.0), max(fact.high, 0.0)) if padded else (fact.low, fact.high)
    facts.say(op, low, high, along)


def _pooled(found: Along, mean: bool, padded: bool) -> Along:
    low = np.minimum(found.low, 0.0) if padded else found.low
    high = np.maximum(found.high, 0.0) if padded else found.high
    # The largest of multiples is a multiple where the factor is positive.
    bucket = found.kind if mean else bucket_of(found.kind, np.sign(found.factor))
    kind, factor = alike(np.ones((len(found), 1)), bucket, found.factor)
    return Along(low, high, kind, factor)


def resized(facts: Facts, op: Operator) -> None:
    """Numbers of a channel, or between them; a cubic curve goes beyond them."""
    beyond = op.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if op.attr("mode", "nearest") != "cubic" and not beyond:
        pooled(facts, op)


def padded(facts: Facts, op: Operator) -> None:
    """Pad: a channel's numbers, and around them the value that fills (zero if it is not known)."""
    value = 0.0
    if str(op.attr("mode", "constant")) == "constant":
        given = (
            op.attr("value", 0.0) if not op.input(1) else facts.scalar(op.input(2)) if op.input(2) else 0.0
        )
        if given is None:
            return
        value = float(given)
    else:
        moved(facts, op)
        return
    fact, along = facts.of(op.input(0)), {}
    for axis in facts.axes(op.outputs[0], op.inputs[:1]):
        ids = facts.ids(op.outputs[0], axis)
        mine = facts.ids(op.input(0), axis)
        # Channels that it adds hold the value alone, whatever they are tied to.
        same = ids is not None and mine is not None and len(ids) == len(mine)
        found = _carried(facts, op, ids) if ids is not None and same else None
        if found is not None:
            bucket = found.kind if value == 0 else np.arange(len(found))
            low, high = np.minimum(found.low, value), np.maximum(found.high, value)
            along[axis] = combined(low, high, np.ones((len(found), 1)), bucket, found.factor)
    facts.say(op, min(fact.low, value), max(fact.high, value), along)
