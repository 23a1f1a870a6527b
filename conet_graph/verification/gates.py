"""Layers that make a gate, as in squeeze-and-excitation: a fault in them hardly shows behind it."""

from __future__ import annotations

from conet_graph.ir.graph import Graph
from conet_graph.passes.classify_edges import LAYERS, Layer

_GATES = frozenset(["Clip", "HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"])
# What may stand between a layer and its gate, and between a gate and the product that it weighs.
_PASS = frozenset(
    ["Add", "BatchNormalization", "Cast", "Div", "Expand", "Flatten", "Identity", "Reshape", "Squeeze"]
) | {"Transpose", "Unsqueeze"}


def gate_layers(graph: Graph) -> list[Layer]:
    """The layers whose results do nothing but weigh others, through a function that flattens out."""
    return [layer for layer in graph.result(LAYERS) if _only(graph, layer.op.outputs[0], _GATES, 8)]


def _only(graph: Graph, value: str, ends: frozenset[str], steps: int) -> bool:
    """Whether all readers of a value are of some kinds, at once or behind what passes it on."""
    uses = graph.consumers.get(value, [])
    if not uses or steps == 0 or value in graph.outputs or value in graph.captured:
        return False
    for op, _ in uses:
        if op.op_type in ends:
            if ends is _GATES and not _only(graph, op.outputs[0], frozenset(["Mul"]), steps - 1):
                return False
        elif op.op_type not in _PASS or not _only(graph, op.outputs[0], ends, steps - 1):
            return False
    return True
