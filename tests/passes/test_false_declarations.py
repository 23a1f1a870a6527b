"""What a file declares of its values and its operators' domain is put right where it is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from conet_graph.cli import run
from conet_graph.ir.check import check_model
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from tests.graphs import GraphBuilder


def two_convs(declared: onnx.ValueInfoProto | None = None) -> onnx.ModelProto:
    b = GraphBuilder(opset=17)
    x = b.conv(b.input("x", ["N", 3, 8, 8]), 8)
    b.output(b.conv(b.relu(x), 4))
    model = b.build()
    del model.graph.value_info[:]
    if declared is not None:
        declared.name = model.graph.node[0].output[0]
        model.graph.value_info.append(declared)
    return model


@pytest.mark.parametrize(
    ("declared", "stays"),
    [
        (helper.make_tensor_value_info("", TensorProto.FLOAT, ["N", 8, 8, 8]), True),
        (helper.make_tensor_value_info("", TensorProto.FLOAT, None), True),
        (helper.make_tensor_value_info("", TensorProto.UINT64, ["N", 8, 8, 8]), False),
        (helper.make_tensor_value_info("", TensorProto.FLOAT, ["N", 7, 8, 8]), False),
        (helper.make_tensor_value_info("", TensorProto.FLOAT, [8, 64]), False),
        (helper.make_tensor_value_info("", TensorProto.FLOAT, ["N", -8, 8, 8]), False),
        (onnx.ValueInfoProto(), False),
    ],
    ids=["true", "no shape", "another type", "another size", "another rank", "a negative size", "no type"],
)
def test_a_false_declaration_goes(declared: onnx.ValueInfoProto, stays: bool) -> None:
    graph = analysed(LoadedModel(two_convs(declared)))
    assert [v.name for v in graph.skeleton.graph.value_info] == ([declared.name] if stays else [])


def test_an_output_of_other_sizes_is_declared_as_it_is() -> None:
    model = two_convs()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    graph = analysed(LoadedModel(model))
    dims = graph.skeleton.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dims] == ["N", 4, 8, 8]


@pytest.mark.parametrize("where", ["nodes", "imports", "both"])
def test_the_other_name_of_the_standard_domain(where: str, tmp_path: Path) -> None:
    model = two_convs()
    if where != "imports":
        for node in model.graph.node:
            node.domain = "ai.onnx"
    if where != "nodes":
        model.opset_import[0].domain = "ai.onnx"
    graph = analysed(LoadedModel(model))
    assert [(g.width, g.free) for g in graph.result(CHANNELS).groups] == [(8, True), (4, False), (3, False)][
        :2
    ]
    onnx.save(model, path := tmp_path / "m.onnx")
    assert run(["rewrite", str(path), "-o", str(tmp_path / "half.onnx"), "--scale", "0.5"]) == 0


@pytest.mark.parametrize("value", [2, -1, 2**31 - 1])
def test_a_switch_is_0_or_1(value: int) -> None:
    b = GraphBuilder(opset=17)
    x = b.input("x", [2, 6])
    b.output(b.op("Reshape", x, b.const(np.array([3, 4])), allowzero=value))
    with pytest.raises(InvalidModel, match="neither 0 nor 1"):
        check_model(LoadedModel(b.build()))
