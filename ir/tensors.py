"""Sizes and values of tensors as the file holds them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.errors import InvalidModel, shown

# Element types of less than a byte, in bits (ONNX spec, "TensorProto: packed types").
_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
_PACKED = {number for name, number in onnx.TensorProto.DataType.items() if name in _BITS}
_KNOWN = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def count(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> int:
    """Number of elements that a tensor's shape promises (exact, whatever the file claims)."""
    return math.prod(tensor.dims)


def nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's raw data.

    Raises:
        InvalidModel: unknown element type, or a type without a fixed size.

    """
    if tensor.data_type not in _KNOWN or tensor.data_type == onnx.TensorProto.STRING:
        raise InvalidModel(
            f"Tensor {shown(tensor.name)} has the element type {tensor.data_type},"
            " which holds no numbers that can be read."
        )
    bits = _BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    if bits:
        return -(-count(tensor) * bits // 8)
    return count(tensor) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def field_length(tensor: onnx.TensorProto) -> int:
    """Numbers that a tensor has in the field of its type, where it has no raw data."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind.startswith("COMPLEX"):
        return 2 * count(tensor)
    # Of the packed types, those that fill a byte evenly are packed here too, a byte an entry.
    return nbytes(tensor) if 8 % _BITS.get(kind, 3) == 0 else count(tensor)


def is_packed(tensor: onnx.TensorProto) -> bool:
    """Whether several elements share a byte."""
    return tensor.data_type in _PACKED


def inline_array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Value of a tensor held in the model file itself; raw data is viewed, not copied."""
    if tensor.HasField("raw_data") and not is_packed(tensor):
        return np.frombuffer(tensor.raw_data, stored_dtype(tensor.data_type)).reshape(tuple(tensor.dims))
    return numpy_helper.to_array(tensor)


@lru_cache
def stored_dtype(data_type: int) -> np.dtype[Any]:
    """The numpy type of raw data: little-endian (onnx.proto, TensorProto.raw_data)."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).newbyteorder("<")
