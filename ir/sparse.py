"""Sparse tensors written out: what they stand for (onnx.proto, SparseTensorProto)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from conet_graph.ir.tensors import count, inline_array, is_packed

# A tensor in which fewer numbers than one in so many are stored stays as it is, if it is large: a few bytes
# of a file must not become gigabytes.
MOST_FOR_EACH = 256
ALWAYS = 2**20


def dense_tensor(sparse: onnx.SparseTensorProto) -> onnx.TensorProto | None:
    """The tensor with all its zeros.

    None where it is not to be had: its numbers lie beside the file, share bytes or are strings, its indices
    do not fit its shape, or it is nearly empty.
    """
    values, size = sparse.values, count(sparse)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in (values, sparse.indices)):
        return None
    if values.data_type == onnx.TensorProto.STRING or is_packed(values):
        return None
    if size > ALWAYS + MOST_FOR_EACH * count(values):
        return None
    stored = inline_array(values).reshape(-1)
    places = _places(sparse, size)
    if places is None or len(places) != len(stored):
        return None
    whole = np.zeros(size, stored.dtype)
    whole[places] = stored
    made = numpy_helper.from_array(whole.reshape(tuple(sparse.dims)), values.name)
    made.data_type = values.data_type
    return made


def _places(sparse: onnx.SparseTensorProto, size: int) -> np.ndarray[Any, Any] | None:
    """Where the numbers stand in the tensor written in one row; None where some stand nowhere, or twice."""
    if sparse.indices.data_type != onnx.TensorProto.INT64:
        return None
    index, dims = inline_array(sparse.indices), list(sparse.dims)
    if index.ndim == 2 and index.shape[1] == len(dims):
        if (index < 0).any() or (index >= np.array(dims)).any():
            return None
        index = index @ np.array([math.prod(dims[k + 1 :]) for k in range(len(dims))], np.int64)
    if index.ndim != 1 or (index < 0).any() or (index >= size).any() or len(np.unique(index)) < len(index):
        return None
    return index
