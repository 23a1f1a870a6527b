"""Each reader of a computed shape gets its own: what exporters compute once is to tie no layers together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from conet_graph.ir.graph import Graph, Operator


@dataclass(frozen=True)
class OwnShapes:
    """A shape with a number that may count channels is computed once for each operator that reads it.

    Exporters and optimisers compute equal shapes once: two maps with as many channels would then have to
    keep as many. The graph does not double by it: when as many operators have been added as there were,
    the rest stays shared.
    """

    name: ClassVar[str] = "own_shapes"

    def run(self, graph: Graph) -> None:
        """Give every use after the first its own copy of the operator, last operators first."""
        uses = {name: [(op.proto, slot) for op, slot in found] for name, found in graph.consumers.items()}
        copies: dict[int, list[onnx.NodeProto]] = {}
        left = len(graph.operators)
        for op in reversed(graph.operators):
            if not _may_count_channels(graph, op):
                continue
            for reader, slot in uses.get(op.outputs[0], [])[1:][:left]:
                made = _copy(graph, op)
                reader.input[slot] = made.output[0]
                for k, name in enumerate(made.input):
                    uses.setdefault(name, []).append((made, k))
                copies.setdefault(op.index, []).append(made)
                left -= 1
        if copies:
            nodes = [[op.proto, *copies.get(op.index, [])] for op in graph.operators]
            graph.keep_nodes([node for both in nodes for node in both])
            graph.shapes_stale = False


def _may_count_channels(graph: Graph, op: Operator) -> bool:
    """Whether an operator computes numbers of which one, above 1, stands in the file."""
    entries = graph.known.get(op.outputs[0], []) if len(op.outputs) == 1 else []
    return any(e.source is not None and e.source[0] == "const" and (e.value or 0) > 1 for e in entries)


def _copy(graph: Graph, op: Operator) -> onnx.NodeProto:
    """The same operator with an output of its own, of which the same is known."""
    value = op.outputs[0]
    own = graph.fresh_name(value)
    while own in graph.known:
        own = graph.fresh_name(own)
    graph.known[own] = graph.known[value]
    if value in graph.shapes:
        graph.shapes[own] = graph.shapes[value]
    if value in graph.dtypes:
        graph.dtypes[own] = graph.dtypes[value]
    made = onnx.NodeProto()
    made.CopyFrom(op.proto)
    made.output[0] = own
    made.name = own if made.name else ""
    return made
