"""Merged axes: what is read as channels is the channel, whatever the sizes of images and batches."""

from __future__ import annotations

import onnx
import pytest
from golden_text import parsed
from rewidth_case import free, rewidthed

from conet_graph.passes.rules import pixels

OUT = "=> (float[] y)"


def image(side: int | str, batch: int | str = 1) -> str:
    return f"agraph (float[{batch},3,{side},{side}] x) {OUT}"


@pytest.mark.parametrize("c", [4, 8, 16])
def test_a_linear_layer_reshaped_to_maps(c: int) -> None:
    """A channel is 64 outputs of the linear layer, be there fewer channels than rows or more."""
    net = parsed(
        f"agraph (float[N,12] x) {OUT}<float[12,{c * 64}] w, float[{c * 64}] b, float[{c},5,2,2] wt,"
        f" int64[4] s = {{-1,{c},8,8}}>{{a = Gemm(x, w, b) r = Relu(a) m = Reshape(r, s)"
        " y = ConvTranspose<strides=[2,2]>(m, wt)}"
    )
    assert free(net) == [(c * 64, 64)]
    assert rewidthed(net, scale=0.5).shape("wt")[0] == c // 2
    assert rewidthed(net, scale=1.5).shape("wt")[0] == c * 3 // 2


PIECES = {
    "attention of positions": "m = ReduceMean<axes=[2],keepdims=0>(r)",
    "maxima of pieces": "m = ReduceMax<axes=[-3],keepdims=0>(r)",
    "pieces that stay an axis": "k = ReduceMean<axes=[2],keepdims=1>(r) m = Squeeze(k, two)",
}


@pytest.mark.parametrize("kind", PIECES)
def test_channels_are_those_that_a_reduction_leaves(kind: str) -> None:
    """Nine numbers for each of four channels: the four are read as channels, though they are fewer."""
    net = parsed(
        f"{image(6)}<float[36,3,1,1] w, float[5,4,1,1] wy, int64[5] s = {{1,4,9,6,6}}, int64[1] two = {{2}}>"
        f"{{a = Conv(x, w) r = Reshape(a, s) {PIECES[kind]} y = Conv(m, wy)}}"
    )
    assert free(net) == [(36, 9)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 2, 1, 1)


def test_a_linear_layer_reshaped_channels_last() -> None:
    net = parsed(
        f"agraph (float[N,12] x) {OUT}<float[12,256] w, float[5,4,1,1] wy, int64[4] s = {{-1,8,8,4}}>"
        "{a = MatMul(x, w) m = Reshape(a, s) t = Transpose<perm=[0,3,1,2]>(m) y = Conv(t, wy)}"
    )
    assert free(net) == [(256, 64)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 2, 1, 1)


def test_blocks_larger_than_the_number_of_channels() -> None:
    """Pixel shuffle of 2 channels by blocks of 4, as Reshape and Transpose: the 2 are the channels."""
    net = parsed(
        f"{image(4)}<float[32,3,1,1] w, float[5,2,1,1] wy, int64[6] s = {{1,2,4,4,4,4}},"
        " int64[4] u = {1,2,16,16}>"
        "{a = Conv(x, w) m = Reshape(a, s) t = Transpose<perm=[0,1,4,2,5,3]>(m) b = Reshape(t, u)"
        " y = Conv(b, wy)}"
    )
    assert free(net) == [(32, 16)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 1, 1, 1)


def group_norm(
    side: int | str, batch: int | str = 1, spelled: str = "InstanceNormalization"
) -> onnx.ModelProto:
    fixed = isinstance(side, int)
    back = f"int64[4] s4 = {{0,16,{side},{side}}}" if fixed else "int64[1] nothing = {0}"
    shape = "" if fixed else "s4 = Shape(a)"
    norm = {
        "InstanceNormalization": "n = InstanceNormalization(g, one, zero)",
        "pieces": (
            "m = ReduceMean<axes=[2]>(g) d = Sub(g, m) q = Mul(d, d) v = ReduceMean<axes=[2]>(q)"
            " e = Add(v, eps) f = Sqrt(e) n = Div(d, f)"
        ),
    }[spelled]
    return parsed(
        f"{image(side, batch)}<float[16,3,1,1] w, float[5,16,1,1] wy, float[4] one, float[4] zero,"
        f" float[16,1,1] scale, float eps = {{0.001}}, int64[3] s3 = {{0,4,-1}}, {back}>"
        f"{{a = Conv(x, w) g = Reshape(a, s3) {norm} {shape} b = Reshape(n, s4) k = Mul(b, scale)"
        " y = Conv(k, wy)}"
    )


@pytest.mark.parametrize("spelled", ["InstanceNormalization", "pieces"])
@pytest.mark.parametrize("side", [8, 600, "H"])
@pytest.mark.parametrize("batch", [1, "N"])
def test_a_group_norm_is_free_at_every_size(side: int | str, batch: int | str, spelled: str) -> None:
    assert free(group_norm(side, batch, spelled)) == [(16, 4)]


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("spelled", ["InstanceNormalization", "pieces"])
def test_packed_axes_are_rewritten_as_long_ones_are(
    spelled: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = group_norm(8, "N", spelled)
    as_long = rewidthed(net, exact=False, scale=scale)
    monkeypatch.setattr(pixels, "LONG_MERGED", 1)
    packed = rewidthed(net, exact=False, scale=scale)
    assert packed.plan.tensors.keys() == as_long.plan.tensors.keys()
    assert packed.proto.SerializeToString() == as_long.proto.SerializeToString()


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_a_free_image_is_rewritten(scale: float) -> None:
    new = rewidthed(group_norm("H", "N"), exact=False, scale=scale)
    assert new.shape("scale") == (16 * scale, 1, 1)


IMAGES = {
    "each channel an image of its own": (
        "int64[4] s = {-1,1,6,6}, int64[4] u = {-1,8,6,6}, float[1,1,3,3] k",
        "m = Reshape(a, s) c = Conv<pads=[1,1,1,1]>(m, k) b = Reshape(c, u)",
        [(8, 1)],
    ),
    "two halves of the channels as images": (
        "int64[4] s = {-1,4,6,6}, int64[4] u = {-1,8,6,6}, float[4,4,1,1] k",
        "m = Reshape(a, s) c = Conv(m, k) b = Reshape(c, u)",
        [(8, 2), (4, 1)],
    ),
    "an activation between": (
        "int64[3] s = {-1,1,36}, int64[4] u = {-1,8,6,6}",
        "m = Reshape(a, s) c = Tanh(m) b = Reshape(c, u)",
        [(8, 1)],
    ),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_channels_merged_into_a_free_batch(kind: str) -> None:
    weights, body, groups = IMAGES[kind]
    net = parsed(
        f"{image(6, 'N')}<float[8,3,1,1] w, float[5,8,1,1] wy, {weights}>"
        f"{{a = Conv(x, w) {body} y = Conv(b, wy)}}"
    )
    assert sorted(free(net)) == sorted(groups)
    assert rewidthed(net, widths={"w": 4}).shape("w")[0] == 4


def test_the_factor_that_can_be_free_is_the_channel() -> None:
    """Bilinear pooling: of two merged factors the one that an input gives stays, though it is longer."""
    net = parsed(
        f"agraph (float[1,6,3] x, float[1,20,6] z) {OUT}"
        "<float[3,8] w, float[160,5] wy, int64[2] s = {1,160}>"
        "{a = MatMul(x, w) m = MatMul(z, a) r = Relu(m) f = Reshape(r, s) y = MatMul(f, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=0.5).shape("wy") == (80, 5)


@pytest.mark.parametrize(("images", "heads", "size"), [(4, 2, 6), (8, 3, 4), (1, 6, 4), (2, 2, 5)])
def test_heads_beside_images_are_no_channels(images: int, heads: int, size: int) -> None:
    """Tokens first, as torch's MultiheadAttention has them: heads lie with the images, whichever are more."""
    width, rows = heads * size, images * heads
    turned = "[1, 0, 2]"
    apart = " ".join(
        f"{n}r = Reshape({n}, rows) {n}s = Transpose<perm={turned}>({n}r) {n}t = Reshape({n}s, four)"
        for n in ("q", "k", "v")
    )
    net = parsed(
        f"agraph (float[{images},3,3,3] x) => (float[] y)<float[8,3,1,1] w, float[8,{width}] wq,"
        f" float[8,{width}] wk, float[8,{width}] wv, float[{width},5] wy, int64[3] flat = {{{images},8,9}},"
        f" int64[3] rows = {{9,{rows},{size}}}, int64[4] four = {{{images},{heads},9,{size}}},"
        f" int64[3] back = {{9,{images},{width}}}>{{a = Conv(x, w)"
        " f = Reshape(a, flat) t = Transpose<perm=[2, 0, 1]>(f) q = MatMul(t, wq) k = MatMul(t, wk)"
        f" v = MatMul(t, wv) {apart} kk = Transpose<perm=[0, 1, 3, 2]>(kt) s = MatMul(qt, kk)"
        f" p = Softmax<axis=-1>(s) o = MatMul(p, vt) b = Transpose<perm=[2, 0, 1, 3]>(o) c = Reshape(b, back)"
        " y = MatMul(c, wy)}"
    )
    assert free(net) == [(8, 1), (width, heads), (width, heads)]
    assert rewidthed(net, widths={"v": heads}).shape("wy")[0] == heads


@pytest.mark.parametrize(("queries", "heads", "size"), [(4, 2, 6), (9, 6, 4), (3, 3, 5)])
def test_queries_that_are_learned_have_heads_too(queries: int, heads: int, size: int) -> None:
    """A constant that a Reshape splits is no kernel: what a product sums over is the channel (DETR)."""
    width = heads * size
    net = parsed(
        f"agraph (float[N,3,3,3] x) => (float[] y)<float[8,3,1,1] w, float[{queries},8] e,"
        f" float[8,{width}] wq, float[8,{width}] wk, float[8,{width}] wv, float[{width},5] wy,"
        f" int64[3] flat = {{0,8,9}}, int64[4] apart = {{0,0,{heads},{size}}},"
        f" int64[4] own = {{1,{queries},{heads},{size}}}, int64[3] back = {{0,{queries},{width}}}>"
        "{a = Conv(x, w) f = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(f) k = MatMul(t, wk)"
        " v = MatMul(t, wv) q = MatMul(e, wq) qr = Reshape(q, own)"
        " kr = Reshape(k, apart) vr = Reshape(v, apart) qt = Transpose<perm=[0,2,1,3]>(qr)"
        " kt = Transpose<perm=[0,2,3,1]>(kr) vt = Transpose<perm=[0,2,1,3]>(vr) s = MatMul(qt, kt)"
        " p = Softmax<axis=-1>(s) o = MatMul(p, vt) b = Transpose<perm=[0,2,1,3]>(o) c = Reshape(b, back)"
        " y = MatMul(c, wy)}"
    )
    assert free(net) == [(8, 1), (width, heads), (width, heads)]
    assert rewidthed(net, widths={"k": heads}).shape("wk")[1] == heads
