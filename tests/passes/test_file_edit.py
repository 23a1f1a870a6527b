"""What a pass over a file leaves as it was: the caller's model, weights beside it, functions' bodies."""

from __future__ import annotations

from pathlib import Path

import onnx
from batchnorm_case import assert_same, counted, weights
from onnx import helper

from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.ir.save import has_external, save_model
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.passes.insert_batchnorm import insert_batchnorm
from tests.graphs import GraphBuilder


def network(*extra: onnx.NodeProto) -> onnx.ModelProto:
    g = GraphBuilder()
    x = g.relu(g.conv(g.input("x", ["N", 4, 6, 6]), 40, 3, name="c"))
    g.output(g.gemm(g.flatten(g.gap(x)), 3))
    g.nodes.extend(extra)
    return g.build()


def test_the_callers_model_is_left_as_it_was() -> None:
    before = LoadedModel(network())
    held = before.proto.SerializeToString(deterministic=True)
    fold_batchnorm(insert_batchnorm(before))
    assert before.proto.SerializeToString(deterministic=True) == held


def test_metadata_and_dead_nodes_stay() -> None:
    model = network(helper.make_node("Relu", ["c"], ["unused"], name="dead"))
    model.metadata_props.add(key="author", value="somebody")
    after = insert_batchnorm(LoadedModel(model))
    assert "dead" in [node.name for node in after.proto.graph.node]
    assert after.proto.metadata_props == model.metadata_props
    assert after.proto.opset_import == model.opset_import


def test_weights_beside_the_file_stay_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="m.data", size_threshold=64)
    before = load_model(path)
    after = insert_batchnorm(before)
    assert after.external
    kept = next(t for t in after.proto.graph.initializer if t.name == "c.weight")
    assert kept.data_location == onnx.TensorProto.EXTERNAL  # not even read
    save_model(after.proto, tmp_path / "inserted.onnx", after.folder, after.external)
    back = fold_batchnorm(load_model(tmp_path / "inserted.onnx"))
    assert back.external
    save_model(back.proto, tmp_path / "back.onnx", back.folder, back.external)
    there = load_model(tmp_path / "back.onnx")
    assert has_external(there.proto)
    assert_same(before, after, back, there)


def test_calls_of_functions_are_replaced_by_their_bodies() -> None:
    model = network()
    body = model.graph
    conv, relu = body.node[0], body.node[1]
    function = helper.make_function(
        "own", "Block", ["x", "w", "b"], ["y"], [
            helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["y"]),
        ], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = helper.make_node("Block", conv.input, relu.output, domain="own", name="block")
    rest = list(body.node)[2:]
    del body.node[:]
    body.node.extend([call, *rest])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    before = LoadedModel(model)
    after = insert_batchnorm(before)
    assert counted(after, "BatchNormalization") == 1
    back = fold_batchnorm(after)
    assert set(weights(back)) == set(weights(before))
    assert_same(before, after, back)
