"""What exporters leave behind: Identity of constants and dead code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from conet_graph.ir.graph import Constant, Graph


@dataclass(frozen=True)
class Canonicalize:
    """Identity nodes of constants become constants of their own; dead code goes.

    Constant nodes have become constants when the graph was made. An Identity of a constant is how one
    exporter writes "these layers happen to have equal values": each gets its own copy.
    """

    name: ClassVar[str] = "canonicalize"
    doc: ClassVar[str] = "constants behind Identity become constants; dead code goes"

    def run(self, graph: Graph) -> None:
        """Simplify the graph in place."""
        kept: list[onnx.NodeProto] = []
        outputs = set(graph.outputs)
        for op in graph.operators:
            constant = graph.constants.get(op.input(0)) if op.op_type == "Identity" else None
            if constant is None or op.domain or op.outputs[0] in outputs:
                kept.append(op.proto)
            else:
                graph.constants[op.outputs[0]] = Constant(constant.tensor, constant.source)
        alive = live_nodes(kept, outputs)
        if len(alive) != len(graph.operators):
            graph.keep_nodes(alive)
        drop_unused_constants(graph)


def live_nodes(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output needs, in their order."""
    needed = set(outputs)
    alive: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if any(o in needed for o in node.output):
            alive.append(node)
            needed.update(node.input)
            pending = list(_bodies(node))
            while pending:
                body = pending.pop()
                needed.update(v.name for v in body.output)
                for inner in body.node:
                    needed.update(inner.input)
                    pending.extend(_bodies(inner))
    return alive[::-1]


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    for attribute in node.attribute:
        found.extend(attribute.graphs)
    return found


def drop_unused_constants(graph: Graph) -> None:
    """Forget constants that nothing reads; those that are graph inputs or outputs stay."""
    used = set(graph.outputs) | graph.captured | {v.name for v in graph.skeleton.graph.input}
    for op in graph.operators:
        used.update(op.inputs)
    for name in [n for n in graph.constants if n not in used]:
        del graph.constants[name]
