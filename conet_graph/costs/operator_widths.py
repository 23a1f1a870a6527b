"""The two widths of each operator, at any number of channels that each group keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from conet_graph.analysis.layers import layers_of
from conet_graph.costs.cost_model import Lengths
from conet_graph.ir.einsum import axes_of
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import einsum_layer
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Places = NDArray[np.int64]  # of operators among those that have a width


class Widths:
    """The two widths of each operator, at any number of classes that each group keeps."""

    def __init__(self, graph: Graph) -> None:
        channels = graph.result(CHANNELS)
        self.graph = graph
        self.now = np.array([len(g.classes) for g in channels.groups], np.int64)
        self._lengths = Lengths(graph, channels, self.now.astype(np.float64))
        self._moving: set[int] = set()  # lengths that groups are part of
        self._seen = 0
        layers = {layer.op.index: layer for layer in layers_of(graph)}
        self.operators = [op for op in graph.operators if any(op.outputs)]
        self.place = {op.index: place for place, op in enumerate(self.operators)}
        rows = [self._rows(op, layers.get(op.index)) for op in self.operators]
        longest = max((len(row) for pair in rows for row in pair), default=0)
        # Short products are filled up with the one behind the lengths.
        filled = [[[*row, *[-1] * (longest - len(row))] for row in pair] for pair in rows]
        self._table = np.array(filled, np.int64).reshape(len(rows), 2, longest)
        self._fixed = np.array(self._lengths.fixed)
        self._gains = self._lengths.gains

    def at(self, counts: Counts, places: Places | None = None) -> tuple[Numbers, Numbers]:
        """The first and second widths of operators (all, or those at some places), for one or more counts."""
        lengths = np.rint(self._fixed + counts @ self._gains.T)
        lengths = np.concatenate([lengths, np.ones((*lengths.shape[:-1], 1))], axis=-1)
        rows = self._table if places is None else self._table[places]
        both = np.maximum(np.prod(lengths[..., rows], axis=-1), 1.0)
        return both[..., 0], both[..., 1]

    def touched(self) -> list[Places]:
        """For each group the places of the operators whose widths it is part of."""
        moves = np.concatenate([self._gains != 0, np.zeros((1, len(self.now)), np.bool_)])
        of_operator = np.asarray(moves[self._table].any(axis=(1, 2)))
        return [np.flatnonzero(of_operator[:, group]) for group in range(len(self.now))]

    def _rows(self, op: Operator, layer: Layer | None) -> tuple[list[int], list[int]]:
        if layer is not None:
            weight = op.input(layer.weight_slot)
            rank = len(self.graph.shape(weight) or ())
            written = einsum_layer(op, layer.weight_slot)
            if written is not None and len(written.weight) == rank:
                reads, makes = (axes_of(c, written.weight, rank) for c in (written.summed, written.made))
                return self._axes(weight, reads), self._axes(weight, makes)
            return self._axes(weight, range(min(rank, 1))), self._axes(weight, range(1, min(rank, 2)))
        output = next(value for value in op.outputs if value)
        axes = self._axes(output, range(len(self.graph.shape(output) or ())))
        return [row for row in axes if row in self._moving], []

    def _axes(self, value: str, axes: Iterable[int]) -> list[int]:
        rows = [self._lengths.row(value, axis) for axis in axes]
        self._moving.update(row for row, _, _ in self._lengths.entries[self._seen :])
        self._seen = len(self._lengths.entries)
        return rows
