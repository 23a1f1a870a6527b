"""Channels whose number has a meaning are kept by default, with the reason, and freed by an option."""

from __future__ import annotations

import onnx
import pytest
from golden_text import parsed
from rewidth_case import graph_of

import conet_graph as cg
from conet_graph.analysis.analysis import GroupEntry, analysis_of
from conet_graph.analysis.explain import explain
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed

HEAD = "agraph (float[1,3,4,4] x) => (float[] y)"
BOXES = parsed(
    "agraph (float[1,3,8,8] x) => (float[1,4,64] y)"
    "<float[8,3,3,3] w1, float[64,8,1,1] w2, float[1,16,1,1] bins,"
    " int64[4] apart = {1,4,16,64}, int64[3] flat = {1,4,64}> {"
    "a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a) b = Conv(r, w2) q = Reshape(b, apart)"
    " t = Transpose<perm=[0,2,1,3]>(q) p = Softmax<axis=1>(t) d = Conv(p, bins) y = Reshape(d, flat)}"
)
SELECTING = {
    "Softmax": ("s = Softmax<axis=1>(a)", "Softmax 's' selects among them"),
    "LogSoftmax": ("s = LogSoftmax<axis=1>(a)", "LogSoftmax 's' selects among them"),
    "Hardmax": ("s = Hardmax<axis=1>(a)", "Hardmax 's' selects among them"),
    "ArgMax": ("k = ArgMax<axis=1>(a) c = Cast<to=1>(k) s = Mul(a, c)", "ArgMax 'k' selects among them"),
    "ArgMin": ("k = ArgMin<axis=1>(a) c = Cast<to=1>(k) s = Mul(a, c)", "ArgMin 'k' selects among them"),
    "TopK": (
        "v, i = TopK<axis=1>(a, three) m = ReduceMax<axes=[1]>(v) s = Sub(a, m)",
        "TopK 'v' selects among them",
    ),
}


def group_of(model: onnx.ModelProto, layer: str, *, free_kept: bool = False) -> GroupEntry:
    found = analysis_of(analysed(LoadedModel(model), free_kept=free_kept))
    entry = next(x for x in found.layers if x.weight == layer)
    return next(g for g in found.groups if g.id == entry.out_groups[0])


@pytest.mark.parametrize("kind", SELECTING)
def test_selected_channels_stay(kind: str) -> None:
    made, reason = SELECTING[kind]
    net = parsed(
        f"{HEAD}<float[6,3,1,1] w, float[5,6,1,1] wy, int64[1] three = {{3}}>"
        f"{{a = Conv(x, w) {made} y = Conv(s, wy)}}"
    )
    kept, freed = group_of(net, "w"), group_of(net, "w", free_kept=True)
    assert (kept.free, kept.reason) == (False, f"{reason} (kept by default)")
    assert (freed.free, freed.width) == (True, 6)
    told = explain(graph_of(net), "a").lines()
    assert told[-1].endswith(f"{reason} (kept by default)")


def test_box_bins_stay_and_the_rest_shrinks() -> None:
    model = LoadedModel(BOXES)
    made = cg.plan(model, scale=0.5)
    assert [(g.old_width, g.new_width) for g in made.groups] == [(8, 4)]
    assert made.exact
    shapes = {t.name: list(t.dims) for t in cg.rewrite(model, made).proto.graph.initializer}
    assert shapes["w2"] == [64, 4, 1, 1]
    assert shapes["bins"] == [1, 16, 1, 1]


def test_box_bins_freed_by_the_option_and_by_the_plan_itself() -> None:
    """The plan remembers that it frees them, so rewrite and verify need not be told again."""
    model = LoadedModel(BOXES)
    made = cg.plan(model, scale=0.5, free_kept=True)
    again = type(made).loads(made.dumps())
    assert again.free_kept
    new = cg.rewrite(model, again)
    assert {t.name: list(t.dims) for t in new.proto.graph.initializer}["bins"] == [1, 8, 1, 1]
    assert not made.exact


@pytest.mark.parametrize("norm", ["LayerNormalization<axis=-1>(t, g)", "LpNormalization<axis=-1>(t)"])
def test_norms_stay_free(norm: str) -> None:
    net = parsed(
        f"{HEAD}<float[6,3,1,1] w, float[6] g, float[5,6,1,1] wy>"
        f"{{a = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(a) n = {norm}"
        " s = Transpose<perm=[0,3,1,2]>(n) y = Conv(s, wy)}"
    )
    assert group_of(net, "w").free


def test_attention_over_tokens_is_no_selection_of_channels() -> None:
    net = parsed(
        "agraph (float[1,9,6] x) => (float[1,9,6] y)"
        "<float[6,8] wq, float[6,8] wk, float[6,8] wv, float[8,6] wy> {"
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k)"
        " s = MatMul(q, kt) p = Softmax<axis=-1>(s) o = MatMul(p, v) y = MatMul(o, wy)}"
    )
    assert group_of(net, "wq").free
    assert group_of(net, "wv").free


def test_a_hard_reason_is_told_before_a_kept_one() -> None:
    """The option would not free what is an output of the network anyway."""
    net = parsed(f"{HEAD}<float[6,3,1,1] w>{{a = Conv(x, w) y = Softmax<axis=1>(a)}}")
    assert group_of(net, "w").reason == "graph output 'y'"
    assert not group_of(net, "w", free_kept=True).free


ALPHABETS = {
    "one-hot by comparison": (
        "agraph (int32[2,7] x) => (float[2,7,5] y)<float[20,12] w, float[12,5] wy, int32[20] every>",
        "e = Unsqueeze(x, last) is = Equal(e, every) f = Cast<to=1>(is)",
    ),
    "a row of constants as a feature map": (
        "agraph (float[2,7,1] x) => (float[2,7,5] y)<float[20,12] w, float[12,5] wy, float[20] every>",
        "d = Sub(x, every) sq = Mul(d, d) f = Neg(sq)",
    ),
}


@pytest.mark.parametrize("kind", ALPHABETS)
def test_what_no_layer_produces_stays(kind: str) -> None:
    head, made = ALPHABETS[kind]
    head = head[:-1] + ", int64[1] last = {-1}>"
    net = parsed(f"{head}{{{made} h = MatMul(f, w) y = MatMul(h, wy)}}")
    found = analysis_of(analysed(LoadedModel(net)))
    layer = next(x for x in found.layers if x.weight == "w")
    group = next(g for g in found.groups if g.id == layer.in_groups[0])
    assert not group.free
    assert group.reason is not None
    assert "no layer produces them" in group.reason
    freed = analysis_of(analysed(LoadedModel(net), free_kept=True))
    assert next(g for g in freed.groups if g.id == group.id).free
    made_plan = cg.plan(LoadedModel(net), scale=0.5, multiple_of=1)
    assert [(g.old_width, g.new_width) for g in made_plan.groups] == [(12, 6)]


def test_an_embedding_is_a_layer() -> None:
    net = parsed(
        "agraph (int64[2,7] x) => (float[2,7,5] y)<float[20,12] table, float[12,5] wy>"
        "{e = Gather(table, x) r = Relu(e) y = MatMul(r, wy)}"
    )
    assert [(g.width, g.reason) for g in analysis_of(analysed(LoadedModel(net))).groups if g.free] == [
        (12, None)
    ]
