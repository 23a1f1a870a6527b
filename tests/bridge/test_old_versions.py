"""Forms that operators had in older opsets, and those of private domains, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from bridge_case import difference
from onnx import helper, numpy_helper

# operator, opset, shape of the input, constants behind it, attributes
Case = tuple[str, int, tuple[int, ...], list[Any], dict[str, Any]]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).uniform(0.5, 1.5, shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


CASES: list[Case] = [
    ("Reshape", 7, (2, 3, 4), [whole(0, -1)], {}),
    ("Clip", 7, (2, 3), [], {"min": -0.5, "max": 0.25}),
    ("Clip", 10, (2, 3), [], {"min": 0.0, "max": 6.0}),
    ("Clip", 11, (2, 3), [np.float32(-0.1), np.float32(0.3)], {}),
    ("Slice", 9, (2, 6, 5), [], {"starts": [1, -3], "ends": [5, 9], "axes": [1, 2]}),
    ("Slice", 10, (2, 6, 5), [whole(4), whole(-9), whole(1), whole(-2)], {}),
    ("Squeeze", 11, (2, 1, 5), [], {"axes": [1]}),
    ("Unsqueeze", 11, (2, 5), [], {"axes": [0, 3]}),
    ("Unsqueeze", 13, (2, 5), [whole(-1, 1)], {}),
    ("Pad", 10, (1, 2, 4, 4), [], {"pads": [0, 0, 1, 2, 0, 0, -1, 1], "value": 0.5}),
    ("Pad", 11, (1, 2, 4, 4), [whole(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", 18, (1, 2, 4, 4), [whole(1, 2), np.float32(1.5), whole(-1)], {}),
    ("Split", 11, (2, 6), [], {"axis": 1, "split": [2, 4]}),
    ("Split", 13, (2, 6), [whole(1, 5)], {"axis": -1}),
    ("Split", 18, (2, 5), [], {"axis": 1, "num_outputs": 2}),
    ("Upsample", 7, (1, 2, 3, 4), [], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    ("Upsample", 9, (1, 2, 3, 4), [np.float32([1, 1, 2, 3])], {"mode": "linear"}),
    ("Resize", 10, (1, 2, 3, 4), [np.float32([1, 1, 2, 1.5])], {"mode": "nearest"}),
    ("Resize", 10, (1, 2, 3, 4), [np.float32([1, 1, 2, 2])], {"mode": "linear"}),
    (
        "Resize",
        11,
        (1, 2, 3, 4),
        [np.float32([]), np.float32([]), whole(1, 2, 7, 5)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    ("Resize", 13, (1, 2, 4, 4), [np.float32([]), np.float32([1, 1, 2, 2])], {"mode": "cubic"}),
    ("Softmax", 11, (2, 3, 4), [], {"axis": 1}),
    ("LogSoftmax", 11, (2, 3, 4), [], {"axis": -1}),
    ("ReduceMean", 11, (2, 3, 4), [], {"axes": [-1, 1], "keepdims": 0}),
    ("ReduceMean", 18, (2, 3, 4), [whole(1, 2)], {}),
    ("ReduceSum", 11, (2, 3, 4), [], {}),
    ("BatchNormalization", 7, (2, 3, 4), [floats(3)] * 4, {"epsilon": 1e-3}),
    ("BatchNormalization", 9, (2, 3, 4, 5), [floats(3)] * 4, {}),
    ("BatchNormalization", 15, (2, 3), [floats(3)] * 4, {}),
    ("InstanceNormalization", 6, (2, 3, 4, 5), [floats(3)] * 2, {}),
    ("GroupNormalization", 21, (2, 4, 5), [floats(4)] * 2, {"num_groups": 2}),
    ("Dropout", 7, (2, 3), [], {"ratio": 0.3}),
    ("Dropout", 10, (2, 3), [], {"ratio": 0.3}),
    ("PRelu", 9, (2, 3, 4), [floats(3, 1)], {}),
    ("Gemm", 7, (2, 3), [floats(3, 4), floats(4)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", 11, (3, 2), [floats(4, 3)], {"transA": 1, "transB": 1}),
    ("Conv", 7, (1, 3, 7, 6), [floats(4, 3, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", 11, (1, 4, 9), [floats(6, 2, 3), floats(6)], {"group": 2, "pads": [2, 0], "dilations": [2]}),
    ("ConvTranspose", 11, (1, 3, 4, 5), [floats(3, 2, 3, 3)], {"pads": [1, 0, 0, 2], "strides": [2, 1]}),
    ("ConvTranspose", 11, (1, 4, 5), [floats(4, 3, 3)], {"group": 2, "strides": [2], "output_padding": [1]}),
    ("ConvTranspose", 11, (1, 3, 4), [floats(3, 2, 4)], {"auto_pad": "SAME_LOWER", "strides": [2]}),
    ("MaxPool", 8, (1, 2, 7, 7), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 2, 2]}),
    ("MaxPool", 10, (1, 2, 7, 7), [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 7, (1, 2, 7, 7), [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", 10, (1, 2, 6), [], {"kernel_shape": [4], "auto_pad": "SAME_LOWER", "strides": [2]}),
    ("AveragePool", 11, (1, 2, 6), [], {"kernel_shape": [2], "pads": [0, 1], "count_include_pad": 1}),
    ("LRN", 7, (1, 6, 3, 3), [], {"size": 5, "alpha": 0.1}),
    ("Upsample", 9, (1, 2, 3, 4), [np.float32([1, 1, 1, 2])], {"mode": "nearest"}),
    ("DepthToSpace", 11, (1, 8, 2, 3), [], {"blocksize": 2, "mode": "CRD"}),
    ("TopK", 11, (2, 5), [whole(3)], {"axis": 1}),
    (
        "LSTM",
        14,
        (4, 2, 3),
        [floats(2, 20, 3), floats(2, 20, 5), floats(2, 40)],
        {"direction": "bidirectional"},
    ),
    ("GRU", 14, (4, 2, 3), [floats(1, 15, 3), floats(1, 15, 5)], {"linear_before_reset": 1}),
]


def network(case: Case) -> onnx.ModelProto:
    op_type, opset, shape, constants, attributes = case
    hidden = {"LSTM": 5, "GRU": 5}.get(op_type)
    attributes = {**attributes, "hidden_size": hidden} if hidden else attributes
    names = [f"c{k}" for k in range(len(constants))]
    count = 2 if op_type in ("Split", "TopK") else 1
    outputs = [f"y{k}" for k in range(count)]
    node = helper.make_node(op_type, ["x", *names], outputs, **attributes)
    declared = [onnx.ValueInfoProto(name=name) for name in outputs]
    body = helper.make_graph(
        [node],
        "one operator",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        declared,
        [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for value, kind in zip(inferred.graph.output, ("y0", "y1"), strict=False):
        assert value.name == kind
    return inferred


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_one_operator(case: Case) -> None:
    x = np.random.default_rng(1).standard_normal(case[2]).astype(np.float32)
    assert difference(network(case), {"x": x}) < 2e-6


def test_instance_normalisation_of_a_single_position_leaves_the_bias() -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 1, 1)).astype(np.float32)
    case: Case = ("InstanceNormalization", 6, (2, 3, 1, 1), [floats(3)] * 2, {})
    # A deviation of nothing magnifies the last bits.
    assert difference(network(case), {"x": x}) < 1e-4


SKIPS = {"SkipLayerNormalization": "gbc", "SkipSimplifiedLayerNormalization": "gc"}


@pytest.mark.parametrize("name", ["FusedConv", "FastGelu", "Gelu", "QuickGelu", "FusedMatMul", *SKIPS])
def test_private_operator(name: str) -> None:
    constants: dict[str, np.ndarray[Any, Any]] = {}
    attributes: dict[str, Any] = {}
    shape: tuple[int, ...] = (2, 3)
    if name == "FusedConv":
        shape, constants = (1, 3, 5, 5), {"w": floats(4, 3, 3, 3) - 1, "b": floats(4)}
        attributes = {"activation": "LeakyRelu", "activation_params": [0.2]}
    if name == "FusedMatMul":
        constants, attributes = {"w": floats(4, 3)}, {"transB": 1, "alpha": 0.5}
    if name in SKIPS:
        shape, constants = (2, 3, 4), {"skip": floats(2, 3, 4), **{n: floats(4) for n in SKIPS[name]}}
    node = helper.make_node(name, ["x", *constants], ["y"], domain="com.microsoft", **attributes)
    body = helper.make_graph(
        [node],
        "one operator",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(c, n) for n, c in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=8)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert difference(model, {"x": x}) < 1e-5
