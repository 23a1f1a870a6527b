"""What exporters leave behind: Identity of constants and dead code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from conet_graph.ir.dead_code import drop_unused_constants, live_nodes
from conet_graph.ir.graph import Constant, Graph, Operator


@dataclass(frozen=True)
class Canonicalize:
    """Identity nodes of constants become constants of their own; dead code goes.

    Constant nodes have become constants when the graph was made. An Identity of a constant is how one
    exporter writes "these layers happen to have equal values": each gets its own copy.
    """

    name: ClassVar[str] = "canonicalize"

    def run(self, graph: Graph) -> None:
        """Simplify the graph in place."""
        kept: list[onnx.NodeProto] = []
        outputs = set(graph.outputs)
        for op in graph.operators:
            constant = graph.constants.get(op.input(0))
            made = None
            if constant is not None and not op.domain and op.outputs[0] not in outputs:
                made = _constant_output(graph, op, constant)
            if made is None:
                kept.append(op.proto)
            else:
                graph.constants[op.outputs[0]] = made
        alive = live_nodes(kept, outputs)
        if len(alive) != len(graph.operators):
            graph.keep_nodes(alive)
        drop_unused_constants(graph)


def _constant_output(graph: Graph, op: Operator, constant: Constant) -> Constant | None:
    """The output of Identity or Reshape of a constant, as a constant.

    A Reshape of a weight merges axes that each belong to somebody else; with the merged weight in the
    file the question does not arise (CNTK writes its classifiers so).
    """
    if op.op_type == "Identity":
        return Constant(constant.tensor, constant.source)
    target = graph.constants.get(op.input(1))
    if op.op_type != "Reshape" or target is None or not constant.is_float:
        return None
    dims, wanted = constant.dims, graph.array(op.input(1)).reshape(-1).tolist()
    shape = [dims[k] if n == 0 and k < len(dims) else n for k, n in enumerate(wanted)]
    try:
        array = graph.array(op.input(0)).reshape(shape)
    except (ValueError, TypeError):
        return None  # the target does not fit: what that means is for shape inference to say
    return Constant(numpy_helper.from_array(np.asarray(array), op.outputs[0]), constant.source)
