"""The invariants of a model file: each is broken once, and the message names the place."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from corpus import files, needs_corpus
from onnx import TensorProto, helper, numpy_helper

from conet_graph.ir.check import check_model
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import LoadedModel, from_proto, load_model

value = helper.make_tensor_value_info
node = helper.make_node


def tensor(name: str, *dims: int, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.ones(dims, dtype), name)


def network() -> onnx.ModelProto:
    """Convolution, normalisation, a grouped convolution, pooling, a classifier; a choice beside it."""
    branches = {
        f"{b}_branch": helper.make_graph(
            [node("Identity", ["n"], ["choice"], name=b)], b, [], [value("choice", TensorProto.FLOAT, None)]
        )
        for b in ("then", "else")
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"], name="conv1", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"], name="bn"),
        node("If", ["flag"], ["choice"], name="if", **branches),
        node("Conv", ["choice", "w2"], ["d"], name="conv2", group=2, strides=[2, 2]),
        node("GlobalAveragePool", ["d"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "w3"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, 8, 8]), value("flag", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["N", 5])],
        [
            tensor("w1", 8, 3, 3, 3),
            tensor("b1", 8),
            tensor("s", 8),
            tensor("w2", 6, 4, 3, 3),
            tensor("w3", 5, 6),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    return check_model(from_proto(model)).proto


def named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def attribute(model: onnx.ModelProto, name: str, key: str) -> onnx.AttributeProto:
    return next(a for a in named(model, name).attribute if a.name == key)


def weight(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def then(model: onnx.ModelProto) -> onnx.GraphProto:
    return attribute(model, "if", "then_branch").g


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes, last = [], "a"
    for index, call in enumerate(calls):
        domain = "" if call == "Relu" else "ours"
        nodes.append(node(call, [last], [f"v{index}"], domain=domain))
        last = f"v{index}"
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    return helper.make_function("ours", name, ["a"], [last], nodes, imports)


def bomb(model: onnx.ModelProto) -> None:
    for level in range(40):
        callee = f"F{level + 1}" if level < 39 else "Relu"
        model.functions.append(function(f"F{level}", callee, callee))
    use_function(model)


def use_function(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ours", 1))
    model.graph.node.append(node("F0", ["x"], ["unused"], domain="ours"))


def loop_in_functions(model: onnx.ModelProto) -> None:
    """The second function calls the first from inside a sub-graph."""
    model.functions.extend([function("F0", "F1"), function("F1", "Relu")])
    inner = helper.make_graph(
        [node("F0", ["a"], ["z"], domain="ours")], "b", [], [value("z", TensorProto.FLOAT, None)]
    )
    flag = node("Constant", [], ["t"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    model.functions[1].node.extend([flag, node("If", ["t"], ["q"], then_branch=inner, else_branch=inner)])
    use_function(model)


def sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("sp", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("sp_at", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**20, 2**20]))


def as_strings(target: TensorProto) -> None:
    target.CopyFrom(helper.make_tensor(target.name, TensorProto.STRING, list(target.dims), [b"a"] * 30))


def retyped(target: TensorProto, dtype: type) -> None:
    target.CopyFrom(tensor(target.name, *target.dims, dtype=dtype))


def resized(target: TensorProto, *dims: int) -> None:
    target.CopyFrom(tensor(target.name, *dims))


def replaced(model: onnx.ModelProto, name: str, key: str, new: object) -> None:
    attribute(model, name, key).CopyFrom(helper.make_attribute(key, new))


def added(model: onnx.ModelProto, name: str, key: str, new: object) -> None:
    named(model, name).attribute.append(helper.make_attribute(key, new))


def untyped(model: onnx.ModelProto) -> None:
    attribute(model, "conv1", "pads").type = onnx.AttributeProto.UNDEFINED


def pooled(model: onnx.ModelProto, strides: list[int]) -> None:
    made = node("MaxPool", ["x"], ["unused"], name="max", kernel_shape=[2, 2], strides=strides)
    model.graph.node.append(made)


def inputs(model: onnx.ModelProto, name: str, slot: int, new: str) -> None:
    named(model, name).input[slot] = new


Break = Callable[[onnx.ModelProto], object]
BROKEN: dict[str, tuple[Break, str]] = {
    "no IR version": (lambda m: m.ClearField("ir_version"), "IR version 0"),
    "unknown IR version": (lambda m: setattr(m, "ir_version", 999), "IR version 999"),
    "opset 0": (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0"),
    "opset 999": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999"),
    "domain not imported": (lambda m: setattr(named(m, "pool"), "domain", "theirs"), "domain 'theirs'"),
    "opset twice": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 16)), "twice"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no outputs"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "no operators"),
    "no channels": (lambda m: setattr(dim(m, 1), "dim_value", 0), "'x' is declared with a size of 0"),
    "initializer twice": (lambda m: m.graph.initializer.append(tensor("w1", 1)), "'w1' is defined twice"),
    "output twice": (lambda m: named(m, "bn").output.__setitem__(0, "c"), "'c' is defined twice"),
    "input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "'x' is defined twice"),
    "input written": (lambda m: named(m, "bn").output.__setitem__(0, "x"), "writes the graph input 'x'"),
    "weight written": (lambda m: named(m, "bn").output.__setitem__(0, "s"), "'s' is defined twice"),
    "reads nothing": (lambda m: inputs(m, "fc", 0, "no"), r"'fc' \(Gemm\) reads 'no'"),
    "sub-graph reads nothing": (lambda m: then(m).node[0].input.__setitem__(0, "no"), "'then'.*reads 'no'"),
    "sub-graph gives nothing": (lambda m: setattr(then(m).output[0], "name", "no"), "graph output 'no'"),
    "output undefined": (lambda m: setattr(m.graph.output[0], "name", "no"), "graph output 'no'"),
    "cycle": (lambda m: inputs(m, "bn", 0, "d"), "cycle through node"),
    "cycle through a sub-graph": (lambda m: then(m).node[0].input.__setitem__(0, "d"), "cycle through node"),
    "self loop": (lambda m: inputs(m, "pool", 0, "p"), "cycle through node 'pool'"),
    "no operator": (lambda m: named(m, "pool").ClearField("op_type"), "'pool' .* has no operator type"),
    "unknown operator": (
        lambda m: setattr(named(m, "pool"), "op_type", "Foo"),
        r"'pool' \(Foo\) is an operator",
    ),
    "unknown in a sub-graph": (lambda m: setattr(then(m).node[0], "op_type", "Foo"), r"'then' \(Foo\)"),
    "gone operator": (lambda m: setattr(named(m, "pool"), "op_type", "Upsample"), "opset 17 does not have"),
    "attribute twice": (lambda m: added(m, "conv1", "pads", [1] * 4), "'pads' twice"),
    "attribute's type": (lambda m: replaced(m, "conv1", "pads", "same"), "'pads' of a wrong type"),
    "attribute's value": (lambda m: attribute(m, "conv1", "pads").floats.append(1), "not of its type"),
    "attribute untyped": (untyped, "'pads' without a type"),
    "attribute unknown": (lambda m: added(m, "conv1", "color", 1), "'color', which its operator has not"),
    "attribute missing": (lambda m: named(m, "if").attribute.pop(), "lacks its attribute 'then_branch'|else"),
    "attribute of no function": (
        lambda m: setattr(attribute(m, "conv1", "pads"), "ref_attr_name", "p"),
        "refers to a function",
    ),
    "too many inputs": (lambda m: named(m, "pool").input.extend(["x", "x"]), "'pool' .* has 3 inputs"),
    "too many outputs": (lambda m: named(m, "pool").output.append("more"), "'pool' .* has 2 outputs"),
    "empty required input": (lambda m: inputs(m, "conv1", 1, ""), "'conv1' .* lacks its input 'W'"),
    "negative size": (lambda m: weight(m, "w1").dims.__setitem__(0, -8), "'w1' has a negative"),
    "overflowing size": (lambda m: weight(m, "w1").dims.__setitem__(0, 2**62), "'w1' claims"),
    "many axes": (lambda m: weight(m, "w1").dims.extend([2**62] * 100_000), "'w1' has 100004 axes"),
    "too little data": (lambda m: weight(m, "w1").dims.__setitem__(0, 9), "'w1' holds 864 bytes"),
    "data twice": (lambda m: weight(m, "w1").float_data.append(1), "'w1' holds its data twice"),
    "data in a wrong field": (
        lambda m: weight(m, "b1").CopyFrom(TensorProto(name="b1", data_type=1, dims=[8], int64_data=[1] * 8)),
        "'b1' holds 0 numbers",
    ),
    "no type": (lambda m: setattr(weight(m, "w1"), "data_type", 0), "'w1' has the element type 0"),
    "unknown type": (lambda m: setattr(weight(m, "w1"), "data_type", 999), "'w1' has the element type 999"),
    "strings": (lambda m: as_strings(weight(m, "w3")), "'w3' of type string"),
    "integers": (lambda m: retyped(weight(m, "w1"), np.int64), "'w1' of type int64"),
    "half a weight": (lambda m: retyped(weight(m, "w1"), np.float16), "'w1' of type float16, but another"),
    "half a bias": (lambda m: retyped(weight(m, "b1"), np.float16), "'b1' of type float16"),
    "sparse bomb": (sparse, "'sp' stands for"),
    "declared type unknown": (
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 999),
        "'y' is declared with the element type 999",
    ),
    "declared type wrong": (
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT8),
        "'y' has another type",
    ),
    "input untyped": (lambda m: m.graph.input[0].ClearField("type"), "'x' is declared without a type"),
    "weight declared otherwise": (
        lambda m: m.graph.input.append(value("w1", TensorProto.FLOAT, [8, 3, 5, 5])),
        "'w1' has another shape",
    ),
    "weight declared of another type": (
        lambda m: m.graph.input.append(value("w1", TensorProto.DOUBLE, [8, 3, 3, 3])),
        "'w1' has another type",
    ),
    "pool's strides": (lambda m: pooled(m, [2, 2, 2]), "'max' .* has 3 strides, not 2"),
    "no group": (lambda m: replaced(m, "conv2", "group", 0), "'conv2' .* has 0 groups"),
    "group does not divide": (lambda m: replaced(m, "conv2", "group", 4), "4 groups do not divide 6"),
    "stride 0": (lambda m: replaced(m, "conv2", "strides", [0, 1]), "strides below 1"),
    "pads": (lambda m: replaced(m, "conv1", "pads", [1, 1]), "2 pads, not 4"),
    "kernel_shape": (lambda m: replaced(m, "conv1", "kernel_shape", [5, 5]), r"kernel_shape \[5, 5\]"),
    "kernel_shape's rank": (lambda m: replaced(m, "conv1", "kernel_shape", [3]), r"kernel_shape \[3\]"),
    "channels fed": (lambda m: resized(weight(m, "w1"), 8, 4, 3, 3), "gets 3 channels.*made for 4"),
    "bias": (lambda m: resized(weight(m, "b1"), 7), "'b1' has 7 entries"),
    "normalisation": (lambda m: resized(weight(m, "s"), 5), "'s' has 5 entries"),
    "features fed": (lambda m: resized(weight(m, "w3"), 5, 7), "gets 6 channels.*made for 7"),
    "empty weight": (lambda m: resized(weight(m, "w1"), 0, 3, 3, 3), "'w1'.*shape"),
    "empty matrix": (lambda m: resized(weight(m, "w3"), 0, 6), "'w3' .* is empty"),
    "weight without space": (lambda m: resized(weight(m, "w1"), 8, 3), "'w1'.*shape"),
    "self-calling function": (lambda m: m.functions.append(function("F0", "F0")), "'F0' calls itself"),
    "functions in a circle": (loop_in_functions, "'F[01]' calls itself"),
    "functions without bound": (bomb, "functions stand for more"),
    "unknown in a function": (
        lambda m: (
            m.functions.append(function("F0", "Relu")),
            setattr(m.functions[0].node[0], "op_type", "Foo"),
        ),
        r"\(Foo\) is an operator",
    ),
}


def dim(model: onnx.ModelProto, axis: int) -> onnx.TensorShapeProto.Dimension:
    return model.graph.input[0].type.tensor_type.shape.dim[axis]


@pytest.mark.parametrize("title", BROKEN)
def test_a_broken_model_is_refused(title: str) -> None:
    model = network()
    assert checked(network()) == model
    break_it, told = BROKEN[title]
    break_it(model)
    start = time.process_time()
    with pytest.raises(InvalidModel, match=told) as error:
        checked(model)
    assert time.process_time() - start < 2
    assert "\n" not in str(error.value)


def drop_names(model: onnx.ModelProto) -> None:
    for each in model.graph.node:
        each.name = ""


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def unsorted_branch(model: onnx.ModelProto) -> None:
    then(model).node.insert(0, node("Relu", ["choice"], ["later"]))


def shadowing(model: onnx.ModelProto) -> None:
    """A value inside a branch has the name of one that is made after it, outside."""
    then(model).node[0].output[0] = "d"
    then(model).output[0].name = "d"


def function_in_use(model: onnx.ModelProto) -> None:
    model.functions.extend([function("F0", "F1", "F1"), function("F1", "Relu", "Relu")])
    use_function(model)


LEGAL: dict[str, Break] = {
    "as it is": lambda m: None,
    "no names": drop_names,
    "unsorted": unsorted,
    "unsorted branch": unsorted_branch,
    "shadowing": shadowing,
    "function": function_in_use,
    "unknown channels": lambda m: setattr(dim(m, 1), "dim_value", -1),
    "private operator": lambda m: (
        setattr(named(m, "pool"), "domain", "theirs"),
        m.opset_import.append(helper.make_opsetid("theirs", 1)),
    ),
    "private attribute": lambda m: added(m, "conv1", "__mark", 1),
    "zero left out by its writer": lambda m: (
        added(m, "fc", "transA", 0),
        attribute(m, "fc", "transA").ClearField("i"),
    ),
    "weights in numbers": lambda m: weight(m, "b1").CopyFrom(
        helper.make_tensor("b1", TensorProto.FLOAT, [8], [1.0] * 8)
    ),
    "pool": lambda m: pooled(m, [2, 2]),
    "weight as input": lambda m: m.graph.input.append(value("w1", TensorProto.FLOAT, [8, 3, 3, 3])),
}


@pytest.mark.parametrize("title", LEGAL)
def test_a_legal_model_passes(title: str) -> None:
    model = network()
    LEGAL[title](model)
    made = checked(model)
    if "private operator" not in title:  # an operator that no runtime has
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def test_sorting_keeps_the_meaning_and_sorted_files_untouched() -> None:
    model = network()
    unsorted(model)
    made = checked(model)
    order = [n.name for n in made.graph.node]
    assert order == [n.name for n in network().graph.node]


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    for where in (b"conv1", b"somebody", b"pads", b"w1", b"then"):
        model = network()
        model.producer_name = "somebody"
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(where, b"\xff" + where[1:]))
        with pytest.raises(InvalidModel, match="UTF-8"):
            check_model(load_model(tmp_path / "m.onnx"))


def test_nesting_has_a_limit() -> None:
    model = network()
    inner = model.graph
    for _ in range(70):
        inner.node.append(node("If", ["flag"], ["deep"]))
        inner.node[-1].attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.name = "deeper"
        inner = inner.node[-1].attribute[0].g
    with pytest.raises(InvalidModel, match="64 deep"):
        checked(model)


def test_time_grows_with_the_nodes_and_not_faster() -> None:
    def chain(length: int) -> LoadedModel:
        nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        ends = [value(name, TensorProto.FLOAT, [1, 3]) for name in ("v0", f"v{length}")]
        graph = helper.make_graph(nodes[::-1], "g", ends[:1], ends[1:])
        return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    times = []
    for length in (2_000, 16_000):
        model = chain(length)
        start = time.process_time()
        check_model(model)
        times.append(time.process_time() - start)
    assert times[1] < 40 * times[0]  # 8 times the nodes: 64 were quadratic


@needs_corpus
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_real_files_pass_untouched(path: Path) -> None:
    loaded = load_model(path)
    before = loaded.proto.SerializeToString(deterministic=True)
    check_model(loaded)
    assert loaded.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("text", ["INPUT", "OUTPUT", "ATTRIBUTE", "DOMAIN", "FUNCTION", "INNER"])
def test_texts_of_functions_that_are_not_utf8(text: str) -> None:
    inner = helper.make_node("LeakyRelu", ["INPUT"], ["OUTPUT"], name="INNER")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("DOMAIN", 1)]
    function = helper.make_function(
        "DOMAIN", "FUNCTION", ["INPUT"], ["OUTPUT"], [inner], imports[:1], attributes=["ATTRIBUTE"]
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    call = helper.make_node("FUNCTION", ["x"], ["y"], domain="DOMAIN")
    graph = helper.make_graph([call], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[function])
    check_model(LoadedModel(model))
    data = model.SerializeToString().replace(text.encode(), b"\xff" * len(text))
    with pytest.raises(InvalidModel, match="UTF-8"):
        check_model(LoadedModel(onnx.ModelProto.FromString(data)))
