"""What exporters leave behind: Identity of constants and dead code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from conet_graph.ir.dead_code import drop_unused_constants, live_nodes
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
