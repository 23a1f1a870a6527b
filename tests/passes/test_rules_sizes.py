"""Sizes that shape inference alone does not tell: the channels behind them stay free."""

from __future__ import annotations

import onnx
import pytest
from golden_text import parsed
from rewidth_case import free, graph_of, rewidthed

from conet_graph.ir.graph import ShapeNumber
from conet_graph.passes.shapes.shape_arithmetic import dim_of

IMAGE = "agraph (float[1,3,6,6] x) => (float[] y)"


def at_opset(opset: int, text: str) -> onnx.ModelProto:
    return parsed(f'<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]>{text}')


@pytest.mark.parametrize(
    ("opset", "norm"),
    [
        (18, "GroupNormalization<num_groups=2>(a, g, g)"),
        (21, "GroupNormalization<num_groups=2>(a, s, s)"),
        (17, "MeanVarianceNormalization<axes=[0,2,3]>(a)"),
    ],
)
def test_a_norm_keeps_the_shape(opset: int, norm: str) -> None:
    """What follows reshapes it, and can do so only if its shape is known."""
    net = at_opset(
        opset,
        f"{IMAGE}<float[8,3,1,1] w, float[2] g, float[8] s, float[4,8,1,1] v, float[4,5] wy,"
        f" int64[3] r = {{0,4,-1}}>{{a = Conv(x, w) n = {norm} b = Conv(n, v) c = Reshape(b, r)"
        " t = Transpose<perm=[0,2,1]>(c) y = MatMul(t, wy)}",
    )
    assert graph_of(net).shape("n") == (1, 8, 6, 6)
    assert (4, 1) in free(net)
    rewidthed(net, exact=norm.startswith("Mean"), scale=0.5)


def test_a_product_of_the_optimiser_that_turns_a_matrix() -> None:
    net = at_opset(
        17,
        f"{IMAGE}<float[8,3,1,1] w, float[8,4] q, float[8,4] k, float[8,5] wy, int64[3] s = {{1,8,36}}>"
        "{a = Conv(x, w) r = Reshape(a, s) t = Transpose<perm=[0,2,1]>(r) m = MatMul(t, q) n = MatMul(t, k)"
        " p = com.microsoft.FusedMatMul<transB=1,alpha=0.5>(m, n) f = Softmax<axis=-1>(p) o = MatMul(f, t)"
        " y = MatMul(o, wy)}",
    )
    assert graph_of(net).shape("o") == (1, 36, 8)
    rewidthed(net, macs=0.5)


def test_an_output_that_is_the_input_keeps_its_shape() -> None:
    net = parsed(
        "agraph (float[1,3,6,6] x) => (float[] y, float[1,3,6,6] x)<float[8,3,1,1] w, float[5,8,1,1] wy>"
        "{a = Conv(x, w) y = Conv(a, wy)}"
    )
    assert graph_of(net).shape("a") == (1, 8, 6, 6)
    rewidthed(net, macs=0.5)


HALVED = "b = Conv<strides=[2,2],pads=[1,1,1,1]>(a, v) m = Shape(a) n = Shape(b)"
SIZES = "p = Slice(m, two, four, zero) q = Slice(n, two, four, zero) h = Cast<to=1>(p) l = Cast<to=1>(q)"
SCALES = {
    "a quotient of sizes": f"{HALVED} {SIZES} d = Div(h, l) f = Concat<axis=0>(ones, d) e = Resize(b, , f)",
    "a rounded product": f"{HALVED} {SIZES} k = Mul(l, half) r = Floor(k) d = Div(r, l)"
    " f = Concat<axis=0>(ones, d) e = Resize(a, , f)",
    "all sizes": f"{HALVED} h = Cast<to=1>(m) l = Cast<to=1>(n) f = Div(h, l) e = Resize(b, , f)",
}


@pytest.mark.parametrize("image", ["float[N,3,8,8]", "float[N,3,H,W]", "float[1,3,8,8]"])
@pytest.mark.parametrize("kind", SCALES)
def test_scales_that_sizes_make(kind: str, image: str) -> None:
    """Older exporters resize one map to the size of another by scales; channels and images stay."""
    if kind == "all sizes" and "H" in image:
        pytest.skip("what says that the images' scale is one is then no number of the file")
    net = parsed(
        f"agraph ({image} x) => (float[] y)<float[8,3,1,1] w, float[8,8,3,3] v, float[5,8,1,1] wa,"
        " int64[1] two = {2}, int64[1] four = {4}, int64[1] zero = {0},"
        f" float[2] ones = {{1.0, 1.0}}, float half = {{1.5}}>{{a = Conv(x, w) {SCALES[kind]}"
        " c = Conv(e, wa) g = GlobalAveragePool(c)"
        " o = Conv(a, wa) y = Add(o, g)}"
    )
    assert (8, 1) in free(net)
    assert rewidthed(net, scale=0.5).shape("wa") == (5, 4, 1, 1)


def test_a_number_that_is_no_whole_one_is_no_size() -> None:
    graph = graph_of(parsed(f"{IMAGE}<float[5,3,1,1] w>{{y = Conv(x, w)}}"))
    assert [dim_of(graph, ShapeNumber(n)) for n in (2, 2.0, 2.5, -1, float("inf"))] == [
        2,
        2,
        None,
        None,
        None,
    ]
