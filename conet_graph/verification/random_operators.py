"""Operators whose results differ from run to run."""

from __future__ import annotations

import onnx

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph, bodies

_RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


def random_operators(graph: Graph) -> list[str]:
    """The random operators of a network, in sub-graphs too; Dropout is one where it is told to train."""
    found: list[str] = []
    pending = [op.proto for op in graph.operators]
    while pending:
        node = pending.pop(0)
        if node.op_type in _RANDOM or (node.op_type == "Dropout" and _trains(graph, node)):
            found.append(f"{node.op_type} {shown(node.name or node.output[0])} is random")
        for body in bodies(node):
            pending.extend(body.node)
    return found


def _trains(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Dropout drops anything (its third input since opset 12; an attribute before opset 7)."""
    if graph.opset < 7:
        return not any(a.name == "is_test" and a.i for a in node.attribute)
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode = node.input[2]
    return mode not in graph.constants or bool(graph.array(mode).any())
