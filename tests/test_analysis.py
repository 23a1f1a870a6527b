"""The analysis, its JSON and explanations, on small networks whose answer is plain to see."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import conet_graph
import conet_graph as cg
from conet_graph.analysis.analysis import analysis_of, analyze
from conet_graph.analysis.explain import explain
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.text import to_text
from conet_graph.passes import analysed


def weight(name: str, *dims: int) -> onnx.TensorProto:
    values = np.arange(np.prod(dims), dtype=np.float32).reshape(dims)
    return numpy_helper.from_array(values, name)


def conv(name: str, data: str, out: str, group: int = 1) -> onnx.NodeProto:
    return helper.make_node("Conv", [data, f"{name}.weight"], [out], name=name, group=group)


def model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], outputs: list[str]) -> LoadedModel:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("private", 1)]
    return LoadedModel(helper.make_model(graph, opset_imports=opsets, producer_name="test"))


def residual() -> LoadedModel:
    """Two convolutions whose outputs are added, a depthwise one, and a classifier."""
    nodes = [
        conv("stem", "x", "s"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        conv("branch", "r", "b"),
        helper.make_node("Add", ["b", "r"], ["a"], name="add"),
        conv("depthwise", "a", "d", group=8),
        conv("head", "d", "y"),
    ]
    weights = [
        weight("stem.weight", 8, 3, 1, 1),
        weight("branch.weight", 8, 8, 1, 1),
        weight("depthwise.weight", 8, 1, 1, 1),
        weight("head.weight", 5, 8, 1, 1),
    ]
    return model(nodes, weights, ["y"])


def test_groups_layers_and_edges() -> None:
    found = analyze(residual())
    free = [g for g in found.groups if g.free]
    assert [(g.width, g.multiple, g.producers, g.consumers) for g in free] == [
        (8, 1, ("stem", "branch"), ("branch", "head"))
    ]
    layers = {layer.name: layer for layer in found.layers}
    assert layers["depthwise"].kind == "non-conv"
    assert layers["depthwise"].in_groups == layers["depthwise"].out_groups == (free[0].id,)
    assert (layers["stem"].in_channels, layers["stem"].out_channels) == (3, 8)
    assert layers["stem"].kernel == (1, 1)
    assert (found.edges.conv, found.edges.non_conv) == (3, 4)
    assert ("depthwise.weight", 0, 8) in [(p.tensor, p.axis, p.count) for p in free[0].places]


@pytest.mark.parametrize("group", [1, 3])
def test_a_frozen_size_without_channels_has_one_name_everywhere(group: int) -> None:
    """The network's input: in the text, whether its weight has all of the size or a group's part of it."""
    loaded = model(
        [conv("a", "x", "h", group), conv("b", "h", "y")],
        [weight("a.weight", 6, 3 // group, 3, 3), weight("b.weight", 4, 6, 3, 3)],
        ["y"],
    )
    graph = analysed(loaded)
    found = analysis_of(graph)
    (entry,) = [g for g in found.groups if g.reason == "graph input 'x'"]
    assert found.layers[0].in_groups == (entry.id,)
    text = to_text(graph)
    assert f"{3 // group}:{entry.id},3,3]" in text
    assert f"group {entry.id} width=3 frozen: graph input 'x'" in text


def test_every_side_of_every_layer_is_free_or_frozen_for_a_reason() -> None:
    found = analyze(residual())
    groups = {g.id: g for g in found.groups}
    layers = {layer.name: layer for layer in found.layers}
    (first,) = (groups[g] for g in layers["stem"].in_groups)
    (last,) = (groups[g] for g in layers["head"].out_groups)
    assert (first.free, first.reason, first.width) == (False, "graph input 'x'", 3)
    assert (last.free, last.reason, last.width) == (False, "graph output 'y'", 5)
    assert last.producers == ("head",)


def test_layers_frozen_by_different_things_keep_their_own_reasons() -> None:
    """An operator without a rule and a graph output meet; neither reason becomes the other's."""
    nodes = [
        conv("left", "x", "l"),
        conv("right", "x", "r"),
        helper.make_node("Odd", ["l"], ["y"], name="odd", domain="private"),
        helper.make_node("Add", ["r", "l"], ["z"], name="add"),
        conv("other", "x", "o"),
    ]
    weights = [weight(f"{n}.weight", 4, 3, 1, 1) for n in ("left", "right", "other")]
    found = analyze(model(nodes, weights, ["y", "o"]))
    groups = {g.id: g for g in found.groups}
    layers = {layer.name: layer for layer in found.layers}
    reasons = {name: {groups[g].reason for g in layer.out_groups} for name, layer in layers.items()}
    assert reasons["other"] == {"graph output 'o'"}
    assert reasons["left"] == {"operator private::Odd (node 'odd'): it has no channel rule"}
    assert [(u.op, u.node) for u in found.unsupported] == [("private::Odd", "odd")]
    assert found.unsupported[0].freezes == layers["left"].out_groups


def test_a_layer_in_a_body_is_listed_and_frozen() -> None:
    def body(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        weights = [weight(f"{name}.weight", 2, 3, 1, 1)]
        return helper.make_graph([conv(name, "x", f"{name}_y")], name, [], [out], weights)

    condition = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["yes"], to=TensorProto.BOOL),
    ]
    branches = {"else_branch": body("p"), "then_branch": body("q")}
    node = helper.make_node("If", ["yes"], ["y"], name="choice", **branches)
    loaded = model([*condition, node], [], ["y"])
    found = analyze(loaded)
    assert [layer.name for layer in found.layers] == ["p", "q"]
    reasons = [g.reason for g in found.groups]
    assert reasons == ["inside the body of If node 'choice'"] * 2
    assert [layer.out_channels for layer in found.layers] == [2, 2]
    told = explain(analysed(loaded), "p")
    assert told.reason == "it is inside the body of If node 'choice'"


def test_json_keeps_everything_and_has_the_documented_fields() -> None:
    found = analyze(residual())
    data = json.loads(json.dumps(found.to_dict()))
    assert list(data) == ["format", "model", "groups", "layers", "edges", "unsupported"]
    assert data["format"] == "conet-graph.analysis/1"
    assert " ".join(data["groups"][0]) == (
        "id size width multiple free reason producers consumers places dead"
    )
    assert " ".join(data["layers"][0]) == (
        "name op kind weight in_channels out_channels conv_groups kernel in_groups out_groups parameters macs"
    )
    assert data["model"]["producer"] == "test"
    assert json.dumps(analyze(residual()).to_dict()) == json.dumps(found.to_dict())


def test_a_network_is_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = cg.load(Path(cg.__file__).parent / "models/samples/digits.onnx")
    found = analyze(loaded)

    def again(*_: object) -> None:
        raise AssertionError("analysed a second time")

    monkeypatch.setattr("conet_graph.analysis.analysis.analysed", again)
    made = cg.plan(found, scale=0.5)
    assert cg.verify(found, cg.rewrite(found, made), made).equality == "passed"
    assert cg.rewrite(found, cg.plan(found, scale=0.5)).sha256 == cg.rewrite(found, made).sha256


def test_explaining_a_frozen_layer_names_the_chain() -> None:
    nodes = [
        conv("first", "x", "a"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Add", ["b", "one"], ["y"], name="add"),
    ]
    loaded = model(nodes, [weight("first.weight", 4, 3, 1, 1), weight("one", 4, 1, 1)], ["y"])
    told = explain(analysed(loaded), "first")
    assert told.reason == "graph output 'y'"
    assert told.operators[0] == "Conv 'first'"
    assert told.lines()[-1] == "  -> graph output 'y'"


def test_explaining_a_free_layer_names_who_moves_with_it() -> None:
    graph = analysed(residual())
    told = explain(graph, "branch")
    assert told.free
    assert told.producers == ("stem", "branch")
    assert told.consumers == ("branch", "head")
    assert "Add 'add'" in told.operators
    assert explain(graph, "branch.weight") == told


def test_an_unknown_layer_gets_the_closest_names() -> None:
    with pytest.raises(BadUsage, match=r"no layer 'stam': did you mean 'stem'"):
        explain(analysed(residual()), "stam")


def test_equal_node_names_are_told_apart() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], name="same"),
        helper.make_node("Conv", ["p", "b"], ["y"], name="same"),
    ]
    loaded = model(nodes, [weight("a", 4, 3, 1, 1), weight("b", 5, 4, 1, 1)], ["y"])
    assert [layer.name for layer in analyze(loaded).layers] == ["p", "y"]


def test_the_public_api_analyses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(residual().proto, path)
    found = conet_graph.analyze(path)
    assert found.model.path == str(path)
    assert conet_graph.analyze(conet_graph.load(path)) == found
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        conet_graph.nothing  # noqa: B018 - the access is what is tested
