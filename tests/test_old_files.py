"""Files that runtimes run although onnx has moved on: GroupNormalization of 18 to 20, no opset at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import conet_graph as cg
from conet_graph.cli import run
from conet_graph.ir.load import from_proto

value = helper.make_tensor_value_info


def weight(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(len(name) + sum(shape))
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def group_norm(opset: int, *, groups: int = 4, scales: int = 4, relu: bool = True) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("GroupNormalization", ["a", "s", "b"], ["c"], num_groups=groups),
        helper.make_node("Relu" if relu else "Sigmoid", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 5, 6, 6])],
        [weight("w", 16, 3, 3, 3), weight("s", scales), weight("b", scales), weight("v", 5, 16, 1, 1)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [18, 19, 20])
@pytest.mark.parametrize(("groups", "widths"), [(4, (8, 24)), (16, (8, 24)), (1, (8, 24))])
def test_a_scale_for_each_group(opset: int, groups: int, widths: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(group_norm(opset, groups=groups, scales=groups), path)
    (free,) = [g for g in cg.analyze(cg.load(path)).to_dict()["groups"] if g["free"]]
    assert free["width"] == 16
    for scale, width in zip(("0.5", "1.5"), widths, strict=True):
        out = tmp_path / "out.onnx"
        assert run(["rewrite", str(path), "-o", str(out), "--scale", scale]) == 0
        sizes = {t.name: list(t.dims) for t in onnx.load(out).graph.initializer}
        assert sizes["w"][0] == width
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": np.ones((2, 3, 8, 8), np.float32)})[0].shape == (2, 5, 6, 6)


def test_wider_is_the_same_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(group_norm(18, groups=1, scales=1), tmp_path / "m.onnx")
    paths = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx")]
    assert run(["rewrite", *paths, "--scale", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["verification"]
    assert report["ok"]
    assert "deprecated" in report["checker"]


@pytest.mark.parametrize(("opset", "scales"), [(18, 4), (20, 4), (21, 16)])
def test_torch_computes_the_same(opset: int, scales: int) -> None:
    model = group_norm(opset, scales=scales)
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = cg.to_torch(from_proto(model))(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), session.run(None, {"x": x})[0], atol=2e-5)


def test_other_deprecated_operators_stay_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = group_norm(18)
    model.graph.node[2].op_type = "Upsample"
    onnx.save(model, tmp_path / "m.onnx")
    assert run(["analyze", str(tmp_path / "m.onnx")]) == 2
    assert "is an operator that opset 18 does not have" in capsys.readouterr().err


def without_opset(ir_version: int, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"]), *nodes, helper.make_node("Conv", ["c", "v"], ["y"])],
        "g",
        [
            value("x", TensorProto.FLOAT, [1, 3, 8, 8]),
            value("w", TensorProto.FLOAT, [16, 3, 3, 3]),
            value("v", TensorProto.FLOAT, [5, 16, 1, 1]),
        ],
        [value("y", TensorProto.FLOAT, [1, 5, "H", "W"])],
        [weight("w", 16, 3, 3, 3), weight("v", 5, 16, 1, 1)],
    )
    model = helper.make_model(graph, ir_version=ir_version)
    del model.opset_import[:]
    return model


RELU = helper.make_node("Relu", ["a"], ["c"])
UPSAMPLE_7 = helper.make_node("Upsample", ["a"], ["c"], scales=[1.0, 1.0, 2.0, 2.0])
RELU_1 = helper.make_node("Relu", ["a"], ["c"], consumed_inputs=[0])


CASES = [(1, RELU_1, 1), (2, RELU_1, 1), (3, RELU, 8), (3, UPSAMPLE_7, 8), (3, RELU_1, 5), (4, RELU, 9)]


@pytest.mark.parametrize(("ir_version", "node", "opset"), [*CASES, (7, RELU, 14)])
def test_an_opset_is_assumed_and_said(
    ir_version: int, node: onnx.NodeProto, opset: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(without_opset(ir_version, node), path)
    assert run(["analyze", str(path), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["model"]["opset"] == opset
    assert f"The model names no opset: {opset} is assumed, from its IR version {ir_version}" in told.err
    assert run(["rewrite", str(path), "-o", str(out), "--scale", "0.5", "--plan", str(tmp_path / "p")]) == 0
    assert [entry.version for entry in onnx.load(out).opset_import] == [opset]
    assert cg.load(path).assumed is not None
    assert cg.load(out).assumed is None
    assert run(["verify", str(path), str(out), "--plan", str(tmp_path / "p")]) == 0


def test_a_file_of_today_without_an_opset_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(without_opset(8, RELU), tmp_path / "m.onnx")
    assert run(["analyze", str(tmp_path / "m.onnx")]) == 2
    assert "The model imports no opset" in capsys.readouterr().err


def test_operators_of_no_opset_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(without_opset(3, helper.make_node("Gelu", ["a"], ["c"])), tmp_path / "m.onnx")
    assert run(["analyze", str(tmp_path / "m.onnx")]) == 2
    assert "imports no opset" in capsys.readouterr().err
