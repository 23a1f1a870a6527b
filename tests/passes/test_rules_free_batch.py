"""Channels merged with a batch that only the run knows: sizes are followed as products, as in 4*N."""

from __future__ import annotations

from collections import Counter

import pytest
from golden_text import parsed
from rewidth_case import free, rewidthed

from conet_graph.passes.shapes.size_products import factors, product, quotient

IMAGE = "agraph (float[N,3,6,6] x) => (float[N,5,6,6] y)"
WEIGHTS = "float[16,3,1,1] w, float[5,16,1,1] wy"


def test_products_of_sizes() -> None:
    assert factors("N") == (1, Counter("N"))
    assert factors("4*N") == (4, Counter("N"))
    assert factors("unk__3") == (1, Counter(["unk__3"]))
    assert factors("floor(h/2)*4") is None
    assert product((4, "N", 3)) == "12*N"
    assert product(("h", "N")) == "N*h"
    assert product((2, 3)) == 6
    assert product((2, None)) is None
    assert quotient("12*N", "4*N") == 3
    assert quotient("12*N", 4) == "3*N"
    assert quotient("12*N", 5) is None
    assert quotient(12, "N") is None


def counted(factor: int, sizes: str) -> str:
    """Nodes that compute a Reshape target: the batch times ``factor``, then constant sizes."""
    return (
        f"shape = Shape(a) n = Gather(shape, first) f = Constant<value_ints=[{factor}]>() m = Mul(n, f)"
        f" rest = Constant<value_ints=[{sizes}]>() s = Concat<axis=0>(m, rest) "
    )


GROUPS = {
    "groups of channels as images, the rest named -1": (
        counted(4, "-1,6,6") + "g = Reshape(a, s) p = Relu(g)",
        "float[4] one",
        [(16, 4)],
    ),
    "groups of channels as images, each with its own convolution": (
        counted(2, "-1,6,6") + "g = Reshape(a, s) p = Conv(g, k)",
        "float[8,8,1,1] k",
        [(16, 2), (8, 1)],
    ),
    "groups of two halves": (
        counted(4, "2,-1,6,6") + "g = Reshape(a, s) p = Relu(g)",
        "float[4] one",
        [(16, 8)],
    ),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_groups_merged_into_the_batch_and_back(kind: str) -> None:
    body, weights, groups = GROUPS[kind]
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, {weights}, int64[1] first = {{0}}, int64[4] back = {{-1,16,6,6}}>"
        f"{{a = Conv(x, w) {body} b = Reshape(p, back) y = Conv(b, wy)}}"
    )
    assert sorted(free(net)) == sorted(groups)
    rewidthed(net, scale=0.5)
    rewidthed(net, scale=1.5)


def test_frames_merged_into_the_batch() -> None:
    """A video: frames are images for the convolution, and are averaged behind it."""
    net = parsed(
        "agraph (float[N,4,3,6,6] x) => (float[N,5] y)"
        "<float[16,3,1,1] w, float[16,5] wy, int64[4] s = {-1,3,6,6}, int64[1] first = {0}>"
        "{m = Reshape(x, s) a = Conv(m, w) g = GlobalAveragePool(a) f = Flatten(g) shape = Shape(x)"
        " n = Gather(shape, first) rest = Constant<value_ints=[4,-1]>() t = Concat<axis=0>(n, rest)"
        " v = Reshape(f, t) k = ReduceMean<axes=[1], keepdims=0>(v) y = MatMul(k, wy)}"
    )
    assert free(net) == [(16, 1)]
    rewidthed(net, scale=0.5)


def test_tokens_merged_into_the_batch_for_a_linear_layer() -> None:
    """[tokens, batch, channels] as rows of a Gemm, where the tokens are named positions."""
    net = parsed(
        "agraph (float[N,9,3] x) => (float[9,N,5] y)"
        "<float[3,16] w, float[1,9,16] pos, float[16,16] wg, float[16] bg, float[16,5] wy,"
        " int64[2] s = {-1,16}, int64[1] one = {1}>"
        "{a = MatMul(x, w) p = Add(a, pos) t = Transpose<perm=[1,0,2]>(p) r = Reshape(t, s)"
        " g = Gemm(r, wg, bg) shape = Shape(t) nine = Constant<value_ints=[9]>() n = Gather(shape, one)"
        " c = Constant<value_ints=[16]>() b = Concat<axis=0>(nine, n, c) u = Reshape(g, b) y = MatMul(u, wy)}"
    )
    assert sorted(free(net)) == [(16, 1), (16, 1)]
    rewidthed(net, scale=0.5)
    rewidthed(net, scale=1.5)


def test_channels_and_rows_merged_into_the_batch() -> None:
    """MobileViT's unfolding: [N * 16 * 3, 2, 3, 2] and back, around something of each block."""
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, int64[4] s = {{-1,2,3,2}}, int64[4] back = {{-1,16,6,6}}>"
        "{a = Conv(x, w) b = Reshape(a, s) c = Transpose<perm=[0,2,1,3]>(b) d = Tanh(c)"
        " e = Transpose<perm=[0,2,1,3]>(d) f = Reshape(e, back) y = Conv(f, wy)}"
    )
    assert free(net) == [(16, 1)]
    rewidthed(net, scale=0.5)


def test_a_number_that_counts_channels_times_images_holds_them() -> None:
    """16 * N stands in the graph as a product with a literal: it would stay 16 at other widths."""
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, int64[1] first = {{0}}, int64[4] back = {{-1,16,6,6}}>"
        f"{{a = Conv(x, w) {counted(16, '-1,6')} b = Reshape(a, s) c = Tanh(b) d = Reshape(c, back)"
        " y = Conv(d, wy)}"
    )
    assert free(net) == []


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_channels_stay_with_the_images_and_their_parts_are_picked(parts: int, scale: float) -> None:
    """x.reshape(n * c // 2, 2, -1).permute(1, 0, 2).reshape(2, -1, c // 2, h, w): ShuffleNetV2's halves."""
    each = 16 // parts
    net = parsed(
        f"{IMAGE}<float[16,3,1,1] w, float[5,{each},1,1] wy, int64[3] s = {{-1,{parts},36}},"
        " int64 first = {0},"
        f" int64[5] back = {{{parts},-1,{each},6,6}}, int64 last = {{{parts - 1}}}>{{a = Conv(x, w)"
        " r = Reshape(a, s) t = Transpose<perm=[1,0,2]>(r) b = Reshape(t, back) p = Gather(b, first)"
        " q = Gather(b, last) m = Mul(p, q) y = Conv(m, wy)}"
    )
    assert free(net) == [(16, parts)]
    assert rewidthed(net, scale=scale).shape("wy")[1] == each * scale
