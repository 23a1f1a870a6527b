"""The twin of a model that computes in float32 where the model computes in half floats."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from conet_graph.ir.graph import bodies

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with every half float a float32; the model itself where it has none.

    Processors compute half floats slowly, some runtimes not at all, and sums of squares overflow in them.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    if not _converted(twin.graph):
        return model
    return twin


def _converted(graph: onnx.GraphProto) -> bool:
    found = False
    for tensor in graph.initializer:
        found |= _tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            found = True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in HALVES:
                attribute.i, found = TensorProto.FLOAT, True
            if attribute.type == onnx.AttributeProto.TENSOR:
                found |= _tensor(attribute.t)
        for body in bodies(node):
            found |= _converted(body)
    return found


def _tensor(tensor: TensorProto) -> bool:
    if tensor.data_type not in HALVES:
        return False
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True
