"""A network boiled down to what a drawing can show: its layers, and where feature maps meet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from conet_graph.analysis.analysis import Analysis, LayerEntry
from conet_graph.analysis.layers import layer_names
from conet_graph.ir.graph import Graph, Operator, read_inside
from conet_graph.ir.operators import TELLS_SIZES
from conet_graph.passes.assign_channels import SIZES
from conet_graph.passes.tie_channels import CHANNELS

# Of the operators between two parts, this many are named.
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Part:
    """One node of the drawing: a layer, a meeting of feature maps, an input or an output.

    Attributes:
        kind: 'layer', 'join', 'input' or 'output'.
        name: the layer's, operator's or value's.
        op: operator type; '' for inputs and outputs.
        value: the feature map that it gives.
        sizes: names of the channel sizes that make up the map's depth, in order; fixed depths have
            none.
        depth: its number of channels, 0 where that is not known.
        layer: the analysis of a layer.

    """

    kind: str
    name: str
    op: str
    value: str
    sizes: tuple[str, ...]
    depth: int
    layer: LayerEntry | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A feature map's way from one part to another, through other operators."""

    source: int
    target: int
    through: tuple[str, ...]


@dataclass(frozen=True)
class DrawnNetwork:
    """Parts in topological order, and the links between them."""

    parts: tuple[Part, ...]
    links: tuple[Link, ...]


def network_of(graph: Graph, analysis: Analysis) -> DrawnNetwork:
    """The layers and joins of an analysed graph.

    Activations, normalisation, pooling and the like are swallowed by the link that passes through
    them; so are operators whose inputs all come from one part (``x * sigmoid(x)``). An operator in
    which feature maps of several parts meet is a join.
    """
    return _Builder(graph, analysis).build()


@dataclass(frozen=True, slots=True)
class _Origin:
    part: int
    through: tuple[str, ...]


class _Builder:
    def __init__(self, graph: Graph, analysis: Analysis) -> None:
        self.graph = graph
        by_name = {entry.name: entry for entry in analysis.layers}
        self.layers = {index: by_name[name] for index, name in layer_names(graph).items()}
        self.sizes: dict[str, list[str]] = graph.result(SIZES)
        self.channels = graph.result(CHANNELS)
        self.parts: list[Part] = []
        self.links: list[Link] = []
        self.origins: dict[str, _Origin] = {}

    def build(self) -> DrawnNetwork:
        for name in self.graph.inputs:
            self.origins[name] = _Origin(self._add("input", name, "", name, None, []), ())
        for op in self.graph.operators:
            self._visit(op)
        for name in self.graph.outputs:
            if name in self.origins:
                self._add("output", name, "", name, None, [self.origins[name]])
        return DrawnNetwork(tuple(self.parts), tuple(self.links))

    def _visit(self, op: Operator) -> None:
        if op.op_type in TELLS_SIZES:
            return
        names = [*op.inputs, *(sorted(read_inside(op.proto)) if op.subgraphs() else [])]
        origins = [self.origins[name] for name in names if name in self.origins]
        if not origins:
            return
        value = next((o for o in op.outputs if o), "")
        layer = self.layers.get(op.index)
        if layer is not None:
            origin = _Origin(self._add("layer", layer.name, op.op_type, value, layer, origins), ())
        elif len({o.part for o in origins}) > 1:
            origin = _Origin(self._add("join", op.name, op.op_type, value, None, origins), ())
        else:
            passed = dict.fromkeys((*(t for o in origins for t in o.through), op.op_type))
            origin = _Origin(origins[0].part, tuple(passed))
        for output in op.outputs:
            if output:
                self.origins[output] = origin

    def _add(
        self,
        kind: str,
        name: str,
        op: str,
        value: str,
        layer: LayerEntry | None,
        origins: Iterable[_Origin],
    ) -> int:
        number = len(self.parts)
        through: dict[int, dict[str, None]] = {}
        for origin in origins:
            through.setdefault(origin.part, {}).update(dict.fromkeys(origin.through))
        self.links += [Link(source, number, _few(passed)) for source, passed in through.items()]
        sizes = dict.fromkeys(s for spelled in self.sizes.get(value, []) for s in _size_names(spelled))
        self.parts.append(Part(kind, name, op, value, tuple(sizes), self._depth(value, layer), layer))
        return number

    def _depth(self, value: str, layer: LayerEntry | None) -> int:
        if layer is not None:
            return layer.out_channels or 0
        axes = self.channels.units.values.get(value, [])
        return next((len(axis) for axis in axes if not isinstance(axis, int)), 0)


def _size_names(spelled: str) -> list[str]:
    """The size in what ``assign_channels`` wrote: ``s3`` of ``2*s3``, none of ``64``."""
    return re.findall(r"s\d+", spelled)


def _few(names: Iterable[str]) -> tuple[str, ...]:
    found = list(names)
    return tuple(found if len(found) <= _MOST_NAMED else [*found[: _MOST_NAMED - 1], "..."])
