"""Why a layer's channels are what they are: the operators that tie or freeze them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from conet_graph.analysis.layers import find_layer, inner_facts, inner_nodes, layer_names
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph, Operator
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.channels.units import Units
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS, Group, out_axis

if TYPE_CHECKING:
    import networkx as nx


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
    equations = Equations(units, int(axis[0]))
    if groups and groups[0].free:
        return _free(graph, called, groups[0], equations.operators)
    chain, end = equations.way_out()
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
    """The equations between the units that are tied to one unit: units are nodes, operators edges."""

    def __init__(self, units: Units, start: int) -> None:
        """Take the equations of solved units that reach ``start``."""
        import networkx as nx  # slow to import, and only explanations need it here

        none = np.zeros(0, np.int64)
        left, right = np.concatenate([none, *units.left]), np.concatenate([none, *units.right])
        lengths = [len(part) for part in units.left]
        ops = np.repeat(np.array(units.equation_op, np.int64), lengths)
        mine = units.classes[left] == units.classes[start]
        self.start = start
        self.operators: list[int] = distinct(ops[mine]).tolist()
        self.tied: nx.Graph[int] = nx.Graph()
        self.tied.add_node(start)
        ends = zip(left[mine].tolist(), right[mine].tolist(), ops[mine].tolist(), strict=True)
        self.tied.add_edges_from((a, b, {"op": op}) for a, b, op in ends)
        self.frozen = {unit: units.strength(unit) for unit in units.reasons if unit in self.tied}

    def way_out(self) -> tuple[list[int], int]:
        """The shortest chain of operators from the unit to a frozen one, and that frozen unit.

        Of those whose reasons say most the nearest is taken.
        """
        import networkx as nx

        for strength in sorted(set(self.frozen.values()), reverse=True):
            others = [unit for unit, has in self.frozen.items() if has != strength and unit != self.start]
            reached = nx.restricted_view(self.tied, others, [])
            for unit in nx.single_source_shortest_path_length(reached, self.start):
                if self.frozen.get(unit) == strength:
                    path = nx.shortest_path(reached, self.start, unit)
                    return [self.tied.edges[pair]["op"] for pair in pairwise(path)], unit
        raise ValueError(f"unit {self.start} is not frozen")
