"""What a network would cost at other widths, without rewriting it.

The length of every axis is a fixed part plus, for each group on it, (positions a class) x (classes kept): so
parameters and multiply-accumulates are sums of products of such lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from conet_graph.cost import layer_macs, product_macs, weights_of
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import CONVOLUTIONS, KNOWN_DOMAINS, PRODUCTS
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import Channels
from conet_graph.passes.units import Axis

Counts = NDArray[np.float64]
Term = tuple[float, list[int]]


class CostModel:
    """Parameters and MACs as functions of the number of classes that each group keeps."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels: Channels = graph.notes["channels"]
        self.fixed: list[float] = []
        self._entries: list[tuple[int, int, float]] = []
        self._rows: dict[tuple[str, int], int] = {}
        self._parameter_terms = [self._tensor_term(name) for name in weights_of(graph).values()]
        self._mac_terms = [t for layer in graph.notes["layers"] if (t := self._layer_term(layer))]
        self._mac_terms += self._other_products()
        rows, columns, values = zip(*self._entries, strict=True) if self._entries else ((), (), ())
        shape = (len(self.fixed), len(self.channels.groups))
        self.matrix = csr_array((values, (rows, columns)), shape=shape) if self.fixed else None

    def parameters(self, counts: Counts) -> float:
        """Parameters when each group keeps ``counts`` classes."""
        return self._sum(self._parameter_terms, counts)

    def macs(self, counts: Counts) -> float:
        """Multiply-accumulates when each group keeps ``counts`` classes (unknown ones left out)."""
        return self._sum(self._mac_terms, counts)

    def _sum(self, terms: Sequence[Term], counts: Counts) -> float:
        if self.matrix is None:
            return sum(factor for factor, _ in terms)
        lengths = np.asarray(self.fixed) + self.matrix @ counts
        return float(sum(factor * np.prod(lengths[rows]) for factor, rows in terms))

    def _row(self, value: str, axis: int) -> int:
        """The row of an axis's length."""
        key = (value, axis)
        if key in self._rows:
            return self._rows[key]
        units = self._axis(value, axis)
        row = self._rows[key] = len(self.fixed)
        if isinstance(units, int):
            shape = self.graph.shape(value)
            size = shape[axis] if shape is not None else 1
            self.fixed.append(float(size) if isinstance(size, int) else 1.0)
            return row
        numbers = self.channels.group_of_class[self.channels.units.classes[units]]
        free = np.array([g.free for g in self.channels.groups], np.bool_)
        moves = (numbers >= 0) & free[numbers] if len(free) else np.zeros(len(numbers), np.bool_)
        self.fixed.append(float(np.count_nonzero(~moves)))
        for number, times in zip(*np.unique(numbers[moves], return_counts=True), strict=True):
            classes = len(self.channels.groups[int(number)].classes)
            self._entries.append((row, int(number), float(times) / classes))
        return row

    def _axis(self, value: str, axis: int) -> Axis:
        units = self.channels.units
        if (value, axis) in units.stored:
            return units.stored[value, axis]
        axes = units.values.get(value)
        return axes[axis] if axes is not None and axis < len(axes) else 0

    def _tensor_term(self, name: str) -> Term:
        shape = self.graph.shape(name) or ()
        return 1.0, [self._row(name, k) for k in range(len(shape))]

    def _layer_term(self, layer: Layer) -> Term | None:
        op = layer.op
        macs = layer_macs(self.graph, layer)
        if macs is None:
            return None
        if op.op_type in CONVOLUTIONS or op.op_type in ("GRU", "LSTM", "RNN"):
            weight = op.input(layer.weight_slot)
            rows = [self._row(weight, k) for k in range(len(self.graph.shape(weight) or ()))]
            return self._scaled(macs, rows)
        return self._product_term(op.input(layer.data_slot), op.outputs[0], macs, op.op_type, layer)

    def _product_term(self, data: str, out: str, macs: int, op_type: str, layer: Layer | None) -> Term:
        rows = [self._row(out, k) for k in range(1, len(self.graph.shape(out) or ()))]
        rank = len(self.graph.shape(data) or ())
        inner = rank - 1
        if layer is not None and layer.data_slot < layer.weight_slot and layer.op.attr("transA", 0):
            inner = rank - 2
        return self._scaled(macs, [*rows, self._row(data, inner)])

    def _scaled(self, macs: int, rows: list[int]) -> Term:
        """A term whose value at the widths of today is ``macs``."""
        now = 1.0
        groups = self.channels.groups
        for row in rows:
            moving = sum(v * len(groups[g].classes) for r, g, v in self._entries_of(row))
            now *= self.fixed[row] + moving
        return (macs / now if now else 0.0), rows

    def _entries_of(self, row: int) -> list[tuple[int, int, float]]:
        # Entries of a row lie together, and rows are made in order.
        found = []
        for entry in reversed(self._entries):
            if entry[0] < row:
                break
            if entry[0] == row:
                found.append(entry)
        return found

    def _other_products(self) -> list[Term]:
        layers = {layer.op.index for layer in self.graph.notes["layers"]}
        terms: list[Term] = []
        for op in self.graph.operators:
            facts = PRODUCTS.get(op.op_type) if op.domain in KNOWN_DOMAINS else None
            if facts is None or op.index in layers or op.input(facts.data) in self.graph.constants:
                continue
            macs = product_macs(self.graph, op, facts.data, facts.weight)
            if macs is not None:
                terms.append(self._product_term(op.input(facts.data), op.outputs[0], macs, op.op_type, None))
        return terms
