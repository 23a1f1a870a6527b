"""What no output needs."""

from __future__ import annotations

import onnx

from conet_graph.ir.graph import Graph, read_inside


def live_nodes(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output needs, in their order."""
    needed = set(outputs)
    alive: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.output):
            continue
        alive.append(node)
        needed.update(node.input)
        needed |= read_inside(node)
    return alive[::-1]


def keep_live(graph: Graph, nodes: list[onnx.NodeProto]) -> None:
    """Go on with those of some nodes that an output needs, and with the constants that they read."""
    graph.keep_nodes(live_nodes(nodes, set(graph.outputs)))
    drop_unused_constants(graph)


def drop_unused_constants(graph: Graph) -> None:
    """Forget constants that nothing reads; those that are graph inputs or outputs stay."""
    used = set(graph.outputs) | graph.captured | {v.name for v in graph.skeleton.graph.input}
    for op in graph.operators:
        used.update(op.inputs)
    for name in [n for n in graph.constants if n not in used]:
        del graph.constants[name]
