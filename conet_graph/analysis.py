"""What ``analyze`` finds out about a network, and its JSON form (``conet-graph.analysis/1``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conet_graph.cost import Cost, LayerCost, cost, inner_parameters
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.layers import Facts, facts, inner_facts, inner_nodes, layer_names, layers_of
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import Layer, derived_from_constants
from conet_graph.passes.tie_channels import Channels, in_axis, out_axis
from conet_graph.passes.units import Axis

FORMAT = "conet-graph.analysis/1"


@dataclass(frozen=True)
class ModelFacts:
    """The file, and totals; ``macs`` is None where a size that it depends on is free or unknown."""

    path: str | None
    sha256: str
    producer: str
    opset: int
    nodes: int
    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Place:
    """``count`` positions of one axis of one tensor."""

    tensor: str
    axis: int
    count: int


@dataclass(frozen=True)
class GroupEntry:
    """Channels that must appear or vanish together: a free size, or a frozen one with its reason."""

    id: str
    size: str
    width: int
    multiple: int
    free: bool
    reason: str | None
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class LayerEntry:
    """One operator with a weight, and the groups on its two sides."""

    name: str
    op: str
    kind: str
    weight: str
    in_channels: int | None
    out_channels: int | None
    conv_groups: int
    kernel: tuple[int, ...] | None
    in_groups: tuple[str, ...]
    out_groups: tuple[str, ...]
    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Unsupported:
    """An operator without a channel rule, and the groups it freezes."""

    op: str
    node: str
    freezes: tuple[str, ...]


@dataclass(frozen=True)
class Edges:
    """Number of conv and non-conv edges between feature maps."""

    conv: int
    non_conv: int


@dataclass(frozen=True)
class Analysis:
    """The channel structure of a network."""

    model: ModelFacts
    groups: tuple[GroupEntry, ...]
    layers: tuple[LayerEntry, ...]
    edges: Edges
    unsupported: tuple[Unsupported, ...]

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain lists and dictionaries, keys in the documented order."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Analysis:
        """Read what ``to_dict`` (or ``analyze --json``) wrote.

        Raises:
            BadUsage: it is of another format, or a field is missing.
        """
        if data.get("format") != FORMAT:
            raise BadUsage(
                f"This is not a {FORMAT} document: its format is {data.get('format')!r}."
            )
        try:
            return Analysis(
                ModelFacts(**data["model"]),
                tuple(_group_from(g) for g in data["groups"]),
                tuple(_layer_from(entry) for entry in data["layers"]),
                Edges(**data["edges"]),
                tuple(
                    Unsupported(u["op"], u["node"], tuple(u["freezes"]))
                    for u in data["unsupported"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise BadUsage(f"The {FORMAT} document is incomplete or damaged: {error}.") from None


def _group_from(data: dict[str, Any]) -> GroupEntry:
    return GroupEntry(
        **data
        | {
            "producers": tuple(data["producers"]),
            "consumers": tuple(data["consumers"]),
            "places": tuple(Place(**p) for p in data["places"]),
        }
    )


def _layer_from(data: dict[str, Any]) -> LayerEntry:
    kernel = data["kernel"]
    return LayerEntry(
        **data
        | {
            "kernel": None if kernel is None else tuple(kernel),
            "in_groups": tuple(data["in_groups"]),
            "out_groups": tuple(data["out_groups"]),
        }
    )


def analyze(model: str | Path | LoadedModel) -> Analysis:
    """Analyse a network: which channel sizes are free, and which are tied together.

    Raises:
        InvalidModel: the file cannot be read or is not a valid network.
    """
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    return analysis_of(analysed(loaded))


def analysis_of(graph: Graph) -> Analysis:
    """The analysis of a graph that went through all passes."""
    return _Builder(graph).build(cost(graph))


@dataclass
class _Extra:
    """A frozen size that no unit stands for: an axis that never carried channels."""

    id: str
    width: int
    reason: str
    places: list[Place]
    producers: list[str]
    consumers: list[str]


class _Builder:
    """Collects the entries of an analysis."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels: Channels = graph.notes["channels"]
        self.names = layer_names(graph)
        self.extras: dict[tuple[str, int], _Extra] = {}
        self.frozen_places: dict[int, list[Place]] = {}
        for (tensor, axis), unit in self.channels.units.stored.items():
            shape = graph.shape(tensor)
            if isinstance(unit, int) and shape is not None and isinstance(size := shape[axis], int):
                self.frozen_places.setdefault(unit, []).append(Place(tensor, axis, size))

    def build(self, costs: Cost) -> Analysis:
        """Put everything together."""
        known = facts(self.graph)
        layers = [
            self._layer(layer, known[layer.op.index], costs.layers[layer.op.index])
            for layer in layers_of(self.graph)
        ]
        for inner in inner_nodes(self.graph):
            found = inner_facts(inner)
            if found is not None:
                layers.append(self._inner_layer(found, inner.owner, inner_parameters(inner)))
        return Analysis(
            self._model(costs), self._groups(), tuple(layers), self._edges(), self._unsupported()
        )

    def _layer(self, layer: Layer, found: Facts, spent: LayerCost) -> LayerEntry:
        units = self.channels.units
        ins = self._side(layer, 0, in_axis(units, layer), found.in_channels)
        outs = self._side(layer, 1, out_axis(units, layer), found.out_channels)
        return _entry(found, ins, outs, spent)

    def _side(self, layer: Layer, side: int, axis: Axis, width: int | None) -> tuple[str, ...]:
        """Ids of the groups on one side of a layer."""
        if not isinstance(axis, int):
            groups = self.channels.groups_on(self.channels.layer_axes[layer.op.index][side])
            return tuple(g.id for g in groups)
        extra = self._extra(self.channels.units.reasons[axis], width or 0)
        if not extra.places:
            extra.places.extend(p for p in self.frozen_places.get(axis, []) if p.count == width)
        if layer.kind == "conv":
            (extra.producers if side else extra.consumers).append(self.names[layer.op.index])
        return (extra.id,)

    def _inner_layer(self, found: Facts, owner: str, size: int) -> LayerEntry:
        """A layer in a sub-graph: one frozen group of its own."""
        reason = f"layer {shown(found.name)} is inside the body of {owner}"
        extra = self._extra(reason, found.out_channels or 0)
        extra.producers.append(found.name)
        return _entry(found, (), (extra.id,), LayerCost(size, None))

    def _extra(self, reason: str, width: int) -> _Extra:
        number = len(self.channels.groups) + len(self.extras)
        fresh = _Extra(f"g{number}", width, reason, [], [], [])
        return self.extras.setdefault((reason, width), fresh)

    def _groups(self) -> tuple[GroupEntry, ...]:
        named = self.names
        entries = [
            GroupEntry(
                g.id,
                g.size,
                g.width,
                g.multiple,
                g.free,
                g.reason,
                tuple(named[layer.op.index] for layer in g.producers),
                tuple(named[layer.op.index] for layer in g.consumers),
                tuple(Place(*p) for p in g.places),
            )
            for g in self.channels.groups
        ]
        sizes = len({g.size for g in self.channels.groups})
        for number, extra in enumerate(self.extras.values(), sizes):
            entries.append(
                GroupEntry(
                    extra.id,
                    f"s{number}",
                    extra.width,
                    1,
                    False,
                    extra.reason,
                    tuple(extra.producers),
                    tuple(extra.consumers),
                    tuple(extra.places),
                )
            )
        return tuple(entries)

    def _model(self, costs: Cost) -> ModelFacts:
        loaded, proto = self.graph.loaded, self.graph.loaded.proto
        producer = f"{proto.producer_name} {proto.producer_version}".strip()
        return ModelFacts(
            None if loaded.path is None else str(loaded.path),
            loaded.sha256,
            producer,
            self.graph.opset,
            len(proto.graph.node),
            costs.parameters,
            costs.macs,
        )

    def _edges(self) -> Edges:
        """Edges between feature maps; constants, and what is computed from them, are not."""
        weights = derived_from_constants(self.graph)
        data_slots = {
            layer.op.index: layer.data_slot
            for layer in layers_of(self.graph)
            if layer.kind == "conv"
        }
        conv = every = 0
        for op in self.graph.operators:
            outputs = sum(1 for o in op.outputs if o and o not in weights)
            for slot, value in enumerate(op.inputs):
                if value and value not in weights:
                    every += outputs
                    conv += outputs if data_slots.get(op.index) == slot else 0
        return Edges(conv, every - conv)

    def _unsupported(self) -> tuple[Unsupported, ...]:
        found = []
        channels, units = self.channels, self.channels.units
        for op, _, unit in units.unsupported:
            number = int(channels.group_of_class[units.classes[unit]])
            freezes = [channels.groups[number].id] if number >= 0 else []
            freezes += [e.id for e in self.extras.values() if e.reason == units.reasons[unit]]
            kind = f"{op.domain}::{op.op_type}" if op.domain else op.op_type
            found.append(Unsupported(kind, op.name, tuple(freezes)))
        return tuple(found)


def _entry(found: Facts, ins: Sequence[str], outs: Sequence[str], spent: LayerCost) -> LayerEntry:
    return LayerEntry(
        found.name,
        found.op,
        found.kind,
        found.weight,
        found.in_channels,
        found.out_channels,
        found.conv_groups,
        found.kernel,
        tuple(ins),
        tuple(outs),
        spent.parameters,
        spent.macs,
    )
