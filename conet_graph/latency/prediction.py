"""How long a network takes at other widths, by a latency table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from conet_graph.analysis.layers import layer_names, layers_of
from conet_graph.costs.operator_widths import Counts, Numbers, Places, Widths
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph, Operator
from conet_graph.latency.surface import Surface, terms
from conet_graph.latency.table import Row, Table
from conet_graph.passes.classify_edges import Layer

# What ONNX Runtime may compute in one go with the layer before it.
_FOLDED = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Mul", "Add", "Sum"}
    | {"BatchNormalization", "PRelu"}
)


def shapes_of(graph: Graph, operators: list[Operator]) -> list[str]:
    """What makes operators take equally long at equal widths, as text; equal texts share a row."""
    layers = {layer.op.index: layer for layer in layers_of(graph)}
    return [_shape(graph, op, layers.get(op.index)) for op in operators]


def _shape(graph: Graph, op: Operator, layer: Layer | None) -> str:
    written = next(value for value in op.outputs if value)
    read = op.input(layer.data_slot) if layer is not None else op.input(0)
    positions = [(graph.shape(value) or ("?",))[2:] for value in (read, written)]
    known = all(isinstance(size, int) for shape in positions for size in shape)
    at = " -> ".join("x".join(map(str, shape)) or "1" for shape in positions)
    text = f"{op.op_type} at {at}"
    if layer is not None:
        weight = (graph.shape(op.input(layer.weight_slot)) or ())[2:]
        groups = (
            "" if layer.groups == 1 else " depthwise" if layer.kind == "non-conv" else f" /{layer.groups}"
        )
        kept = [f"{a.name} {list(a.ints)}" for a in op.proto.attribute if a.name in ("strides", "dilations")]
        text += f" kernel {'x'.join(map(str, weight)) or '1'}{groups} {' '.join(kept)}{_behind(graph, op)}"
    # Sizes that are only known at run time say nothing about another operator.
    return " ".join(text.split()) if known else f"{text} ({op.name or written})"


def _behind(graph: Graph, op: Operator) -> str:
    """The operators behind a layer that may be computed with it."""
    told = ""
    while len(op.outputs) == 1:
        readers = graph.consumers.get(op.outputs[0], [])
        if len(readers) != 1 or readers[0][0].op_type not in _FOLDED:
            break
        op = readers[0][0]
        told += f" + {op.op_type}"
    return told


@dataclass
class Prediction:
    """Milliseconds of a network at other widths.

    ``scale`` makes all fitted times together as long as the measured ones. ``original_ms`` is the network's
    time as it is: measured, where the table is its own.
    """

    widths: Widths
    surfaces: Numbers  # factors of each operator's surface
    between_ms: float
    scale: float = 1.0
    original_ms: float = 0.0

    @cached_property
    def touched(self) -> list[Places]:
        """For each group the places of the operators whose time depends on it."""
        return self.widths.touched()

    @staticmethod
    def of(graph: Graph, table: Table) -> Prediction:
        """The predictions of a table for a network.

        Raises:
            BadUsage: the table holds none of the network's layers.

        """
        widths = Widths(graph)
        rows = _rows_for(graph, widths, table)
        fitted = {id(row): Surface.fitted(row.points).factors for row in rows if row is not None}
        none = Surface.fitted([]).factors
        if not fitted:
            raise BadUsage("The latency table has no layer of this network: profile the network itself.")
        factors = np.array([none if row is None else fitted[id(row)] for row in rows])
        made = Prediction(widths, factors, table.between_ms, _bias(rows, fitted))
        made.original_ms = made.milliseconds(widths.now)
        if table.original_ms is not None and table.sha256 == graph.loaded.sha256:
            made.original_ms = table.original_ms
        return made

    def milliseconds(self, counts: Counts) -> float:
        """A run's milliseconds when each group keeps so many classes."""
        return self.between_ms + self.scale * float(self.parts(*self.widths.at(counts)).sum())

    def parts(self, first: Numbers, second: Numbers) -> Numbers:
        """Milliseconds of each operator, unscaled."""
        parts: Numbers = (terms(first, second) * self.surfaces).sum(axis=-1)
        return parts

    def along(self, counts: Counts, group: int, kept: Counts) -> Numbers:
        """The whole network's time less what it is now, where one group keeps each of some counts."""
        places = self.touched[group]
        tried = np.repeat(counts[None], len(kept) + 1, axis=0)
        tried[1:, group] = kept
        parts = terms(*self.widths.at(tried, places)) * self.surfaces[places]
        times: Numbers = self.scale * parts.sum(axis=(1, 2))
        changes: Numbers = times[1:] - times[0]
        return changes

    def neighbours(self, group: int) -> list[int]:
        """The groups that share an operator with a group, itself among them."""
        mine = set(self.touched[group].tolist())
        return [k for k, places in enumerate(self.touched) if k == group or mine & set(places.tolist())]


def _rows_for(graph: Graph, widths: Widths, table: Table) -> list[Row | None]:
    """The row of each operator: of its shape, or that names it."""
    names = layer_names(graph)
    named = {name: row for row in table.rows.values() for name in row.names}
    shapes = shapes_of(graph, widths.operators)
    return [
        table.rows.get(shape) or named.get(names.get(op.index, op.name))
        for op, shape in zip(widths.operators, shapes, strict=True)
    ]


def _bias(rows: list[Row | None], fitted: dict[int, Numbers]) -> float:
    """All measured times over all fitted ones: what is close in relative terms is a little short."""
    measured, found = 0.0, 0.0
    for row in {id(row): row for row in rows if row is not None and row.points}.values():
        first, second, times = (np.array(column) for column in zip(*row.points, strict=True))
        measured += float(times.sum())
        found += float(Surface(fitted[id(row)])(first, second).sum())
    return measured / found if found else 1.0
