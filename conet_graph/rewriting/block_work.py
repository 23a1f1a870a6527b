"""How much work a network is for a runtime that computes channels in blocks: an estimate without a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conet_graph.analysis.layers import layers_of
from conet_graph.costs.cost import layer_macs
from conet_graph.costs.cost_model import CostModel
from conet_graph.costs.operator_widths import Counts, Numbers, Widths
from conet_graph.ir.graph import Graph
from conet_graph.rewriting.alignment import BLOCK, has_window

# What a product takes, beside one of a 3x3 convolution in whole blocks (ONNX Runtime, docs/LATENCY.md): a
# depthwise layer waits for memory, few channels in front of a 1x1 layer change their layout first, and groups
# of a grouped convolution that are no whole blocks are computed one by one.
DEPTHWISE, UNPACKED, GROUPED = 4.0, 1.5, 2.0


class BlockWork:
    """Multiply-accumulates as a runtime takes them, when each group keeps so many classes.

    Layers whose MACs are not known are left out. Comparable between widths of one network.
    """

    def __init__(self, graph: Graph) -> None:
        self._widths = Widths(graph)
        layers = [(layer, macs) for layer in layers_of(graph) if (macs := layer_macs(graph, layer))]
        self._places = np.array([self._widths.place[layer.op.index] for layer, _ in layers], np.int64)
        out, each = self._widths.at(self._widths.now, self._places)
        self._positions = np.array([macs for _, macs in layers], np.float64) / (out * each)
        self._groups = np.array([layer.groups for layer, _ in layers], np.int64)
        self._windows = np.array([has_window(graph, layer) for layer, _ in layers], np.bool_)

    def at(self, counts: Counts) -> float:
        """The work at some widths."""
        out, each = self._widths.at(counts, self._places)  # ``each``: the inputs that an output sums over
        read = np.where(each < BLOCK, np.where(self._windows, each, UNPACKED * BLOCK), _whole(each))
        in_blocks = (out / self._groups % BLOCK == 0) & (each % BLOCK == 0)
        grouped = np.where(in_blocks, out * each, GROUPED * out * np.maximum(each, BLOCK))
        depthwise = DEPTHWISE * _whole(out)
        work = np.where(self._groups == 1, _whole(out) * read, np.where(each == 1, depthwise, grouped))
        return float(self._positions @ work)


def _whole(widths: Numbers) -> Numbers:
    return np.ceil(widths / BLOCK) * BLOCK


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates in the place of a time: what the knapsack has a budget of."""

    model: CostModel

    def milliseconds(self, counts: Counts) -> float:
        """The whole network's."""
        return self.model.macs(counts.astype(np.float64))

    def along(self, counts: Counts, group: int, kept: Counts) -> Numbers:
        """Those of the whole network less what they are now, where one group keeps each of some counts."""
        return self.model.macs_along(counts.astype(np.float64), group, kept.astype(np.float64))

    def neighbours(self, group: int) -> list[int]:
        """The groups that share a layer with a group."""
        return self.model.neighbours(group)
