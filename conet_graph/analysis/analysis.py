"""What ``analyze`` finds out about a network, and its JSON form (``conet-graph.analysis/1``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conet_graph.analysis.frozen import frozen_parts
from conet_graph.analysis.layers import LayerFacts, facts, inner_facts, inner_nodes, layer_names, layers_of
from conet_graph.costs.cost import Cost, LayerCost, cost, inner_parameters
from conet_graph.costs.input_shapes import Counting
from conet_graph.dead_channels.find import dead_channels
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.passes import analysed
from conet_graph.passes.channels.units import Axis, Ids, beside
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS, in_axis, out_axis

if TYPE_CHECKING:
    import networkx as nx

FORMAT = "conet-graph.analysis/1"


@dataclass(frozen=True)
class ModelFacts:
    """The file, and totals; ``macs`` is None where a size that it depends on is free or unknown."""

    path: str | None
    producer: str
    opset: int
    nodes: int
    parameters: int
    macs: int | None
    loaded: LoadedModel = field(repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, which is read once more for it where nobody has asked before."""
        return self.loaded.sha256

    def to_dict(self) -> dict[str, Any]:
        """The facts under their documented keys."""
        keys = ("path", "sha256", "producer", "opset", "nodes", "parameters", "macs")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Place:
    """``count`` positions of one axis of one tensor."""

    tensor: str
    axis: int
    count: int


@dataclass(frozen=True)
class GroupEntry:
    """Channels that appear or vanish together: a free size, or a frozen one with its reason.

    ``dead`` of a free group's channels can go without a change of the network's outputs.
    """

    id: str
    size: str
    width: int
    multiple: int
    free: bool
    reason: str | None
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    places: tuple[Place, ...]
    dead: int = 0


@dataclass(frozen=True)
class LayerEntry:
    """One operator with a weight, and the groups on its two sides.

    ``rank`` and ``condition`` are those of the weight's 'out' and 'in' axis, where they were measured.
    """

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
    rank: dict[str, float] | None = None
    condition: dict[str, float] | None = None


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
    """The channel structure of a network.

    ``graph`` is the solved network itself: ``plan``, ``rewrite`` and ``verify`` take an analysis in place of
    a model and need not solve it again. It is no part of the JSON form.
    """

    model: ModelFacts
    groups: tuple[GroupEntry, ...]
    layers: tuple[LayerEntry, ...]
    edges: Edges
    unsupported: tuple[Unsupported, ...]
    graph: Graph = field(repr=False, compare=False)

    def dag(self) -> nx.MultiDiGraph[str]:
        """The network as a networkx DAG with edge kinds, sizes and groups; see ``analysis.dag.dag_of``."""
        from conet_graph.analysis.dag import dag_of

        return dag_of(self.graph)

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain lists and dictionaries, keys in the documented order."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model.to_dict(),
            "groups": [asdict(group) for group in self.groups],
            "layers": [asdict(layer) for layer in self.layers],
            "edges": asdict(self.edges),
            "unsupported": [asdict(entry) for entry in self.unsupported],
        }
        for layer in data["layers"]:
            for name in ("rank", "condition"):
                if layer[name] is None:
                    del layer[name]  # not measured
        return data


def analyze(model: str | Path | LoadedModel, *, rank: bool = False, free_kept: bool = False) -> Analysis:
    """Analyse a network: which channel sizes are free, and which are tied together.

    Args:
        model: a file, or a model that was loaded.
        rank: measure rank and condition of each layer's weight, too.
        free_kept: free the groups that are kept by default: those that a Softmax, ArgMax or TopK selects
            among, and those that no layer produces.

    Raises:
        InvalidModel: the file cannot be read or is not a valid network.

    """
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    return analysis_of(analysed(loaded, free_kept=free_kept), rank=rank)


def solved(model: LoadedModel | Analysis, free_kept: bool = False) -> Graph:
    """The solved graph of a model; an analysis has it already (unless more is to be freed)."""
    if isinstance(model, LoadedModel):
        return analysed(model, free_kept=free_kept)
    if model.graph.result(CHANNELS).units.free_kept == free_kept:
        return model.graph
    return analysed(model.graph.loaded, free_kept=free_kept)


def analysis_of(graph: Graph, *, rank: bool = False, sizes: Counting | None = None) -> Analysis:
    """The analysis of a graph that went through all passes, its MACs counted at some ``sizes``."""
    found = _AnalysisBuilder(graph).build(cost(graph if sizes is None else sizes.of(graph)))
    return _ranked(found, graph) if rank else found


def _ranked(found: Analysis, graph: Graph) -> Analysis:
    """The analysis with rank and condition of the weights that can be measured."""
    from conet_graph.analysis.layer_weights import indicators_of_layers

    measured = indicators_of_layers(graph)
    layers = tuple(
        replace(
            layer,
            rank={"out": said.out_rank, "in": said.in_rank},
            condition={"out": said.out_condition, "in": said.in_condition},
        )
        if (said := measured.get(layer.name)) is not None
        else layer
        for layer in found.layers
    )
    return replace(found, layers=layers)


@dataclass
class _Frozen:
    """A frozen size while it is put together."""

    id: str
    size: str
    reason: str
    width: int = 0
    places: list[Place] = field(default_factory=list)
    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)


class _AnalysisBuilder:
    """Collects the entries of an analysis.

    Free groups are those of ``tie_channels``. Frozen ones are told apart by what freezes them: by
    bundles of units that meet one reason in the same places, and, for axes that never carried
    channels and so have no units, by reason and width.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels = graph.result(CHANNELS)
        self.units = self.channels.units
        self.names = layer_names(graph)
        self.frozen: dict[tuple[object, ...], _Frozen] = {}
        self.taken: set[str] = set()
        self.next_id = len(self.channels.groups) + len(self.channels.fixed)
        self.parts = frozen_parts(self.units)
        keys = np.stack([self.parts.reason, self.parts.signature])
        self.bundles, inverse = np.unique(keys, axis=1, return_inverse=True)
        self.bundle_of: Ids = inverse.reshape(-1)[self.parts.of]

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
        self._find_frozen_places()
        return Analysis(
            self._model(costs), self._groups(), tuple(layers), self._edges(), self._unsupported(), self.graph
        )

    def _layer(self, layer: Layer, found: LayerFacts, spent: LayerCost) -> LayerEntry:
        ins = self._side(layer, 0, in_axis(self.units, layer), found.in_channels)
        outs = self._side(layer, 1, out_axis(self.units, layer), found.out_channels)
        return _entry(found, ins, outs, spent)

    def _side(self, layer: Layer, side: int, axis: Axis, width: int | None) -> tuple[str, ...]:
        """Ids of the groups on one side of a layer."""
        if isinstance(axis, int):
            reason = self.units.reasons[axis]
            name = self.channels.fixed.get((reason, width or 0), "")
            found = self._frozen_group((axis, width), name, reason)
            self._join(found, layer, side, width or 0)
            return (found.id,)
        groups = self.channels.groups
        numbers = self.channels.group_of_class[self.units.classes[axis]]
        ids: dict[str, None] = {}
        times = Counter(zip(numbers.tolist(), self.bundle_of[axis].tolist(), strict=True))
        for (number, bundle), count in times.items():
            if groups[number].free:
                ids[groups[number].id] = None
                continue
            reason = self.units.reasons[int(self.bundles[0, bundle])]
            found = self._frozen_group((number, bundle, ""), groups[number].id, reason, groups[number].size)
            self._join(found, layer, side, count)
            ids[found.id] = None
        return tuple(ids)

    def _join(self, found: _Frozen, layer: Layer, side: int, count: int) -> None:
        """Note that a layer has a frozen group on one side; its producers say how wide it is."""
        name = self.names[layer.op.index]
        if side or not found.producers:
            found.width = max(found.width, count)
        if layer.kind == "conv":
            (found.producers if side else found.consumers).append(name)

    def _inner_layer(self, found: LayerFacts, owner: str, size: int) -> LayerEntry:
        """A layer in a sub-graph: one frozen group of its own."""
        number = len(self.frozen)
        made = self._frozen_group(("inside", number), "", f"inside the body of {owner}")
        made.width = found.out_channels or 0
        made.producers.append(found.name)
        return _entry(found, (), (made.id,), LayerCost(size, None))

    def _frozen_group(self, key: tuple[object, ...], name: str, reason: str, size: str = "") -> _Frozen:
        """The frozen group of a key; the first of those that go by a name keeps it."""
        if key in self.frozen:
            return self.frozen[key]
        if not name or name in self.taken:
            name, size = f"g{self.next_id}", ""
            self.next_id += 1
        self.taken.add(name)
        self.frozen[key] = made = _Frozen(name, size or f"s{name[1:]}", reason)
        return made

    def _find_frozen_places(self) -> None:
        for (tensor, axis), units in self.units.stored.items():
            shape = self.graph.shape(tensor)
            if isinstance(units, int):
                size = None if shape is None else shape[axis]
                found = self.frozen.get((units, size))
                if found is not None and isinstance(size, int):
                    found.places.append(Place(tensor, axis, size))
                continue
            classes = self.units.classes[units]
            if not self.units.frozen_class[classes].any():
                continue
            numbers = self.channels.group_of_class[classes]
            times = Counter(zip(numbers.tolist(), self.bundle_of[units].tolist(), strict=True))
            for (number, bundle), count in times.items():
                found = self.frozen.get((number, bundle, ""))
                if found is not None:
                    found.places.append(Place(tensor, axis if axis >= 0 else beside(axis), count))

    def _groups(self) -> tuple[GroupEntry, ...]:
        named, removable = self.names, dead_channels(self.graph).removable()
        entries = [
            GroupEntry(
                g.id,
                g.size,
                g.width,
                g.multiple,
                True,
                None,
                tuple(named[layer.op.index] for layer in g.producers),
                tuple(named[layer.op.index] for layer in g.consumers),
                tuple(Place(*p) for p in g.places),
                int(removable[g.classes].sum()) * g.multiple,
            )
            for g in self.channels.groups
            if g.free
        ]
        entries += [
            GroupEntry(
                f.id,
                f.size,
                f.width,
                1,
                False,
                f.reason,
                tuple(f.producers),
                tuple(f.consumers),
                tuple(f.places),
            )
            for f in self.frozen.values()
        ]
        return tuple(sorted(entries, key=lambda entry: int(entry.id[1:])))

    def _model(self, costs: Cost) -> ModelFacts:
        loaded, proto = self.graph.loaded, self.graph.loaded.proto
        producer = f"{proto.producer_name} {proto.producer_version}".strip()
        return ModelFacts(
            None if loaded.path is None else str(loaded.path),
            producer,
            self.graph.opset,
            len(proto.graph.node),
            costs.parameters,
            costs.macs,
            loaded,
        )

    def _edges(self) -> Edges:
        """Edges between feature maps; constants, and what is computed from them, are not."""
        weights = self.graph.derived
        data_slots = {
            layer.op.index: layer.data_slot for layer in layers_of(self.graph) if layer.kind == "conv"
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
        for op, _, unit in self.units.unsupported:
            reason = self.units.reasons[unit]
            freezes = tuple(f.id for f in self.frozen.values() if f.reason == reason)
            kind = f"{op.domain}::{op.op_type}" if op.domain else op.op_type
            found.append(Unsupported(kind, op.name, freezes))
        return tuple(found)


def _entry(found: LayerFacts, ins: Sequence[str], outs: Sequence[str], spent: LayerCost) -> LayerEntry:
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
