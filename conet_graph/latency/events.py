"""Whose time it is: from ONNX Runtime's nodes, after its fusions, back to a network's own operators.

ONNX Runtime folds batch norms, activations and sums into convolutions, and puts nodes between them that
change the layout. What it writes of each node's time is counted for the operator from which the node came.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from conet_graph.analysis.layers import layers_of
from conet_graph.ir.graph import Graph, Operator

# Nodes are named so before ONNX Runtime sees them: their names live on in what they are fused into.
_MARK = re.compile(r"@(\d+)@")
_BLOCKED = "_nchwc"  # the end of the name of a node in the blocked layout; before it, the value it writes
# Nodes of these kinds are layers: what else they are named after is folded into the layer above.
_LAYER_KINDS = ("Conv", "Gemm", "MatMul")


def marked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose nodes are named by their places; ``proto`` itself is changed."""
    for index, node in enumerate(proto.graph.node):
        node.name = f"@{index}@"
    return proto


def operator_times(events: Path, optimized: onnx.ModelProto, graph: Graph) -> dict[int, float]:
    """Milliseconds of each operator (by its index), from a profile of several runs.

    Of each node the lower quartile of all runs: one that was interrupted says nothing.
    """
    nodes: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(events.read_text("utf-8")):
        if event["name"].endswith("_kernel_time"):
            nodes[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    owners = _Owners(graph)
    times: dict[int, float] = defaultdict(float)
    for node in optimized.graph.node:
        if node.name not in nodes:
            continue
        owner = owners.of(node)
        if owner is not None:
            times[owner] += float(np.percentile(nodes[node.name], 25))
    return dict(times)


class _Owners:
    """The operator to which the time of each node belongs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers = {layer.op.index for layer in layers_of(graph)}
        self.of_value: dict[str, int] = {}  # owners of values that only the optimized model has
        self.taken: set[int] = set()

    def of(self, node: onnx.NodeProto) -> int | None:
        """An operator's index; nodes are asked for in their order."""
        found = self._named(node)
        if found is None:
            return None
        if any(kind in node.op_type for kind in _LAYER_KINDS):
            found = self._layer_above(found)
            self.taken.add(found)
        for value in node.output:
            self.of_value[value] = found
        return found

    def _named(self, node: onnx.NodeProto) -> int | None:
        mark = _MARK.search(node.name)
        if mark is not None:
            return int(mark[1])
        for value in [*node.output, node.name.removesuffix(_BLOCKED), *node.input]:
            if value in self.graph.producers:
                return self.graph.producers[value].index
            if value in self.of_value:
                return self.of_value[value]
        return None

    def _layer_above(self, index: int) -> int:
        """The nearest layer at or above an operator that no other node has been; itself if there is none."""
        ahead, seen = [index], {index}
        while ahead:
            at = ahead.pop(0)
            if at in self.layers and at not in self.taken:
                return at
            if at in self.layers and at != index:
                continue
            for op in self._above(self.graph.operators[at]):
                if op.index not in seen:
                    seen.add(op.index)
                    ahead.append(op.index)
        return index

    def _above(self, op: Operator) -> list[Operator]:
        return [self.graph.producers[value] for value in op.inputs if value in self.graph.producers]


def configure_profile(folder: Path) -> Any:
    """What a session needs to write its profile, and the model as it runs it, into a folder."""

    def configure(options: Any) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / "optimized.onnx")

    return configure
