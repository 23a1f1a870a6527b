"""Images of any size: sizes that only the run knows cancel where merged and split axes share them."""

from __future__ import annotations

import pytest
from golden_text import parsed
from rewidth_case import free, graph_of, rewidthed

IMAGE = "agraph (float[N,3,H,W] x) => (float[] y)"
WEIGHTS = "float[16,3,1,1] w, float[16,16,3,3] k, float[5,16,1,1] wy, int64[1] b = {0}, int64[1] c = {1}"
NUMBERS = "int64[1] i = {2}, int64[1] j = {3}, int64[1] four = {4}, int64[1] rest = {-1}, int64[1] two = {2}"
SIZES = "z = Shape(a) n = Gather(z, b) h = Gather(z, i) v = Gather(z, j) "
BACK = "back = Concat<axis=0>(n, rest, h, v) m = Reshape(p, back)"
GROUPED = SIZES + "g = Mul(n, four) s = Concat<axis=0>(g, rest, h, v) "

MERGED = {
    "groups of channels as images": (
        "a = Conv(x, w) " + GROUPED + "r = Reshape(a, s) p = Sigmoid(r) " + BACK,
        [(16, 4)],
    ),
    "the same behind a convolution with strides": (
        "f = Conv(x, w) a = Conv<strides=[2,2], pads=[1,1,1,1]>(f, k) "
        + GROUPED
        + "r = Reshape(a, s) p = Relu(r) "
        + BACK,
        [(16, 1), (16, 4)],
    ),
    "groups of a map, sizes of another that has as many pixels": (
        "a = Conv(x, w) " + GROUPED + "e = Conv<pads=[1,1,1,1]>(a, k) o = MaxPool<kernel_shape=[3,3],"
        " pads=[1,1,1,1]>(e) r = Reshape(o, s) p = Relu(r) " + BACK,
        [(16, 1), (16, 4)],
    ),
    "groups beside merged pixels": (
        "a = Conv(x, w) " + SIZES + "q = Mul(h, v) s = Concat<axis=0>(n, rest, four, q) r = Reshape(a, s)"
        " t = Transpose<perm=[0,1,3,2]>(r) u = Exp(t) p = Transpose<perm=[0,1,3,2]>(u) " + BACK,
        [(16, 4)],
    ),
    "columns as images": (
        "a = Conv(x, w) " + SIZES + "t = Transpose<perm=[0,3,1,2]>(a) q = Mul(n, v)"
        " s = Concat<axis=0>(q, sixteen, h) r = Reshape(t, s) u = Relu(r)"
        " d = Concat<axis=0>(n, v, sixteen, h) p = Reshape(u, d) m = Transpose<perm=[0,2,3,1]>(p)",
        [(16, 1)],
    ),
    "groups of a map that has been enlarged": (
        "a = Conv(x, w) " + SIZES + 'l = Resize<mode="nearest">(a, none, times) hh = Mul(h, two)'
        " vv = Mul(v, two) s = Concat<axis=0>(n, four, rest, hh, vv) r = Reshape(l, s) o = Relu(r)"
        " d = Concat<axis=0>(n, rest, hh, vv) m = Reshape(o, d)",
        [(16, 4)],
    ),
    "groups of a map that a transposed convolution has enlarged": (
        "a = Conv(x, w) " + SIZES + "l = ConvTranspose<strides=[2,2], kernel_shape=[4,4], pads=[1,1,1,1]>"
        "(a, k4) hh = Mul(h, two) vv = Mul(v, two) s = Concat<axis=0>(n, four, rest, hh, vv)"
        " r = Reshape(l, s) o = Relu(r) d = Concat<axis=0>(n, rest, hh, vv) m = Reshape(o, d)",
        [(16, 1), (16, 4)],
    ),
    "the mean of the largest of each channel": (
        "a = Conv(x, w) f = Reshape(a, flat) t, l = TopK<axis=2>(f, two)"
        " e = ReduceMean<axes=[2], keepdims=0>(t) g = Reshape(e, gate) m = Mul(a, g)",
        [(16, 1)],
    ),
    "parts of computed sizes": (
        "a = Conv(x, w) " + SIZES + "one = Sub(h, two) parts = Concat<axis=0>(two, one)"
        " l, o = Split<axis=2>(a, parts) zl = Shape(o) hl = Gather(zl, i) g = Mul(n, four)"
        " s = Concat<axis=0>(g, rest, hl, v) r = Reshape(o, s) u = Relu(r)"
        " d = Concat<axis=0>(n, rest, hl, v) e = Reshape(u, d) m = Concat<axis=2>(l, e)",
        [(16, 4)],
    ),
    "pixels padded at a computed place": (
        "a = Conv(x, w) " + SIZES + "two2 = Mod(h, two) pads = Concat<axis=0>(b, b, b, b, b, b, two2, b)"
        " l = Pad(a, pads) zl = Shape(l) hl = Gather(zl, i) g = Mul(n, four)"
        " s = Concat<axis=0>(g, rest, hl, v) r = Reshape(l, s) u = Relu(r)"
        " d = Concat<axis=0>(n, rest, hl, v) m = Reshape(u, d)",
        [(16, 4)],
    ),
    "pixels cut off at a computed place": (
        "a = Conv(x, w) " + SIZES + "o = Sub(h, c) l = Slice(a, b, o, i) zl = Shape(l) hl = Gather(zl, i)"
        " g = Mul(n, four) s = Concat<axis=0>(g, rest, hl, v) r = Reshape(l, s) u = Relu(r)"
        " d = Concat<axis=0>(n, rest, hl, v) m = Reshape(u, d)",
        [(16, 4)],
    ),
}
MORE = (
    "float none, float[4] times = {1,1,2,2}, float[16,16,4,4] k4, int64[1] sixteen = {16},"
    " int64[3] flat = {0,0,-1}, int64[4] gate = {-1,16,1,1}"
)


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", MERGED)
def test_channels_come_apart_from_free_sizes(kind: str, scale: float) -> None:
    nodes, groups = MERGED[kind]
    net = parsed(f"{IMAGE}<{WEIGHTS}, {NUMBERS}, {MORE}>{{{nodes} y = Conv(m, wy)}}")
    assert free(net) == groups
    assert rewidthed(net, scale=scale).shape("wy")[1] == 16 * scale


KEPT = {
    "same": "Conv<pads=[2,2,2,2]>(x, w)",
    "dilated": "Conv<dilations=[2,2], pads=[4,4,4,4]>(x, w)",
    "padded": 'Conv<auto_pad="SAME_UPPER">(x, w)',
    "pooled": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "twice": "ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, t)",
    "shorter": "Conv<pads=[1,1,1,1]>(x, w)",
    "strided": "Conv<strides=[2,2], pads=[2,2,2,2]>(x, w)",
    "longer": "ConvTranspose<strides=[2,2]>(x, t)",
}


@pytest.mark.parametrize("kind", KEPT)
def test_sizes_behind_layers_have_the_names_of_those_before(kind: str) -> None:
    net = parsed(f"{IMAGE}<float[8,3,5,5] w, float[3,8,4,4] t>{{ y = {KEPT[kind]} }}")
    height = {"twice": "2*H", "shorter": "unk__0", "strided": "unk__0", "longer": "unk__0"}.get(kind, "H")
    assert (graph_of(net).shape("y") or ())[2] == height
