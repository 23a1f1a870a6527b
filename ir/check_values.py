"""What the file declares of its values: types that exist, and agree with the initializers."""

from __future__ import annotations

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.scopes import scopes

_TYPES = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def check_values(proto: onnx.ModelProto) -> None:
    """Check the declarations of inputs, outputs and values of all graphs.

    Raises:
        InvalidModel: naming the value.

    """
    for scope in scopes(proto):
        graph = scope.graph
        if graph is None:
            continue
        for values in (graph.input, graph.output, graph.value_info):
            for value in values:
                _element_type(value)
        weights = {t.name: t for t in graph.initializer}
        for value in graph.input:
            if value.name in weights:
                _agrees(value, weights[value.name])
            elif scope.depth == 0 and not value.type.WhichOneof("value"):
                raise InvalidModel(f"Graph input {shown(value.name)} is declared without a type.")


def _element_type(value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return
    dtype = getattr(value.type, kind).elem_type
    # Many exporters declare values whose type they do not know.
    if dtype and dtype not in _TYPES:
        raise InvalidModel(f"Value {shown(value.name)} is declared with the element type {dtype}.")


def _agrees(value: onnx.ValueInfoProto, weight: onnx.TensorProto) -> None:
    declared = value.type.tensor_type
    if declared.elem_type not in (0, weight.data_type):
        raise InvalidModel(f"The initializer {shown(weight.name)} has another type than its declaration.")
    if not declared.HasField("shape"):
        return
    dims = declared.shape.dim
    pairs = zip(dims, weight.dims, strict=False)
    if len(dims) != len(weight.dims) or any(d.dim_value > 0 and d.dim_value != held for d, held in pairs):
        raise InvalidModel(f"The initializer {shown(weight.name)} has another shape than its declaration.")
