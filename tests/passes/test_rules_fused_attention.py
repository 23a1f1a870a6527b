"""What ONNX Runtime's transformer optimiser fuses: MultiHeadAttention, and Attention with its projection."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bridge_case import in_runtime, in_torch, largest_difference
from golden_text import filled
from onnx import numpy_helper
from rewidth_case import free, graph_of, reason, rewidthed

from conet_graph.bridge import to_torch
from conet_graph.costs.cost import cost
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.rewriting import planned, rewritten

TOKENS = (
    "m = Conv(x, stem) shape3 = Constant<value_ints=[0,8,-1]>() f = Reshape(m, shape3)"
    " t = Transpose<perm=[0,2,1]>(f)"
)


def network(body: str, weights: str, opset: int = 17) -> onnx.ModelProto:
    """Nine tokens of eight channels, then ``body``, then five outputs a token."""
    header = f'<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]>'
    declared = f"float[8,3,1,1] stem, {weights}"
    return filled(f"{header}\nagraph (float[1,3,3,3] x) => (float[1,9,5] y)<{declared}>{{{TOKENS} {body}}}")


def attended(call: str, more: str = "", v: int = 18, before: str = "") -> onnx.ModelProto:
    """Three heads of four, of which V's are six long; ``call`` is what stands behind the operator's name."""
    return network(
        f"q = MatMul(t, wq) k = MatMul(t, wk) v = MatMul(t, wv) {before}"
        f" a = com.microsoft.MultiHeadAttention<num_heads=3 {call} y = MatMul(a, wy)",
        f"float[8,12] wq, float[8,12] wk, float[8,{v}] wv, float[{v},5] wy{more}",
    )


def fused(
    attributes: str = "", more: str = "", widths: int = 42, v: int = 18, opset: int = 17, mask: str = ""
) -> onnx.ModelProto:
    """The same with the projection inside."""
    return network(
        f"a = com.microsoft.Attention<num_heads=3{attributes}>(t, w, b{mask}) y = MatMul(a, wy)",
        f"float[8,{widths}] w, float[{widths}] b, float[{v},5] wy{more}",
        opset,
    )


UNEVEN = ", qkv_hidden_sizes=[12,12,18]"
APART = {
    "heads merged": attended(">(q, k, v)"),
    "a bias": attended(">(q, k, v, b)", ", float[42] b"),
    "a scale": attended(", scale=0.3>(q, k, v)"),
    "only the past": attended(", unidirectional=1>(q, k, v, b)", ", float[42] b"),
    "keys left out": attended(">(q, k, v, b, left)", ", float[42] b, int32[1,9] left"),
    "keys left out for each query": attended(
        ", mask_filter_value=-2.0>(q, k, v, , left)", ", int32[1,9,9] left"
    ),
    "a number of keys": attended(">(q, k, v, , count)", ", int32[1] count"),
    "added to the scores": attended(">(q, k, v, , , more)", ", float[1,3,9,9] more"),
    "equal heads": attended(">(q, k, v)", v=12),
}
FUSED = {
    "sizes": fused(UNEVEN),
    "thirds": fused(widths=36, v=12),
    "a scale": fused(f"{UNEVEN}, scale=0.3"),
    "only the past": fused(f"{UNEVEN}, unidirectional=1"),
    "keys left out": fused(UNEVEN, ", int32[1,9] left", mask=", left"),
    "added to the scores": fused(UNEVEN, ", float[1,3,9,9] more", mask=", , , more"),
    "sizes in an attribute": fused(UNEVEN, opset=12),
}
FORMS = {**APART, **{f"fused, {name}": model for name, model in FUSED.items()}}


@pytest.mark.parametrize("form", FORMS)
def test_heads_of_other_sizes(form: str) -> None:
    found = rewidthed(FORMS[form], scale=0.5)
    v = 6 if "equal" in form or "thirds" in form else 9
    assert found.shape("wy") == (v, 5)
    if form in APART:
        assert (found.shape("wq"), found.shape("wk"), found.shape("wv")) == ((4, 6), (4, 6), (4, v))
    else:
        assert found.shape("w") == (4, 12 + v)
    if "b" in found.arrays():
        assert found.shape("b") == (12 + v,)
    assert found.attr("a", "num_heads") == 3
    assert found.attr("a", "scale") == pytest.approx(0.3 if "scale" in form else 4**-0.5)


@pytest.mark.parametrize("form", ["a bias", "fused, sizes", "fused, keys left out"])
def test_wider_values_and_the_same_function(form: str) -> None:
    found = rewidthed(FORMS[form], scale=2.0)
    assert found.shape("wy") == (36, 5)
    # Copies of queries and keys would count twice.
    assert found.shape("b") == (60,)


def test_queries_and_keys_of_all_heads_are_one_group_and_values_another() -> None:
    assert free(FORMS["a bias"]) == [(8, 1), (12, 3), (18, 3)]
    assert free(FORMS["fused, sizes"]) == [(8, 1), (24, 6), (18, 3)]
    assert free(FORMS["fused, thirds"]) == [(8, 1), (24, 6), (12, 3)]


def test_the_projection_of_a_fused_attention_is_a_layer() -> None:
    graph = graph_of(FUSED["sizes"])
    layers = 9 * (3 * 8 + 8 * 42 + 18 * 5)
    assert cost(graph).macs == layers + 9 * 9 * (12 + 18)
    counts = np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.float64)
    assert CostModel(graph).macs(counts) == layers + 9 * 9 * (12 + 18)


def test_constant_queries_share_their_values_out() -> None:
    """Learned queries weigh the keys: copies of keys are shares of them."""
    model = network(
        "k = MatMul(t, wk) v = MatMul(t, wv) a = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v)"
        " y = MatMul(a, wy)",
        "float[8,12] wk, float[8,12] wv, float[1,9,12] q, float[12,5] wy",
    )
    assert rewidthed(model, scale=0.5).shape("q") == (1, 9, 6)
    assert rewidthed(model, scale=2.0).shape("q") == (1, 9, 24)


def packed(parts: int) -> onnx.ModelProto:
    """Heads of three tensors, or of two, side by side in one; the same sizes in each part."""
    call = "(p)" if parts == 3 else "(q, p)"
    return network(
        f"q = MatMul(t, wq) u = MatMul(t, w) five = Constant<value_ints=[0,-1,3,{parts},4]>()"
        f" p = Reshape(u, five) a = com.microsoft.MultiHeadAttention<num_heads=3>{call} y = MatMul(a, wy)",
        f"float[8,12] wq, float[8,{12 * parts}] w, float[12,5] wy",
    )


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a tensor for each part, as the processor's runtime can compute it."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    node = next(n for n in made.graph.node if n.op_type == "MultiHeadAttention")
    place, whole = list(made.graph.node).index(node), node.input[-1]
    parts = 3 if len(node.input) == 1 else 2
    names, before = list(node.input[:-1]), []
    made.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1]), "merged"))
    for part in range(parts):
        made.graph.initializer.append(numpy_helper.from_array(np.array(part), f"part{part}"))
        before.append(onnx.helper.make_node("Gather", [whole, f"part{part}"], [f"apart{part}"], axis=3))
        before.append(onnx.helper.make_node("Reshape", [f"apart{part}", "merged"], [f"flat{part}"]))
        names.append(f"flat{part}")
    node.ClearField("input")
    node.input.extend(names)
    for number, each in enumerate(before):
        made.graph.node.insert(place + number, each)
    return made


@pytest.mark.parametrize("parts", [3, 2])
def test_heads_in_one_tensor_have_one_size(parts: int) -> None:
    """A size that is zero in all parts makes no difference; the scale stays that of the four."""
    model = packed(parts)
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "wq"):
            array = numpy_helper.to_array(tensor).copy()
            array[:, 1::4] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    queries = 9 * 8 * 12 if parts == 2 else 0
    assert cost(graph_of(model)).macs == 9 * (24 + 8 * 12 * parts + 60) + queries + 2 * 9 * 9 * 12
    graph = graph_of(model)
    units = graph.result(CHANNELS).units
    copies = np.ones(len(units.frozen_class), np.int64)
    copies[units.classes[np.asarray(units.stored["w", 1])[1]]] = 0
    plan, layout = planned(graph, copies, "keep", False, 0)
    narrow = rewritten(graph, plan, layout)
    shapes = {t.name: tuple(t.dims) for t in narrow.graph.initializer}
    assert (shapes["w"], shapes["wy"]) == ((8, 9 * parts), (9, 5))
    x = np.random.default_rng(0).standard_normal((1, 3, 3, 3)).astype(np.float32)
    found, wanted = (in_runtime(unpacked(each), {"x": x}) for each in (narrow, model))
    assert largest_difference(found, wanted) < 1e-5


KEPT = {
    "a cache": attended(">(q, k, v, , , , past, past)", ", float[1,3,2,4] past", v=12),
    "heads turned": fused(", do_rotary=1", widths=36, v=12),
    "a mask with an axis of heads": fused(UNEVEN, ", int32[1,1,9,9] left", mask=", left"),
    "heads apart": attended(
        ">(q, kh, vh)",
        v=12,
        before="split = Constant<value_ints=[0,0,3,4]>() kr = Reshape(k, split) vr = Reshape(v, split)"
        " kh = Transpose<perm=[0,2,1,3]>(kr) vh = Transpose<perm=[0,2,1,3]>(vr)",
    ),
}


WHY = {
    "a cache": "keeps keys and values",
    "heads turned": "turns heads",
    "a mask with an axis of heads": "a mask that is not understood",
    "heads apart": "4 axes where 3",
}


@pytest.mark.parametrize("form", KEPT)
def test_what_is_not_understood_stays_and_is_named(form: str) -> None:
    model = onnx.ModelProto.FromString(KEPT[form].SerializeToString())
    if form == "a cache":
        model.graph.node[-2].output.extend(["keys", "values"])
    names = [t.name for t in model.graph.initializer]
    assert WHY[form] in reason(model, "wq" if "wq" in names else "stem")


@pytest.mark.parametrize(("form", "wide"), [("heads turned", 12), ("a mask with an axis of heads", 18)])
def test_what_lies_behind_goes_on(form: str, wide: int) -> None:
    assert graph_of(KEPT[form]).shape("a") == (1, 9, wide)


def test_a_bias_for_each_head_that_a_layer_makes_keeps_its_heads() -> None:
    model = attended(
        ">(q, k, v, , , more)",
        ", float[8,3] wm, float[1,3,9,9] table",
        before="u = MatMul(t, wm) r = Transpose<perm=[0,2,1]>(u) second = Constant<value_ints=[2]>()"
        " z = Unsqueeze(r, second) more = Add(z, table)",
    )
    assert "one mask for each image or head" in reason(model, "wm")
    assert rewidthed(model, scale=0.5).shape("wm") == (4, 3)


@pytest.mark.parametrize(
    "form",
    ["a bias", "only the past", "keys left out for each query", "a number of keys", "fused, keys left out"],
)
def test_it_trains_in_pytorch_on_any_batch(form: str) -> None:
    module = to_torch(LoadedModel(FORMS[form]))
    images = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    alone = np.concatenate([in_runtime(FORMS[form], {"x": images[k : k + 1]})[0] for k in range(3)])
    assert largest_difference(in_torch(module, {"x": images}), [alone]) < 1e-5


@pytest.mark.parametrize("norm", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_block_with_its_sums_in_the_norms(norm: str) -> None:
    """Before each norm stands a sum, which later ones read, too, as the norm's fourth output."""
    vectors = ["g1", "b1", "c1"] if norm == "SkipLayerNormalization" else ["g1", "c1"]
    model = network(
        "a = com.microsoft.Attention<num_heads=2>(t, w, b) o = MatMul(a, wo)"
        f" n, mean, dev, s = com.microsoft.{norm}(t, o, {', '.join(vectors)}) u = MatMul(n, wu)"
        " z = Add(s, u) y = MatMul(z, wy)",
        "float[8,24] w, float[24] b, float[8,8] wo, float[8,8] wu, float[8,5] wy,"
        + ",".join(f" float[8] {name}" for name in vectors),
    )
    found = rewidthed(model, exact=False, scale=0.5)
    assert found.shape("g1") == (4,)
    images = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    alone = np.concatenate([in_runtime(model, {"x": images[k : k + 1]})[0] for k in range(3)])
    assert largest_difference(in_torch(to_torch(LoadedModel(model)), {"x": images}), [alone]) < 1e-5


ZEROS = {
    "queries and keys": ({"wq": 12, "wk": 12}, 9),
    "queries whose bias a key still hears": ({"wq": 12}, 12),
}


@pytest.mark.parametrize("zeros", ZEROS)
def test_what_is_zero_before_the_bias_goes_only_on_both_sides(zeros: str) -> None:
    """Where both are zero, their biases add the same number to every score: the Softmax does not see it."""
    columns, left = ZEROS[zeros]
    model = onnx.ModelProto.FromString(FORMS["a bias"].SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name in columns:
            array = numpy_helper.to_array(tensor).copy()
            array[:, 1::4] = 0  # the second size of each of the three heads
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if left == 12:
        with pytest.raises(Refused, match="No channel"):
            rewidthed(model, lossless=True)
    else:
        assert rewidthed(model, lossless=True).shape("wq") == (8, left)
