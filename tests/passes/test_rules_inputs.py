"""Inputs that are no feature maps (points, boxes, indices): their axes stay, the rest changes, exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden_text import parsed
from onnx import numpy_helper
from rewidth_case import free, reason, rewidthed

IMAGE = "agraph (float[1,3,8,8] x) => (float[] y)"
WEIGHTS = "float[8,3,1,1] w, float[5,8,1,1] wy"
POOL = "r = Conv(x, w) q = GlobalAveragePool(r) f = Flatten(q)"

HELD = {
    "a flow as the points of GridSample": (
        "float[2,8,1,1] wp, float[1,8,8,2] grid",
        "r = Conv(x, w) p = Conv(r, wp) t = Transpose<perm=[0,2,3,1]>(p) g = Add(t, grid)"
        " z = GridSample(r, g) y = Conv(z, wy)",
        "GridSample 'z' reads it as points, not as channels",
    ),
    "numbers of points that become pixels": (
        "float[8,24] wp, int64[4] s = {1,3,4,2}",
        f"{POOL} p = MatMul(f, wp) g = Reshape(p, s) z = GridSample(r, g) y = Conv(z, wy)",
        "GridSample 'z' reads it as points, not as channels",
    ),
    "a matrix of a spatial transformer": (
        "float[8,6] wp, int64[3] s = {1,2,3}, int64[4] size = {1,8,4,4}",
        f"{POOL} p = MatMul(f, wp) m = Reshape(p, s) g = AffineGrid(m, size)"
        " z = GridSample(r, g) y = Conv(z, wy)",
        "AffineGrid 'g' reads it as matrices that move points",
    ),
    "boxes that a layer predicts": (
        "float[8,12] wp, int64[2] s = {3,4}, int64[3] im = {0,0,0}",
        f"{POOL} p = MatMul(f, wp) b = Reshape(p, s)"
        " z = RoiAlign<output_height=2, output_width=2>(r, b, im) y = Conv(z, wy)",
        "RoiAlign 'z' reads it as boxes, not as channels",
    ),
    "offsets of a deformable convolution": (
        "float[18,8,3,3] wp, float[6,8,3,3] wd, float[5,6,1,1] wz",
        "r = Conv(x, w) p = Conv<pads=[1,1,1,1]>(r, wp) z = DeformConv<pads=[1,1,1,1]>(r, wd, p)"
        " y = Conv(z, wz)",
        "DeformConv 'z' reads it as offsets, not as channels",
    ),
    "a learned index into a table": (
        "float[8,8] wp, float[8,8] table, int64[4] s = {1,8,1,1}",
        f"{POOL} p = MatMul(f, wp) k = Cast<to=7>(p) c = Abs(k) e = GatherElements<axis=1>(f, c)"
        " v = Reshape(e, s) z = Mul(r, v) y = Conv(z, wy)",
        "GatherElements 'e' reads it as positions, not as channels",
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_what_is_read_otherwise_stays(kind: str) -> None:
    weights, body, why = HELD[kind]
    assert why in reason(_network(weights, body), "wp")


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", [k for k in HELD if "index" not in k])
def test_the_rest_is_rewritten(kind: str, scale: float) -> None:
    weights, body, _ = HELD[kind]
    new = rewidthed(_network(weights, body), scale=scale)
    assert new.shape("w")[0] == 8 * scale


def _network(weights: str, body: str) -> onnx.ModelProto:
    """A network of one image, at an opset that has all these operators."""
    return parsed(f'<ir_version: 9, opset_import: ["": 20]> {IMAGE}<{WEIGHTS}, {weights}>{{{body}}}')


CHOSEN = {
    "tokens that a TopK chose": (
        "float[1,1,8] token, float[8,1] score, int64[3] s = {1,8,64}, int64[1] k = {5}, int64[1] flat = {-1},"
        " int64[2] rows = {-1,8}, int64[4] back = {1,5,8,1}",
        "r = Conv(x, w) n = Reshape(r, s) t = Transpose<perm=[0,2,1]>(n) u = Concat<axis=1>(token, t)"
        " m = MatMul(u, score) v = Reshape(m, flat) best, at = TopK(v, k)"
        " h = Reshape(u, rows) e = Gather<axis=0>(h, at) q = Reshape(e, back)"
        " z = Transpose<perm=[0,2,1,3]>(q) y = Conv(z, wy)",
    ),
    "tokens chosen in each image": (
        "float[1,1,8] token, int64[3] s = {1,8,64}, int64[4] back = {1,5,8,1}, int64[1] last = {-1},"
        " int64[1] k = {5}",
        "r = Conv(x, w) n = Reshape(r, s) t = Transpose<perm=[0,2,1]>(n) u = Concat<axis=1>(t, token)"
        " m = ReduceMean(u, last) best, at = TopK<axis=1>(m, k)"
        " j = Flatten<axis=0>(at) l = Squeeze(j) e = Gather<axis=1>(u, l) q = Reshape(e, back)"
        " z = Transpose<perm=[0,2,1,3]>(q) y = Conv(z, wy)",
    ),
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", CHOSEN)
def test_what_is_chosen_among_keeps_its_channels_free(kind: str, scale: float) -> None:
    weights, body = CHOSEN[kind]
    new = rewidthed(_network(weights, body), exact="Mean" not in body, scale=scale)
    assert new.shape("w")[0] == 8 * scale
    assert new.shape("token")[-1] == 8 * scale


PICKED = {
    "channels at a place that the graph computes": (
        "float[1,8] shift",
        f"{POOL} h = Add(f, shift) m = ArgMax<axis=1, keepdims=0>(h) z = Gather<axis=1>(r, m)"
        " p = Concat<axis=1>(z, z, z, z) o = Concat<axis=1>(p, p) y = Conv(o, wy)",
        "Gather 'z' picks from it by an index that is computed in the graph",
    ),
    "channels by a table": (
        "int64[2,4] table = {0,1,2,3,4,5,6,7}, int64[4] s = {1,8,8,8}",
        "r = Conv(x, w) z = Gather<axis=1>(r, table) q = Reshape(z, s) y = Conv(q, wy)",
        "Gather 'z' picks from it by a table of indices",
    ),
}


@pytest.mark.parametrize("kind", PICKED)
def test_channels_that_are_picked_from_stay(kind: str) -> None:
    weights, body, why = PICKED[kind]
    assert why in reason(_network(weights, body), "w")


LOOKED_UP = {
    "a table as an activation": (
        "float[64] table, float ten = {10}, float zero = {0}, float most = {63}",
        "a = Conv(x, w) m = Mul(a, ten) c = Clip(m, zero, most) k = Cast<to=7>(c) z = Gather(table, k)",
    ),
    "a table of integers, then scaled": (
        "int32[64] table, float ten = {10}, float zero = {0}, float most = {63}",
        "a = Conv(x, w) m = Mul(a, ten) c = Clip(m, zero, most) k = Cast<to=6>(c) t = Gather(table, k)"
        " f = Cast<to=1>(t) z = Div(f, most)",
    ),
    "a row looked up beside each channel": (
        "int64[1,8,1,1] first",
        "a = Conv(x, w) e = GatherElements<axis=2>(a, first) z = Sub(a, e)",
    ),
    "pixels overwritten beside each channel": (
        "int64[1,8,1,1] first, float[1,8,1,1] other",
        "a = Conv(x, w) e = Slice(a, nought, one, last) n = Slice(e, nought, one, third) m = Mul(n, other)"
        " z = ScatterElements<axis=3>(a, first, m)",
    ),
}
NUMBERS = "int64[1] nought = {0}, int64[1] one = {1}, int64[1] last = {3}, int64[1] third = {2}"


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", LOOKED_UP)
def test_channels_pass_through_an_index(kind: str, scale: float) -> None:
    weights, body = LOOKED_UP[kind]
    net = _network(f"{weights}, {NUMBERS}", f"{body} y = Conv(z, wy)")
    for tensor in net.graph.initializer:
        if tensor.name == "first":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 8, 1, 1), np.int64), "first"))
        if tensor.name == "table" and tensor.data_type == onnx.TensorProto.INT32:
            tensor.CopyFrom(numpy_helper.from_array(np.arange(64, dtype=np.int32), "table"))
    if kind.startswith("pixels"):
        assert len(free(net)) == 1
    new = rewidthed(net, scale=scale)
    assert new.shape("w")[0] == 8 * scale == new.shape("wy")[1]


def test_unread_inputs_are_held() -> None:
    """The sizes of a Resize that a layer computes: no rule looks there, so what makes them stays."""
    net = _network(
        "float[8,4] wp, int64[1] four = {4}",
        f"{POOL} p = MatMul(f, wp) a = Abs(p) k = Cast<to=7>(a) s = Reshape(k, four)"
        ' z = Resize<mode="nearest">(r, , , s) y = GlobalAveragePool(z)',
    )
    assert "holds no channels" in reason(net, "wp")


def test_indices_count_positions() -> None:
    net = _network(
        "float[8,6] wp, float[6,4] wq, int64[1,2] where = {0, 1}",
        f"{POOL} p = MatMul(f, wp) g = GatherND(p, where) u = Mul(p, g) y = MatMul(u, wq)",
    )
    assert "GatherND 'g' reads it as positions" in reason(net, "wp")


def test_one_hot_positions_stay() -> None:
    net = parsed(
        "agraph (int64[2,7] x) => (float[2,7,4] y)"
        "<float[9,6] wp, float[6,4] wq, int64 nine = {9}, float[2] values = {0, 1}>"
        "{o = OneHot(x, nine, values) p = MatMul(o, wp) y = MatMul(p, wq)}"
    )
    assert free(net) == [(6, 1)]
    assert rewidthed(net, scale=0.5).shape("wp") == (9, 3)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_places_counted_by_range_are_no_channels(scale: float) -> None:
    """Windows of pixels by places that the graph computes from sizes (involution)."""
    net = parsed(
        "agraph (float[1,3,H,W] x) => (float[] y)<float[8,3,1,1] w, float[3,3,1,1] k, float[5,8,1,1] wy,"
        " int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] front = {0}, int64[1] middle = {1},"
        " int64[1] window = {2}, int64[3,1] offsets = {0,1,2}, int64[8] pads = {0,0,1,0,0,0,1,0}>"
        "{a = Conv(x, w) s = Shape(a) h = Gather(s, two) r = Range(zero, h, one) u = Unsqueeze(r, front)"
        " i = Add(u, offsets) p = Pad(a, pads) g = Gather<axis=2>(p, i)"
        " b = Conv(x, k) c = Unsqueeze(b, middle)"
        " q = Mul(g, c) v = ReduceSum<keepdims=0>(q, window) y = Conv(v, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert "Mul 'q' joins them with an axis that carries no channels" in reason(net, "k")
    assert rewidthed(net, scale=scale).shape("w")[0] == 8 * scale


def test_a_triangle_keeps_its_places_and_lets_channels_pass() -> None:
    net = parsed(
        "agraph (float[1,3,6,6] x) => (float[] y)<float[8,3,1,1] w, float[5,8,1,1] wy>"
        "{a = Conv(x, w) l = Trilu(a) y = Conv(l, wy)}"
    )
    assert free(net) == [(8, 1)]
    last = parsed(
        "agraph (float[1,6,3] x) => (float[] y)<float[3,6] w, float[6,5] wy>"
        "{a = MatMul(x, w) l = Trilu(a) y = MatMul(l, wy)}"
    )
    assert reason(last, "w") == "Trilu 'l' reads it as positions, not as channels"
