"""Operators that pick and place by indices: Gather, Scatter and their kin, Trilu, OneHot."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import Axis, Ids, NoRule, Tracker
from conet_graph.passes.rules.held import hold, hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}

POSITIONS = "positions, not as channels"


@handles(RULES, "Gather")
def gather(t: Tracker, op: Operator) -> None:
    """Positions of an axis, by a list; a single one is picked for good.

    Where a feature map is the index (an activation as a table of its values), its axes pass. Where the graph
    computes the index (the tokens that a TopK chose), the axis it picks from stays.
    """
    data, where = op.input(0), op.input(1)
    rank = t.rank(data)
    axis = op.attr("axis", 0) % rank
    others = [0 if k == axis else t.axis(data, k) for k in range(rank)]
    units = t.axis(data, axis) if not t.is_constant(data) else 0
    if t.is_constant(data):
        t.bind(op, data, axis, t.frozen(f"a table that Gather {shown(op.name)} looks up"))
    middle = _index_axes(t, where) if isinstance(units, int) else _pick(t, op, units, axis, t.rank(where))
    t.set(op, 0, [*others[:axis], *middle, *others[axis + 1 :]])


def _pick(t: Tracker, op: Operator, units: Ids, axis: int, index_rank: int) -> list[Axis]:
    indices, length = t.integers(op.input(1)), t.dim(op.input(0), axis)
    if indices is None or index_rank > 1 or not isinstance(length, int):
        why = "by an index that is computed in the graph" if indices is None else "by a table of indices"
        t.freeze(op, units, f"Gather {shown(op.name)} picks from it {why}")
        return _index_axes(t, op.input(1))
    old = np.array([i % length for i in indices], np.int64)
    origin = t.origin(op.input(0), axis, units)
    first = {int(p): k for k, p in reversed(list(enumerate(origin.tolist())))}
    if index_rank == 0:
        if int(old[0]) in first:
            t.freeze(op, units[[first[int(old[0])]]], f"Gather {shown(op.name)} picks this one channel")
            t.rewrite(op, 1, [first[int(old[0])]])
        return []
    # New positions of each old one, in order; each entry of the list picks all copies of its channel.
    new_of: dict[int, list[int]] = {}
    for position, source in enumerate(origin.tolist()):
        new_of.setdefault(source, []).append(position)
    chosen = np.array([p for i in old.tolist() for p in new_of.get(i, [])], np.int64)
    t.replace_numbers(op, 1, chosen.tolist())
    return [units[chosen]]


@handles(RULES, "GatherElements")
def gather_elements(t: Tracker, op: Operator) -> None:
    """GatherElements(data, indices): a position along ``axis`` for each element of the output."""
    rank = t.rank(op.input(0))
    axis = op.attr("axis", 0) % rank
    hold_axis(t, op, 0, axis, POSITIONS)
    out = [_beside(t, op, 0, 1, k) if k != axis else _index_axis(t, op.input(1), axis) for k in range(rank)]
    t.set(op, 0, out)


@handles(RULES, "ScatterElements", "Scatter")
def scatter_elements(t: Tracker, op: Operator) -> None:
    """ScatterElements(data, indices, updates): the updates lie beside the indices."""
    rank = t.rank(op.input(0))
    axis = op.attr("axis", 0) % rank
    for slot in (0, 1, 2):
        hold_axis(t, op, slot, axis, POSITIONS)
    for k in range(rank):
        if k != axis:
            _beside(t, op, 0, 1, k)
            _beside(t, op, 0, 2, k)
    t.set(op, 0, t.axes(op.input(0)))


def _index_axes(t: Tracker, indices: str) -> list[Axis]:
    return [_index_axis(t, indices, k) for k in range(t.rank(indices))]


def _index_axis(t: Tracker, indices: str, axis: int) -> Axis:
    """An axis of indices: positions of what no layer has a part in are no channels."""
    return 0 if indices in t.graph.counted else t.axis(indices, axis)


def _beside(t: Tracker, op: Operator, first: int, second: int, axis: int) -> Axis:
    """An axis of two inputs whose elements lie beside each other; where one is longer, both stay."""
    names = [op.input(first), op.input(second)]
    names.sort(key=t.is_constant)
    lead = t.axis(names[0], axis)
    if t.dim(names[0], axis) == t.dim(names[1], axis):
        t.bind(op, names[1], axis, lead)
        return lead
    for slot in (first, second):
        hold_axis(t, op, slot, axis, "one of its axes that are not equally long")
    return t.axis(op.input(second), axis)


@handles(RULES, "GatherND")
def gather_nd(t: Tracker, op: Operator) -> None:
    """GatherND(data, indices): the last axis of the indices says where, on the first axes of the data."""
    data, where = op.input(0), op.input(1)
    batch, depth = op.attr("batch_dims", 0), t.dim(where, -1)
    if not isinstance(depth, int):
        raise NoRule("nobody knows how many axes its indices name")
    for k in range(batch):
        _beside(t, op, 0, 1, k)
    for k in range(batch, batch + depth):
        hold_axis(t, op, 0, k, POSITIONS)
    hold_axis(t, op, 1, t.rank(where) - 1, POSITIONS)
    index_axes = [_index_axis(t, where, k) for k in range(batch, t.rank(where) - 1)]
    lead = [t.axis(data, k) for k in range(batch)]
    t.set(op, 0, [*lead, *index_axes, *(t.axis(data, k) for k in range(batch + depth, t.rank(data)))])


@handles(RULES, "ScatterND")
def scatter_nd(t: Tracker, op: Operator) -> None:
    """ScatterND(data, indices, updates): what the indices do not name passes."""
    data, where, updates = op.inputs[:3]
    depth = t.dim(where, -1)
    if not isinstance(depth, int):
        raise NoRule("nobody knows how many axes its indices name")
    hold(t, op, 1, POSITIONS)
    named = t.rank(where) - 1
    for k in range(depth):
        hold_axis(t, op, 0, k, POSITIONS)
    for k in range(named):
        hold_axis(t, op, 2, k, POSITIONS)
    for k in range(depth, t.rank(data)):
        pair = [(data, k), (updates, named + k - depth)]
        pair.sort(key=lambda place: t.is_constant(place[0]))
        t.bind(op, *pair[1], t.axis(*pair[0]))
    t.set(op, 0, t.axes(data))


@handles(RULES, "Trilu")
def trilu(t: Tracker, op: Operator) -> None:
    """Trilu(input, k): what is left of the last two axes depends on the places there."""
    rank = t.rank(op.input(0))
    for k in (rank - 2, rank - 1):
        hold_axis(t, op, 0, k, POSITIONS)
    t.set(op, 0, t.wholes(op.input(0)))


@handles(RULES, "OneHot")
def one_hot(t: Tracker, op: Operator) -> None:
    """OneHot(indices, depth, values): a new axis whose positions are the values of the indices."""
    axes = [0] * t.rank(op.input(0)) if t.is_constant(op.input(0)) else t.axes(op.input(0))
    place = op.attr("axis", -1) % (len(axes) + 1)
    counted = t.frozen(f"positions that OneHot {shown(op.name)} counts")
    t.set(op, 0, [*axes[:place], counted, *axes[place:]])
