from __future__ import annotations

import golden_text
import networkx as nx
from onnx import helper

from conet_graph.ir.graph import Graph, Operator

NET = """net (float[N,3,8,8] x) => (float[] y) <float[4,3,1,1] w, float[4,1,3,3] dw, float[8] bias>
{
    a = Conv(x, w)
    b = Conv<group = 4, pads = [1, 1, 1, 1]>(a, dw)
    s = Add(a, b)
    c = Concat<axis = 1>(s, a)
    t = Transpose<perm = [0, 2, 3, 1]>(c)
    y = Add(t, bias)
}"""


def dag(after: str) -> nx.MultiDiGraph:
    graph: Graph = golden_text.after_pass(golden_text.parsed(NET), after)
    return graph.dag


def kinds(found: nx.MultiDiGraph) -> dict[tuple[str, str], str | None]:
    return {(source, target): kind for source, target, kind in found.edges(data="kind")}


def test_edges_have_no_kind_before_they_are_classified() -> None:
    assert set(kinds(dag("unshare")).values()) == {None}


def test_depthwise_edges_are_non_conv_and_meetings_are_named() -> None:
    found = dag("classify_edges")
    edges = kinds(found)
    assert edges["x", "a"] == edges["w", "a"] == "conv"
    assert edges["a", "b"] == edges["a", "s"] == edges["s", "c"] == edges["t", "y"] == "non-conv"
    meets = {name: found.nodes[name]["meet"] for name in ("a", "s", "c", "y")}
    assert meets == {"a": "single", "s": "summation", "c": "concatenation", "y": "single"}


def test_every_value_is_a_node_with_its_shape_and_the_graph_has_no_cycle() -> None:
    found = dag("classify_edges")
    assert set(found.nodes) == {*"xabscty", "w", "dw", "bias"}
    assert found.nodes["c"]["shape"] == ("N", 8, 8, 8)
    assert nx.is_directed_acyclic_graph(found)


def test_an_operator_and_its_message_say_the_same_after_a_change() -> None:
    op = Operator(0, helper.make_node("Add", ["a", "b"], ["c"]), 13)
    op.set_input(1, "d")
    assert op.inputs == list(op.proto.input) == ["a", "d"]
    op.become(helper.make_node("Relu", ["a"], ["e"], domain="ai.onnx"))
    assert (op.op_type, op.domain, op.inputs, op.outputs) == ("Relu", "", ["a"], ["e"])
    assert op.proto.op_type == "Relu"
