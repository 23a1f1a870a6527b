"""ONNX Runtime's quantised operators with their channels last, as its optimiser writes them."""

from __future__ import annotations

import zlib

import numpy as np
import onnx
import pytest
from golden_text import filled
from onnx import TensorProto, numpy_helper
from rewidth_case import free, graph_of, rewidthed

from conet_graph.costs.cost import cost

HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'
SCALES = "float s, float sw, uint8 z, int8 zw"
WEIGHTS = "int8[8,3,3,3] w0, int32[8] b0, int8[8,{per},3,3] w1, int8[6,8,1,1] w2, float[6,5] wy"
FROM_IMAGES = "q = QuantizeLinear(x, s, z) t = Transpose<perm=[0,2,3,1]>(q)"
FROM_PIXELS = "t = QuantizeLinear(x, s, z)"
BODY = """
    a = com.microsoft.QLinearConv<channels_last=1, kernel_shape=[3,3], pads=[1,1,1,1]>
        (t, s, z, w0, sw, zw, s, z, b0)
    p = {pool}
    c = com.microsoft.QLinearConv<channels_last=1, kernel_shape=[3,3], group={groups}>
        (p, s, z, w1, sw, zw, s, z)
    d = com.microsoft.QLinearConv<channels_last=1, kernel_shape=[1,1]>(c, s, z, w2, sw, zw, s, z)
    g = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(d, s, z, s, z)
    i = Transpose<perm=[0,3,1,2]>(g)
    f = DequantizeLinear(i, s, z) v = Flatten(f) y = MatMul(v, wy)
"""
MAXIMA = "com.microsoft.NhwcMaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
MEANS = "com.microsoft.QLinearAveragePool<channels_last=1, kernel_shape=[2,2], strides=[2,2]>(a, s, z, s, z)"


# The same network as ONNX itself writes it.
SECOND = {
    "channels_last=1, ": "",
    "<channels_last=1>": "",
    "com.microsoft.NhwcMaxPool": "MaxPool",
    "com.microsoft.QLinearConv": "QLinearConv",
    "i = Transpose<perm=[0,3,1,2]>(g)": "i = Identity(g)",
}


def network(
    shape: str = "1,3,10,10", begin: str = FROM_IMAGES, pool: str = MAXIMA, groups: int = 8, last: bool = True
) -> onnx.ModelProto:
    """Three convolutions, the second one depthwise by default; without ``last`` with channels second."""
    body = BODY.format(pool=pool, groups=groups)
    for old, new in () if last else SECOND.items():
        body = body.replace(old, new)
    weights = f"{SCALES}, {WEIGHTS.format(per=8 // groups)}"
    model = filled(f"{HEADER}agraph (float[{shape}] x) => (float[1,5] y)<{weights}>{{{begin}{body}}}")
    for tensor in model.graph.initializer:
        values = _value(tensor)
        if values is not None:
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def _value(tensor: onnx.TensorProto) -> np.ndarray | None:
    """Numbers with which no value of the network is cut off."""
    rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
    dims = tuple(tensor.dims)
    if tensor.data_type == TensorProto.FLOAT:
        return None if dims else np.array(0.05 if tensor.name == "s" else 0.01, np.float32)
    if not dims:
        return np.array(128, np.uint8) if tensor.name == "z" else np.array(0, np.int8)
    most = 60 if tensor.data_type == TensorProto.INT8 else 300
    kind = np.int8 if tensor.data_type == TensorProto.INT8 else np.int32
    return rng.integers(-most, most, dims).astype(kind)


FORMS = {
    "depthwise": network(),
    "mean of windows": network(pool=MEANS),
    "grouped": network(groups=2),
    "pixels first": network("1,10,10,3", FROM_PIXELS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_sizes_are_free_and_the_network_stays_exact(form: str, scale: float) -> None:
    model = FORMS[form]
    found = rewidthed(model, scale=scale)
    assert found.shape("w0")[0] == found.shape("b0")[0] == int(8 * scale)
    assert found.shape("w2")[:2] == (int(6 * scale), int(8 * scale))
    assert found.attr("c", "group") == (2 if form == "grouped" else int(8 * scale))


def test_the_same_groups_and_work_as_with_channels_second() -> None:
    last, second = network(), network(begin=FROM_PIXELS, last=False)
    assert free(last) == free(second) == [(8, 1), (6, 1)]
    work = cost(graph_of(last))
    assert not work.uncounted
    # 10 x 10 pixels, 5 x 5 behind the pooling, 3 x 3 behind the kernel without padding.
    assert work.macs == 100 * 8 * 27 + 9 * 8 * 9 + 9 * 48 + 30 == cost(graph_of(second)).macs
