"""Walking a whole model: its graph, sub-graphs and functions, without recursion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.graph import bodies

# Protobuf itself reads no more than about 100 nested messages, three for each sub-graph.
DEEPEST = 64


@dataclass(frozen=True, eq=False)
class Scope:
    """One list of nodes: that of a graph, or the body of a function; ``outer`` is the scope around it."""

    owner: onnx.GraphProto | onnx.FunctionProto
    opset: int
    depth: int = 0
    outer: Scope | None = None
    in_function: bool = False

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The operators, in the file's order."""
        nodes: Sequence[onnx.NodeProto] = self.owner.node
        return nodes

    @property
    def graph(self) -> onnx.GraphProto | None:
        """The graph; None in the body of a function."""
        return self.owner if isinstance(self.owner, onnx.GraphProto) else None

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [_name(v) for v in self.owner.input]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [_name(v) for v in self.owner.output]

    @property
    def attributes(self) -> Iterator[onnx.AttributeProto]:
        """The attributes of all operators."""
        for node in self.nodes:
            yield from node.attribute

    @property
    def constants(self) -> list[str]:
        """Names of the initializers, sparse ones too."""
        graph = self.graph
        if graph is None:
            return []
        return [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]


def _name(value: onnx.ValueInfoProto | str) -> str:
    """The name of a graph's or a function's value (bytes, which ``check`` refuses, where it is not UTF-8)."""
    return value.name if isinstance(value, onnx.ValueInfoProto) else value


def opset_of(imports: Sequence[onnx.OperatorSetIdProto]) -> int:
    """The version of ONNX's own operators that a model or function imports; 0 where it imports none."""
    return next((o.version for o in imports if o.domain in ("", "ai.onnx")), 0)


def scopes(proto: onnx.ModelProto) -> Iterator[Scope]:
    """The main graph first, then every function and every sub-graph; an outer scope before its inner ones.

    Raises:
        InvalidModel: sub-graphs are nested too deep.

    """
    opset = opset_of(proto.opset_import)
    pending = [Scope(f, opset_of(f.opset_import) or opset, in_function=True) for f in proto.functions]
    pending.append(Scope(proto.graph, opset))
    while pending:
        scope = pending.pop()
        if scope.depth > DEEPEST:
            raise InvalidModel(f"The model nests sub-graphs more than {DEEPEST} deep: flatten it.")
        yield scope
        pending.extend(
            Scope(body, scope.opset, scope.depth + 1, scope, scope.in_function)
            for node in scope.nodes
            for body in bodies(node)
        )


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every dense tensor of a model and the parts of sparse ones, the main graph's initializers first."""
    sparse: list[onnx.SparseTensorProto] = []
    for scope in scopes(proto):
        if scope.graph is not None:
            yield from scope.graph.initializer
            sparse += scope.graph.sparse_initializer
        for attribute in scope.attributes:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse += _sparse(attribute)
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def sparse_tensors(proto: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    """Every sparse tensor of a model."""
    for scope in scopes(proto):
        if scope.graph is not None:
            yield from scope.graph.sparse_initializer
        for attribute in scope.attributes:
            yield from _sparse(attribute)


def _sparse(attribute: onnx.AttributeProto) -> list[onnx.SparseTensorProto]:
    one = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    return [*one, *attribute.sparse_tensors]
