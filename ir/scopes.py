"""Walking a whole model: its graph, sub-graphs and functions, without recursion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.graph import bodies

# Protobuf itself reads no more than about 100 nested messages, three for each sub-graph.
DEEPEST = 64


@dataclass(frozen=True)
class Scope:
    """One list of nodes: a graph (``graph``), or the body of a function."""

    nodes: Sequence[onnx.NodeProto]
    graph: onnx.GraphProto | None
    opset: int
    depth: int = 0
    outer: Scope | None = None
    in_function: bool = False


def opset_of(imports: Sequence[onnx.OperatorSetIdProto]) -> int:
    """The version of ONNX's own operators that a model or function imports; 0 where it imports none."""
    return next((o.version for o in imports if o.domain in ("", "ai.onnx")), 0)


def scopes(proto: onnx.ModelProto) -> Iterator[Scope]:
    """The main graph first, then every function and every sub-graph; an outer scope before its inner ones.

    Raises:
        InvalidModel: sub-graphs are nested too deep.

    """
    opset = opset_of(proto.opset_import)
    pending = [
        Scope(f.node, None, opset_of(f.opset_import) or opset, in_function=True) for f in proto.functions
    ]
    pending.append(Scope(proto.graph.node, proto.graph, opset))
    while pending:
        scope = pending.pop()
        if scope.depth > DEEPEST:
            raise InvalidModel(f"The model nests sub-graphs more than {DEEPEST} deep: flatten it.")
        yield scope
        for node in scope.nodes:
            pending.extend(
                Scope(body.node, body, scope.opset, scope.depth + 1, scope, scope.in_function)
                for body in bodies(node)
            )


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, the main graph's initializers first."""
    for scope in scopes(proto):
        if scope.graph is not None:
            yield from scope.graph.initializer
            for sparse in scope.graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in scope.nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in sparse_tensors(attribute):
                    yield from (sparse.values, sparse.indices)


def sparse_tensors(attribute: onnx.AttributeProto) -> list[onnx.SparseTensorProto]:
    """The sparse tensors of an attribute."""
    single = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    return [*single, *attribute.sparse_tensors]
