"""Why a layer's channels are what they are: the operators that tie or freeze them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from conet_graph.analysis.layers import find_layer, inner_facts, inner_nodes, layer_names
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph, Operator
from conet_graph.passes.channels.units import STRONGEST, Ids, Units
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS, Group, out_axis


@dataclass(frozen=True)
class Explanation:
    """Why a layer's output channels are free or frozen.

    For a frozen layer ``operators`` is the shortest chain from the layer to what freezes it; for a
    free one, the operators among the layers whose channels move together.
    """

    layer: str
    group: str | None
    reason: str | None
    operators: tuple[str, ...]
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()

    @property
    def free(self) -> bool:
        """Whether the channels may change."""
        return self.reason is None

    def lines(self) -> list[str]:
        """The explanation as lines of text."""
        if self.reason is not None:
            head = f"The output channels of layer {shown(self.layer)} are frozen:"
            return [head, *(f"  -> {step}" for step in self.operators), f"  -> {self.reason}"]
        found = [f"The output channels of layer {shown(self.layer)} are free (group {self.group})."]
        for title, names in (("producers", self.producers), ("consumers", self.consumers)):
            if names:
                found.append(f"{title}:")
                found.extend(f"  {shown(name)[1:-1]}" for name in names)
        if self.operators:
            found.append("operators that tie them:")
            found.extend(f"  {step}" for step in self.operators)
        return found


def explain(graph: Graph, name: str) -> Explanation:
    """Explain the output channels of one layer of an analysed graph.

    Raises:
        BadUsage: there is no such layer; the message names the closest ones.

    """
    try:
        layer = find_layer(graph, name)
    except BadUsage:
        owner = _owner_of(graph, name)
        if owner is None:
            raise
        return Explanation(name, None, f"it is inside the body of {owner}", ())
    channels = graph.result(CHANNELS)
    units = channels.units
    axis = out_axis(units, layer)
    called = layer_names(graph)[layer.op.index]
    if isinstance(axis, int) or not len(axis):
        reason = units.reasons[axis] if isinstance(axis, int) else "it has no channels"
        return Explanation(called, None, reason, (described(layer.op),))
    groups = channels.groups_on(channels.layer_axes[layer.op.index][1])
    start = int(axis[0])
    equations = Equations(units)
    if groups and groups[0].free:
        tied = equations.operators_around(start)
        return _free(graph, called, groups[0], tied)
    chain, end = equations.way_out(start)
    steps = tuple(described(graph.operators[k]) for k in [layer.op.index, *chain])
    group = groups[0].id if groups else None
    return Explanation(called, group, units.reasons[end], _without_repeats(steps))


def described(op: Operator) -> str:
    """An operator as a person would name it: its type and its node's name."""
    return f"{op.op_type} {shown(op.name)}"


def _without_repeats(steps: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(s for k, s in enumerate(steps) if k == 0 or s != steps[k - 1])


def _owner_of(graph: Graph, name: str) -> str | None:
    """Whose body holds a layer of that name."""
    for inner in inner_nodes(graph):
        found = inner_facts(inner)
        if found is not None and found.name == name:
            return inner.owner
    return None


def _free(graph: Graph, called: str, group: Group, tied: list[int]) -> Explanation:
    names = layer_names(graph)

    def named(layers: list[Layer]) -> tuple[str, ...]:
        return tuple(names[layer.op.index] for layer in layers)

    members = {layer.op.index for layer in [*group.producers, *group.consumers]}
    between = tuple(described(graph.operators[k]) for k in tied if k not in members)
    return Explanation(called, group.id, None, between, named(group.producers), named(group.consumers))


class Equations:
    """The equations between units as a graph: units are its nodes, operators its edges."""

    def __init__(self, units: Units) -> None:
        """Sort the equations of solved units by unit."""
        self.frozen = {unit: units.strength(unit) for unit in units.reasons}
        none = np.zeros(0, np.int64)
        left = np.concatenate([none, *units.left])
        right = np.concatenate([none, *units.right])
        lengths = [len(part) for part in units.left]
        ops = np.repeat(np.array(units.equation_op, np.int64), lengths)
        source = np.concatenate([left, right])
        order = np.argsort(source, kind="stable")
        self._to: Ids = np.concatenate([right, left])[order]
        self._op: Ids = np.concatenate([ops, ops])[order]
        self._begin: Ids = np.searchsorted(source[order], np.arange(units.count + 1))

    def _next(self, unit: int) -> list[tuple[int, int]]:
        where = slice(int(self._begin[unit]), int(self._begin[unit + 1]))
        return list(zip(self._to[where].tolist(), self._op[where].tolist(), strict=True))

    def way_out(self, start: int) -> tuple[list[int], int]:
        """The shortest chain of operators from a unit to a frozen one, and that frozen unit.

        The nearest frozen unit whose reason says most is taken.
        """
        came: dict[int, tuple[int, int]] = {start: (start, -1)}
        pending, best = deque([start]), -1
        while pending:
            unit = pending.popleft()
            if unit in self.frozen:
                if best < 0 or self.frozen[unit] > self.frozen[best]:
                    best = unit
                if self.frozen[best] == STRONGEST:
                    break
                continue
            for other, op in self._next(unit):
                if other not in came:
                    came[other] = (unit, op)
                    pending.append(other)
        if best < 0:
            raise ValueError(f"unit {start} is not frozen")
        return self._chain(came, start, best), best

    @staticmethod
    def _chain(came: dict[int, tuple[int, int]], start: int, end: int) -> list[int]:
        chain: list[int] = []
        while end != start:
            end, op = came[end]
            chain.append(op)
        return chain[::-1]

    def operators_around(self, start: int) -> list[int]:
        """Indices of all operators in the equations that reach a unit, in the file's order."""
        seen, pending, found = {start}, deque([start]), set()
        while pending:
            for other, op in self._next(pending.popleft()):
                found.add(op)
                if other not in seen:
                    seen.add(other)
                    pending.append(other)
        return sorted(found)
