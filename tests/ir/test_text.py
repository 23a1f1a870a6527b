from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.text import FORMAT, to_text


def graph_of(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> Graph:
    body = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        list(weights),
    )
    return Graph.of(LoadedModel(helper.make_model(body)))


def lines(graph: Graph) -> list[str]:
    found = to_text(graph).splitlines()
    assert found[0] == FORMAT
    return found[1:]


def test_hostile_names_stay_on_their_line() -> None:
    name = 'a, b\n%y = "Evil"'
    made = lines(graph_of([helper.make_node("Relu", ["x"], [name]), helper.make_node("Relu", [name], ["y"])]))
    assert made[1] == '%"a, b\\n%y = \\"Evil\\"" = Relu(%x)'
    assert len(made) == 4


def test_attributes_are_sorted_and_show_no_floats() -> None:
    node = helper.make_node("Op", ["x"], ["y"], domain="my", z=1, floats=[0.5, 1.5], alpha=0.123)
    node.attribute.append(helper.make_attribute("mode", "li\nnear"))
    node.attribute.append(helper.make_attribute("axes", [2, 3]))
    node.attribute.append(helper.make_attribute("body", helper.make_graph([], "b", [], [])))
    node.attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(np.zeros((2, 3), np.float16)))
    )
    text = lines(graph_of([node]))[1]
    assert text == (
        '%y = my::Op(%x) {alpha=f32, axes=[2, 3], body=(), floats=f32[2], mode="li\\nnear",'
        " value=f16[2,3], z=1}"
    )


def test_small_integers_stand_where_they_are_used_and_weights_do_not() -> None:
    def integers(name: str, values: object, dtype: type = np.int64) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype), name)

    made = lines(
        graph_of(
            [
                helper.make_node("Reshape", ["x", "shape"], ["r"]),
                helper.make_node("Gather", ["r", "one"], ["g"]),
                helper.make_node("Gather", ["g", "long"], ["h"]),
                helper.make_node("QLinearConv", [*"hszwszsz", "bias"], ["y"]),
            ],
            integers("shape", [0, -1]),
            integers("one", 3),
            integers("long", list(range(17))),
            integers("bias", [5, 6], np.int32),
        )
    )
    assert "weight %long i64[17]" in made
    assert "weight %bias i32[2]" in made
    assert "%r = Reshape(%x, [0, -1])" in made
    assert "%g = Gather(%r, 3)" in made
    assert "%h = Gather(%g, %long)" in made


def test_absent_inputs_and_outputs_are_underscores() -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "x"], ["c"]),
        helper.make_node("Dropout", ["c"], ["", "y"]),
    ]
    assert lines(graph_of(nodes))[1:3] == ["%c = Clip(%x, _, %x)", "_, %y = Dropout(%c)"]


def test_unknown_types_and_shapes_are_said() -> None:
    graph = graph_of([helper.make_node("Relu", ["x"], ["y"])])
    graph.shapes["y"] = (None, "N", 3)
    assert "%y ?[?,N,3] = Relu(%x)" in lines(graph)
    graph.dtypes["y"] = 9999
    assert "%y ?[?,N,3] = Relu(%x)" in lines(graph)
    graph.dtypes["y"] = onnx.TensorProto.FLOAT8E4M3FN
    del graph.shapes["y"]
    assert "%y float8e4m3fn[...] = Relu(%x)" in lines(graph)


def test_printing_twice_gives_the_same_text_and_changes_nothing() -> None:
    graph = graph_of([helper.make_node("Relu", ["x"], ["y"])])
    before = graph.skeleton.SerializeToString(deterministic=True)
    assert to_text(graph) == to_text(graph)
    assert graph.skeleton.SerializeToString(deterministic=True) == before
