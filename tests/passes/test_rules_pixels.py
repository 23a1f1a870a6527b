"""Channels folded into pixels, and weights that a quantiser rounds: found by random networks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.rewriting import plan, rewrite
from conet_graph.verification.verification import verify


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], out: list[int | str]) -> LoadedModel:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return LoadedModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_channels_that_become_pixels_are_frozen_by_a_depth_to_space() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Reshape", ["a", "split"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 3, 4, 1, 5, 2]),
        helper.make_node("Reshape", ["c", "merge"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], "second"),
        helper.make_node("DepthToSpace", ["e"], ["f"], blocksize=2),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w3"], ["y"], "fc"),
    ]
    weights = {
        "w1": random(4, 3, 1, 1),
        "split": np.array([0, 2, 2, 1, 4, 4], np.int64),
        "merge": np.array([0, 1, 8, 8], np.int64),
        "w2": random(4, 1, 1, 1),
        "w3": random(256, 5),
    }
    loaded = model(nodes, weights, ["N", 5])
    first = next(layer for layer in analysed(loaded).result(LAYERS) if layer.op.name == "first")
    channels = analysed(loaded).result(CHANNELS)
    groups = channels.groups_on(channels.layer_axes[first.op.index][1])
    assert [group.free for group in groups] == [False] * len(groups)


def test_a_weight_that_is_rounded_is_not_shared_out_when_widened() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("QuantizeLinear", ["w2", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("Conv", ["a", "dq"], ["y"], "second"),
    ]
    weights = {
        "w1": random(4, 3, 1, 1),
        "w2": random(5, 4, 1, 1),
        "scale": np.array(0.3, np.float32),
        "zero": np.array(0, np.int8),
    }
    loaded = model(nodes, weights, ["N", 5, 4, 4])
    made = plan(loaded, scale=1.5, multiple_of=1)
    assert sorted(made.tensors["w2"].scale[1].tolist()) == [0, 0, 1, 1, 1, 1]
    report = verify(analysed(loaded), rewrite(loaded, made).proto, made)
    assert report.equality == "passed"
    assert report.largest_difference is not None
    assert report.largest_difference < 1e-6


def test_halves_of_one_channel_each_stay_apart_when_widened() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Split", ["a", "sizes"], ["b", "c"], axis=1),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Mul", ["b", "d"], ["e"]),
        helper.make_node("Conv", ["e", "w2"], ["y"], "second"),
    ]
    weights = {"w1": random(2, 3, 1, 1), "sizes": np.array([1, 1], np.int64), "w2": random(5, 1, 1, 1)}
    loaded = model(nodes, weights, ["N", 5, 4, 4])
    made = plan(loaded, scale=3.0, multiple_of=1)
    assert made.tensors["w1"].axes[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert verify(analysed(loaded), rewrite(loaded, made).proto, made).equality == "passed"
