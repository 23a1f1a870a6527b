"""Public reports of structural pruners that went wrong, as small networks: operators that move channels."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import parsed
from rewidth_case import free, graph_of, produced_by, reason, rewidthed

from conet_graph.analysis.analysis import analysis_of

IMAGE = "agraph (float[N,3,6,6] x) => (float[N,D,E,F] y)"
C2F = (
    IMAGE + "<float[8,3,1,1] wa, int64[2] sizes = {4, 4}, float[4,4,1,1] wf, float[5,12,1,1] wy>"
    "{a = Conv(x, wa) l, r = Split<axis=1>(a, sizes) f = Conv(r, wf) %s"
    "c = Concat<axis=1>(l, r, g) y = Conv(c, wy)}"
)


def test_c01_concatenation_of_a_map_with_itself() -> None:
    """Channel i of the producer is read at i and at C + i."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[4,16,1,1] wy>"
        "{a = Conv(x, wa) c = Concat<axis=1>(a, a) y = Conv(c, wy)}"
    )
    assert free(net) == [(8, 1)]
    slim = rewidthed(net, widths={"wa": 5})
    assert slim.shape("wy") == (4, 10, 1, 1)
    kept = slim.kept("wa", 0)
    assert slim.kept("wy", 1) == [*kept, *(k + 8 for k in kept)]
    assert rewidthed(net, widths={"wa": 9}).shape("wy") == (4, 18, 1, 1)


def test_c02_branches_of_linear_layers() -> None:
    """Three features beside the single output of a small MLP: each branch has its own size."""
    net = parsed(
        "agraph (float[N,6] x) => (float[N,D] y)"
        "<float[3,6] wa, float[5,6] wh, float[1,5] wb, float[1,4] wy>"
        "{a = Gemm<transB=1>(x, wa) h = Gemm<transB=1>(x, wh) r = Relu(h) b = Gemm<transB=1>(r, wb)"
        "c = Concat<axis=1>(a, b) y = Gemm<transB=1>(c, wy)}"
    )
    assert sorted(free(net)) == [(1, 1), (3, 1), (5, 1)]
    slim = rewidthed(net, widths={"wa": 2})
    assert slim.shape("wb") == (1, 5)
    assert slim.kept("wy", 1) == [*slim.kept("wa", 0), 3]
    wide = rewidthed(net, widths={"wb": 2})
    assert wide.kept("wy", 1) == [0, 1, 2, 3, 3]


def test_c03_pyramid_of_pools() -> None:
    """A map, its pools and another map in one concatenation: one offset a slot, none out of range."""
    net = parsed(
        IMAGE + "<float[4,3,1,1] wa, float[6,3,1,1] wb, float[5,18,1,1] wy>"
        "{a = Conv(x, wa) p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)"
        "q = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(p) b = Conv(x, wb)"
        "c = Concat<axis=1>(a, p, q, b) y = Conv(c, wy)}"
    )
    assert free(net) == [(4, 1), (6, 1)]
    slim = rewidthed(net, widths={"wa": 3, "wb": 2})
    a, b = slim.kept("wa", 0), slim.kept("wb", 0)
    assert slim.kept("wy", 1) == [*a, *(k + 4 for k in a), *(k + 8 for k in a), *(k + 12 for k in b)]


def test_c04_halves_of_a_split() -> None:
    """One half goes through a bottleneck with a shortcut: two sizes, and three without the shortcut."""
    net = parsed(C2F % "g = Add(f, r)")
    assert free(net) == [(4, 1), (4, 1)]
    left, right = produced_by(net, "wa")
    assert produced_by(net, "wf") == [right]
    new = rewidthed(net, widths={left: 3, right: 2})
    assert [new.shape(w)[:2] for w in ("wa", "wf", "wy")] == [(5, 3), (2, 2), (5, 7)]
    assert new.numbers("l", 1) == [3, 2]
    assert free(parsed(C2F % "g = Relu(f)")) == [(4, 1)] * 3


def test_c06_twice_is_once() -> None:
    """Two rewrites, one after the other, give what one gives."""
    net = parsed(C2F % "g = Add(f, r)")
    left, right = produced_by(net, "wa")
    first = rewidthed(net, widths={left: 2}, importance="first").proto
    left_, right_ = produced_by(first, "wa")
    assert left_ == left
    second = rewidthed(first, widths={right_: 3}, importance="first").arrays()
    once = rewidthed(net, widths={left: 2, right: 3}, importance="first").arrays()
    assert second.keys() == once.keys()
    for name, array in once.items():
        np.testing.assert_array_equal(second[name], array)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), None], ids=["equal", "unequal", "unsaid"])
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("join", ["Add", "Concat"])
def test_c07_split_in_every_form(opset: int, sizes: tuple[int, int] | None, join: str) -> None:
    """Sizes as an attribute, as an input, or left to be equal; the parts are added or concatenated later."""
    first, second = sizes or (4, 4)
    given = opset >= 13 and sizes is not None
    split = "a, s" if given else "a"
    attribute = f", split=[{first},{second}]" if sizes and opset < 13 else ""
    body = "j = Add(b, c)" if join == "Add" else "j = Concat<axis=1>(b, c)"
    held = f"int64[2] s = {{{first}, {second}}}, " if given else ""
    net = parsed(
        f'<ir_version: 8, opset_import: ["": {opset}]> {IMAGE}<float[8,3,1,1] wa, {held}'
        f"float[6,{first},1,1] wb, float[6,{second},1,1] wc, float[5,{6 if join == 'Add' else 12},1,1] wy>"
        f"{{a = Conv(x, wa) l, r = Split<axis=1{attribute}>({split}) b = Conv(l, wb) c = Conv(r, wc) {body}"
        "y = Conv(j, wy)}"
    )
    expected = (
        [(first, 1), (second, 1), (6, 1)] if join == "Add" else [(first, 1), (second, 1), (6, 1), (6, 1)]
    )
    assert free(net) == expected
    left, right = produced_by(net, "wa")
    new = rewidthed(net, widths={left: 2, right: 5})
    assert new.shape("wa") == (7, 3, 1, 1)
    assert new.shape("wb") == (6, 2, 1, 1)
    assert new.shape("wc") == (6, 5, 1, 1)
    written = new.attr("l", "split") if opset < 13 else new.numbers("l", 1)
    assert list(written) == [2, 5]


def test_c08_channel_shuffle() -> None:
    """Reshape, transpose, reshape over two groups: channels stay balanced, and the order is followed."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, int64[5] apart = {-1, 2, 4, 6, 6}, int64[4] back = {-1, 8, 6, 6},"
        "float[5,8,1,1] wy> {a = Conv(x, wa) b = Reshape(a, apart) c = Transpose<perm=[0,2,1,3,4]>(b)"
        "d = Reshape(c, back) y = Conv(d, wy)}"
    )
    assert free(net) == [(8, 2)]
    slim = rewidthed(net, widths={"wa": 6})
    kept = slim.kept("wa", 0)
    assert kept[3:] == [k + 4 for k in kept[:3]]
    assert slim.kept("wy", 1) == [2 * k + g for k in kept[:3] for g in (0, 1)]
    assert slim.numbers("b", 1)[1:] == [2, 3, 6, 6]
    assert slim.numbers("d", 1)[1:] == [6, 6, 6]


def test_c19_flatten_of_a_one_dimensional_map() -> None:
    """Channel c of a 1-D convolution fills ten columns in a row of the classifier, whose outputs stay."""
    net = parsed(
        "agraph (float[N,3,10] x) => (float[N,D] y) <float[32,3,3] wa, float[2,320] wy>"
        "{a = Conv<pads=[1,1]>(x, wa) f = Flatten(a) y = Gemm<transB=1>(f, wy)}"
    )
    assert free(net) == [(32, 1)]
    slim = rewidthed(net, widths={"wa": 20})
    assert slim.shape("wy") == (2, 200)
    assert slim.kept("wy", 1) == [10 * k + j for k in slim.kept("wa", 0) for j in range(10)]


def test_c21_reshape_into_a_sequence() -> None:
    """Channels and pixels merge to 1024 features of a linear layer."""
    net = parsed(
        "agraph (float[2,3,8,8] x) => (float[1,2,5] y)"
        "<float[16,3,1,1] wa, int64[3] to = {-1, 2, 1024}, float[1024,5] wm>"
        "{a = Conv(x, wa) r = Reshape(a, to) y = MatMul(r, wm)}"
    )
    assert free(net) == [(16, 1)]
    slim = rewidthed(net, widths={"wa": 8})
    assert slim.shape("wm") == (512, 5)
    assert slim.numbers("r", 1) == [-1, 2, 512]


def test_c21_reshape_that_cuts_across_samples() -> None:
    """Six channels of sixteen pixels in rows of 64: every other channel lies in the same columns."""
    net = parsed(
        "agraph (float[2,3,4,4] x) => (float[3,5] y)"
        "<float[6,3,1,1] wa, int64[2] to = {-1, 64}, float[64,5] wm>"
        "{a = Conv(x, wa) r = Reshape(a, to) y = MatMul(r, wm)}"
    )
    assert free(net) == [(6, 3)]
    slim = rewidthed(net, widths={"wa": 3})
    assert slim.kept("wa", 0) in ([0, 2, 4], [1, 3, 5])
    assert slim.shape("wm") == (32, 5)


def test_c21_reshape_of_unknown_sizes_is_refused_by_name() -> None:
    """Rows of 64 of a map of unknown size: the layer before it stays, and says why."""
    net = parsed(
        "agraph (float[N,3,H,W] x) => (float[M,5] y)"
        "<float[6,3,1,1] wa, float[6,6,1,1] wb, int64[2] to = {-1, 64}, float[64,5] wm>"
        "{a = Conv(x, wa) b = Conv(a, wb) r = Reshape(b, to) y = MatMul(r, wm)}"
    )
    assert "Reshape" in reason(net, "wb")
    assert "mixes channels" in reason(net, "wb")
    assert rewidthed(net, widths={"wa": 4}).shape("wb") == (6, 4, 1, 1)


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_c22_depth_to_space(mode: str) -> None:
    """Four channels become one: they lie side by side (CRD), or a quarter of the width apart (DCR)."""
    net = parsed(
        IMAGE + "<float[16,3,1,1] wa, float[5,4,1,1] wy>"
        f'{{a = Conv(x, wa) d = DepthToSpace<blocksize=2, mode="{mode}">(a) y = Conv(d, wy)}}'
    )
    assert free(net) == [(16, 4)]
    slim = rewidthed(net, widths={"wa": 8})
    assert slim.shape("wy") == (5, 2, 1, 1)
    kept = slim.kept("wy", 1)
    blocks = [[4 * k + j for k in kept for j in range(4)], [k + 4 * j for j in range(4) for k in kept]]
    assert slim.kept("wa", 0) == blocks[mode == "DCR"]
    assert rewidthed(net, widths={"wa": 24}).shape("wy") == (5, 6, 1, 1)


@pytest.mark.parametrize(("kind", "gates"), [("GRU", 3), ("LSTM", 4), ("RNN", 1)])
def test_c24_recurrent_layer_behind_a_convolution(kind: str, gates: int) -> None:
    """The input side of a recurrent layer follows; its hidden size stays, and says why."""
    net = parsed(
        "agraph (float[N,3,6,7] x) => (float[N,D] y)"
        f"<float[6,3,1,1] wa, float[1,{4 * gates},6] W, float[1,{4 * gates},4] R,"
        "int64[1] zero = {0}, float[5,4] wy> {a = Conv(x, wa) m = ReduceMean<axes=[2], keepdims=0>(a)"
        f's = Transpose<perm=[2,0,1]>(m) "", h = {kind}<hidden_size=4>(s, W, R)'
        "q = Squeeze(h, zero) y = Gemm<transB=1>(q, wy)}"
    )
    assert free(net) == [(6, 1)]
    new = rewidthed(net, widths={"wa": 4})
    assert new.shape("W") == (1, 4 * gates, 4)
    assert new.kept("W", 2) == new.kept("wa", 0)
    layer = next(entry for entry in analysis_of(graph_of(net)).layers if entry.op == kind)
    out = next(g for g in analysis_of(graph_of(net)).groups if g.id in layer.out_groups)
    assert (out.width, out.free) == (4, False)
    assert out.reason == f"the hidden size of {kind} 'h' is kept"


def test_c38_resize_to_stated_sizes() -> None:
    """The channel entry of the sizes follows, the others stay."""
    net = parsed(
        "agraph (float[1,3,12,12] x) => (float[1,5,24,24] y)"
        "<float[24,3,1,1] wa, int64[4] sizes = {1, 24, 24, 24}, float[5,24,1,1] wy>"
        '{a = Conv(x, wa) r = Resize<mode="nearest">(a, "", "", sizes) y = Conv(r, wy)}'
    )
    assert free(net) == [(24, 1)]
    for width in (10, 30):
        assert rewidthed(net, widths={"wa": width}).numbers("r", 3) == [1, width, 24, 24]


def test_c39_padded_channels() -> None:
    """16 channels between two times four of zeros, added to 24: channel i meets channel i + 4.

    The zeros meet channels of the other branch, and go or are copied with them.
    """
    net = parsed(
        IMAGE + "<float[16,3,1,1] wa, int64[8] pads = {0, 4, 0, 0, 0, 4, 0, 0}, float[24,3,1,1] wb,"
        "float[5,24,1,1] wy>"
        "{a = Conv(x, wa) p = Pad(a, pads) b = Conv(x, wb) s = Add(p, b) y = Conv(s, wy)}"
    )
    assert free(net) == [(16, 1), (8, 1)]
    slim = rewidthed(net, widths={"wa": 10})
    expected = [*range(4), *(k + 4 for k in slim.kept("wa", 0)), *range(20, 24)]
    assert slim.kept("wb", 0) == slim.kept("wy", 1) == expected
    assert slim.numbers("p", 1) == [0, 4, 0, 0, 0, 4, 0, 0]
    slim = rewidthed(net, scale=0.5)
    before = sum(k < 4 for k in slim.kept("wb", 0))
    assert slim.numbers("p", 1) == [0, before, 0, 0, 0, 4 - before, 0, 0]
    wide = rewidthed(net, scale=1.5)
    assert sum(wide.numbers("p", 1)) == 12
    assert wide.shape("wb") == (36, 3, 1, 1)


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize(
    ("opset", "pad"),
    [(9, "Pad<pads=[0,0,0,0,0,4,0,0]>(a)"), (17, "Pad(a, pads, one)"), (18, "Pad(a, on, , at)")],
)
def test_c39_however_the_padding_is_written(opset: int, pad: str, scale: float) -> None:
    net = parsed(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        + IMAGE
        + "<float[8,3,1,1] wa, float[12,8,1,1] wb, float[5,12,1,1] wy, float one = {1.0}, int64[1] at = {-3},"
        "int64[8] pads = {0, 4, 0, 0, 0, 0, 0, 0}, int64[2] on = {1, 3}>"
        f"{{a = Conv(x, wa) p = {pad} b = Conv(a, wb) s = Add(p, b) y = Conv(s, wy)}}"
    )
    assert sorted(free(net)) == [(4, 1), (8, 1)]
    assert rewidthed(net, scale=scale).shape("wb")[:2] == (12 * scale, 8 * scale)


def test_c39_zeros_that_no_layer_meets_stay() -> None:
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}, float[5,12,1,1] wy>"
        "{a = Conv(x, wa) p = Pad(a, pads) y = Conv(p, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 8, 1, 1)


def test_c41_concatenation_along_the_height() -> None:
    """Two maps one above the other have one number of channels."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[8,3,1,1] wb, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) b = Conv(x, wb) c = Concat<axis=2>(a, b) y = Conv(c, wy)}"
    )
    assert free(net) == [(8, 1)]
    slim = rewidthed(net, widths={"wa": 5})
    assert [slim.shape(w)[:2] for w in ("wa", "wb", "wy")] == [(5, 3), (5, 3), (5, 5)]
    assert slim.kept("wa", 0) == slim.kept("wb", 0) == slim.kept("wy", 1)
