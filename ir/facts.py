"""Element types and sizes that a file states plainly, carried along operators that keep them.

Not shape inference: no more is followed than what lets ``check_layers`` hold a layer's weights
against what it is fed. What is not known is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.operators import CONVOLUTIONS, CURVES, PRODUCTS, WEIGHTED, channels_of_weight
from conet_graph.ir.order import called
from conet_graph.ir.schemas import ELEMENT_TYPES, formal_at, schema_of
from conet_graph.ir.scopes import opset_of

Sizes = tuple[int | None, ...]
# Operators whose output has the shape of their first input.
_KEEP = CURVES | {"BatchNormalization", "InstanceNormalization", "LRN"}
POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"})


@dataclass(frozen=True)
class Stated:
    """What is known of one value: its element type (0: unknown) and sizes (None: unknown)."""

    dtype: int = 0
    sizes: Sizes | None = None


UNKNOWN = Stated()


class Known:
    """The facts of a model's main graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.opset = opset_of(proto.opset_import)
        self.local = {(f.domain, f.name) for f in proto.functions}
        self.proto = proto
        self.values: dict[str, Stated] = {}
        for value in proto.graph.input:
            tensor = value.type.tensor_type
            dims = tensor.shape.dim if tensor.HasField("shape") else None
            # -1 or 0 stands for "unknown" in some exporters' files.
            sizes = None if dims is None else tuple(d.dim_value if d.dim_value > 0 else None for d in dims)
            self.values[value.name] = Stated(tensor.elem_type, sizes)
        for weight in proto.graph.initializer:
            self.values[weight.name] = _of(weight)

    def of(self, name: str) -> Stated:
        """What is stated of one value."""
        return self.values.get(name, UNKNOWN)

    def input(self, op: Operator, slot: int) -> Stated:
        """What is stated of one input of an operator."""
        return self.of(op.input(slot))

    def walk(self) -> Iterator[Operator]:
        """ONNX's own operators, each when the facts of its inputs are there.

        Raises:
            InvalidModel: an input has a type that its operator does not take, or two inputs disagree.

        """
        for index, node in enumerate(self.proto.graph.node):
            if node.domain not in ("", "ai.onnx") or (node.domain, node.op_type) in self.local:
                continue
            bound = self._types(node)
            op = Operator(index, node, self.opset)
            yield op
            self._outputs(op, bound)

    def _types(self, node: onnx.NodeProto) -> dict[str, int]:
        """The element type that each type name of the operator stands for in this node."""
        schema = schema_of(node.op_type, self.opset)
        bound: dict[str, int] = {}
        for slot, name in enumerate(node.input if schema else ()):
            dtype = self.of(name).dtype
            formal = formal_at(schema.inputs, slot) if schema else None
            if not dtype or formal is None:
                continue
            if dtype not in formal.types:
                raise InvalidModel(
                    f"Node {called(node)} gets {shown(name)} of type {_type_name(dtype)},"
                    " which its operator does not take."
                )
            if formal.same and bound.setdefault(formal.type_name, dtype) != dtype:
                raise InvalidModel(
                    f"Node {called(node)} gets {shown(name)} of type {_type_name(dtype)},"
                    f" but another input is {_type_name(bound[formal.type_name])}."
                )
        return bound

    def _outputs(self, op: Operator, bound: dict[str, int]) -> None:
        schema = schema_of(op.op_type, self.opset)
        if schema is None:
            return
        for slot, name in enumerate(op.outputs):
            formal = formal_at(schema.outputs, slot)
            dtype = ELEMENT_TYPES.get(formal.type_name) or (
                bound.get(formal.type_name, 0) if formal.same else 0
            )
            self.values[name] = Stated(dtype)
        first, made = op.outputs[0], self._made(op)
        self.values[first] = Stated(made.dtype or self.of(first).dtype, made.sizes)

    def _made(self, op: Operator) -> Stated:
        """What a node says of its first output beyond the operator's description."""
        x = self.input(op, 0)
        if op.op_type == "Constant" and isinstance(value := op.attr("value"), onnx.TensorProto):
            return _of(value)
        if op.op_type == "Cast" and op.attr("to"):
            return Stated(op.attr("to"), x.sizes)
        return Stated(sizes=self._sizes(op, x.sizes))

    def _sizes(self, op: Operator, x: Sizes | None) -> Sizes | None:
        if op.op_type in _KEEP:
            return x
        product = PRODUCTS.get(op.op_type)
        if op.op_type in CONVOLUTIONS or (product is not None and product.of_two_axes):
            return self._of_layer(op)
        if x is None:
            return None
        if op.op_type in POOLS:
            return (*x[:2], *(None for _ in x[2:]))
        if op.op_type in _GLOBAL_POOLS:
            return (*x[:2], *(1 for _ in x[2:]))
        if op.op_type == "Flatten" and op.attr("axis", 1) == 1:
            rest = [size for size in x[1:] if size is not None]
            return (None, math.prod(rest) if len(rest) == len(x) - 1 else None)
        return None

    def _of_layer(self, op: Operator) -> Sizes | None:
        slot = WEIGHTED[op.op_type].weight
        weight = self.input(op, slot).sizes
        if weight is None or len(weight) < 2:
            return None
        return (None, channels_of_weight(op, slot, weight)[1], *(None for _ in weight[2:]))


def _of(tensor: onnx.TensorProto) -> Stated:
    return Stated(tensor.data_type, tuple(tensor.dims))


def _type_name(dtype: int) -> str:
    known = onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(dtype).lower() if dtype in known else str(dtype)
