"""Forms that say in many operators, or at another opset, what a plain one says: the channels are free."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden_text import parsed
from onnx import TensorProto, helper, numpy_helper
from rewidth_case import free, graph_of, reason, rewidthed

IMAGE = "agraph (float[1,3,6,6] x) => (float[] y)"
WEIGHTS = "float[8,3,1,1] w, float[5,8,1,1] wy"


def with_array(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """A network whose constant of that name is ``array``."""
    held = next(t for t in model.graph.initializer if t.name == name)
    held.CopyFrom(numpy_helper.from_array(array, name))
    return model


def grid(*places: list[int]) -> np.ndarray:
    """The index tuples of all combinations of places."""
    return np.stack(np.meshgrid(*places, indexing="ij"), -1).astype(np.int64)


EVERY = list(range(6))
ASSIGNED = {
    "the first channels": [[0], [0, 1, 2], EVERY, EVERY],
    "channels in the middle": [[0], [2, 3, 4], EVERY, EVERY],
    "every second channel": [[0], [0, 2, 4, 6], EVERY, EVERY],
    "channels in another order": [[0], [5, 1, 3], EVERY, EVERY],
    "a corner of some channels": [[0], [0, 1], [0, 1], [4, 5]],
    "a corner of all channels": [[0], list(range(8)), [0, 1], [4, 5]],
}


def assigning(places: list[list[int]]) -> onnx.ModelProto:
    sizes = [len(p) for p in places]
    table = ",".join(str(n) for n in [*sizes, 4])
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float[{sizes[1]},8,1,1] wu, int64[4] s = {{{','.join(map(str, sizes))}}},"
        f" int64[{table}] where>{{a = Conv(x, w) g = GlobalAveragePool(a) p = Conv(g, wu)"
        " u = Expand(p, s) z = ScatterND(a, where, u) y = Conv(z, wy)}"
    )
    return with_array(net, "where", grid(*places))


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", ASSIGNED)
def test_slices_that_are_assigned(kind: str, scale: float) -> None:
    net = assigning(ASSIGNED[kind])
    assert all(op.op_type != "ScatterND" for op in graph_of(net).operators)
    assert sum(width for width, _ in free(net)) >= 8
    rewidthed(net, scale=scale)


@pytest.mark.parametrize(("kind", "shape"), [("ScatterND", (0, 2)), ("ScatterND", (1, 0, 2))])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_nothing_that_is_assigned_changes_nothing(kind: str, shape: tuple[int, ...], scale: float) -> None:
    """x[:, 1:1] = u: a shift of so many frames or channels that none are left (TSM with one frame)."""
    table = ",".join(map(str, shape))
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, int64[{table}] where, float[{','.join(map(str, shape[:-1]))},6,6] u>"
        f"{{a = Conv(x, w) z = {kind}(a, where, u) y = Conv(z, wy)}}"
    )
    net = with_array(net, "where", np.zeros(shape, np.int64))
    net = with_array(net, "u", np.zeros((*shape[:-1], 6, 6), np.float32))
    assert free(net) == [(8, 1)]
    rewidthed(net, scale=scale)


def test_no_element_scattered_changes_nothing() -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, int64[1,0,6,6] where, float[1,0,6,6] u>"
        "{a = Conv(x, w) z = ScatterElements<axis=1>(a, where, u) y = Conv(z, wy)}"
    )
    net = with_array(net, "where", np.zeros((1, 0, 6, 6), np.int64))
    net = with_array(net, "u", np.zeros((1, 0, 6, 6), np.float32))
    assert free(net) == [(8, 1)]
    rewidthed(net, scale=0.5)


def test_elements_scattered_along_channels() -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float[3,8,1,1] wu, int64[1,3,6,6] where>{{a = Conv(x, w) u = Conv(a, wu)"
        " z = ScatterElements<axis=1>(a, where, u) y = Conv(z, wy)}"
    )
    at = np.array([1, 2, 3]).reshape(1, 3, 1, 1)
    net = with_array(net, "where", np.broadcast_to(at, (1, 3, 6, 6)).astype(np.int64))
    assert sorted(free(net)) == [(3, 1), (3, 1), (5, 1)]
    rewidthed(net, scale=0.5)


def test_places_that_constants_compute() -> None:
    """The table is put together in the graph, from ranges, as one exporter leaves it."""
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float[3,8,1,1] wu, int64[1,1] first = {{0}}, int64[1,3] some = {{0,1,2}},"
        " int64[2] size = {1,3}, int64[1] last = {-1}>{a = Conv(x, w) u = Conv(a, wu)"
        " i = Expand(first, size) j = Expand(some, size) k = Unsqueeze(i, last) l = Unsqueeze(j, last)"
        " where = Concat<axis=-1>(k, l) z = ScatterND(a, where, u) y = Conv(z, wy)}"
    )
    assert sorted(free(net)) == [(3, 1), (3, 1), (5, 1)]
    rewidthed(net, scale=0.5)


def with_a_free_batch(rows: list[int], counted: int = 0) -> onnx.ModelProto:
    """``a[:, :3, rows] = u`` as one exporter writes it, where the images are counted at run time."""
    size = len(rows)
    named = ",".join(str(n) for n in rows)
    return parsed(
        "agraph (float[N,3,6,6] x) => (float[N,5,6,6] y)"
        f"<{WEIGHTS}, float[3,8,1,1] wu, int64 zero = {{0}}, int64 one = {{1}}, int64 batch = {{{counted}}},"
        f" int64[4] down = {{-1,1,1,1}}, int64[3,1,1] some = {{0,1,2}}, int64[{size},1] rows = {{{named}}},"
        f" int64[6] columns = {{0,1,2,3,4,5}}, int64[1] last = {{-1}}, int64[1] start = {{0}},"
        f" int64[1] end = {{{size}}}, int64[1] high = {{2}}>{{"
        "a = Conv(x, w) v = Conv(a, wu) part = Slice(v, start, end, high)"
        " sizes = Shape(a) n = Gather(sizes, batch) all = Range(zero, n, one) images = Reshape(all, down)"
        " s1 = Add(images, some) s2 = Add(s1, rows) s3 = Add(s2, columns) grid = Shape(s3)"
        " i = Expand(images, grid) j = Expand(some, grid) k = Expand(rows, grid) l = Expand(columns, grid)"
        " i1 = Unsqueeze(i, last) j1 = Unsqueeze(j, last) k1 = Unsqueeze(k, last) l1 = Unsqueeze(l, last)"
        " where = Concat<axis=-1>(i1, j1, k1, l1) u = Reshape(part, grid) z = ScatterND(a, where, u)"
        " y = Conv(z, wy)}"
    )


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [0, 1, 2], [1]], ids=["all rows", "three", "one"])
def test_places_with_a_free_batch(rows: list[int]) -> None:
    net = with_a_free_batch(rows)
    assert all(op.op_type != "ScatterND" for op in graph_of(net).operators)
    assert sum(width for width, _ in free(net)) >= 8
    rewidthed(net, scale=0.5)
    rewidthed(net, scale=1.5)


def test_images_counted_along_another_axis_stay() -> None:
    """A range as long as there are rows names the first six images, not all of them."""
    assert "ScatterND 'z' reads it as positions" in reason(with_a_free_batch([0, 1, 2], counted=2), "w")


def test_places_that_are_no_slice_stay() -> None:
    net = assigning(ASSIGNED["the first channels"])
    table = grid(*ASSIGNED["the first channels"])
    table[0, 0, 0, 0] = [0, 7, 0, 0]
    assert "ScatterND 'z' reads it as positions" in reason(with_array(net, "where", table), "w")


@pytest.mark.parametrize("places", [[3, 1, 0, 2, 7, 5, 4, 6], [0, 1, 2], [6, -1]])
def test_rows_picked_by_tuples_of_one(places: list[int]) -> None:
    """``x[:, places]``, as one exporter writes it."""
    count = len(places)
    net = parsed(
        f"{IMAGE}<float[8,3,1,1] w, float[5,{count},1,1] wy, int64[{count},1] at>{{a = Conv(x, w)"
        " t = Transpose<perm=[1,0,2,3]>(a) g = GatherND(t, at) u = Transpose<perm=[1,0,2,3]>(g)"
        " y = Conv(u, wy)}"
    )
    net = with_array(net, "at", np.array(places).reshape(-1, 1))
    assert sum(width for width, _ in free(net)) >= count
    rewidthed(net, scale=0.5)


def test_a_window_over_channels_that_is_padded_by_itself() -> None:
    """A local response normalisation in pieces: narrower, the window is over the channels that are left."""
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, int64[1] one = {{1}}, int64[10] around = {{0,0,2,0,0,0,0,2,0,0}}>"
        "{a = Conv(x, w) q = Mul(a, a) v = Unsqueeze(q, one) p = Pad(v, around)"
        " m = AveragePool<kernel_shape=[5,1,1]>(p) s = Squeeze(m, one) k = Exp(s) b = Div(a, k)"
        " y = Conv(b, wy)}"
    )
    assert free(net) == [(8, 1)]
    rewidthed(net, exact=False, scale=0.5)


def test_blocks_laid_together() -> None:
    net = parsed(
        "<ir_version: 8, opset_import: ['': 18]> agraph (float[1,3,9] x) => (float[1,5,6,6] y)"
        "<float[32,3,1] w, float[5,8,1,1] wy, int64[2] image = {6,6}, int64[2] block = {2,2}>"
        "{a = Conv(x, w) i = Col2Im<strides=[2,2]>(a, image, block) y = Conv(i, wy)}".replace("'", '"')
    )
    assert free(net) == [(32, 4)]
    rewidthed(net, scale=0.5)
    rewidthed(net, scale=1.5)


IFS = {
    "then": ("cond = {1}", "Relu", "Sigmoid", "Relu"),
    "else": ("cond = {0}", "Relu", "Sigmoid", "Sigmoid"),
}


@pytest.mark.parametrize("kind", IFS)
def test_a_constant_condition_is_no_condition(kind: str) -> None:
    held, yes, no, taken = IFS[kind]
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, bool {held}>{{a = Conv(x, w) z = If(cond) <"
        f"then_branch = yes () => (float[1,8,6,6] t) {{ b = {yes}(a) t = {yes}(b) }},"
        f" else_branch = no () => (float[1,8,6,6] e) {{ b = {no}(a) e = {no}(b) }}> y = Conv(z, wy)}}"
    )
    assert [op.op_type for op in graph_of(net).operators] == ["Conv", taken, taken, "Conv"]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 4, 1, 1)


def test_branches_that_pass_a_value_on_and_hold_a_weight() -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, bool cond = {{1}}>{{a = Conv(x, w) p, q = If(cond) <"
        "then_branch = yes () => (float[1,8,6,6] s, float[1,8,6,6] t)"
        " { s = Identity(a) k = Constant<value = float[1] {2.0}>() t = Mul(a, k) },"
        " else_branch = no () => (float[1,8,6,6] s, float[1,8,6,6] e) { s = Abs(a) e = Neg(a) }>"
        " z = Add(p, q) y = Conv(z, wy)}"
    )
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 4, 1, 1)


def test_a_condition_of_the_input_stays_one() -> None:
    net = parsed(
        f"agraph (float[1,3,6,6] x, bool cond) => (float[] y)<{WEIGHTS}>{{a = Conv(x, w) z = If(cond) <"
        "then_branch = yes () => (float[1,8,6,6] t) { t = Relu(a) },"
        " else_branch = no () => (float[1,8,6,6] e) { e = Sigmoid(a) }> y = Conv(z, wy)}"
    )
    assert "sub-graph" in reason(net, "w")


MEANS = {
    "times 1/N": ("float n = {0.125}", "s = ReduceSum(t, last) m = Mul(s, n)"),
    "1/N times": ("float[1] n = {0.125}", "s = ReduceSum(t, last) m = Mul(n, s)"),
    "divided by N": ("float n = {8}", "s = ReduceSum(t, last) m = Div(s, n)"),
}


@pytest.mark.parametrize("kind", MEANS)
def test_a_literal_count_of_channels_follows(kind: str) -> None:
    """A layer norm in pieces: after the rewrite the mean is that of the channels that are there."""
    held, made = MEANS[kind]
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, {held}, int64[1] last = {{-1}}>{{a = Conv(x, w)"
        f" t = Transpose<perm=[0,2,3,1]>(a) {made} d = Sub(t, m) z = Transpose<perm=[0,3,1,2]>(d)"
        " y = Conv(z, wy)}"
    )
    slim = rewidthed(net, exact=False, scale=0.5)
    assert slim.node("m").op_type == "ReduceMean"
    assert slim.plan.inexact_because == ["ReduceMean 'm'"]


def test_another_factor_of_a_sum_stays() -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float n = {{0.25}}, int64[1] ch = {{1}}>{{a = Conv(x, w)"
        " s = ReduceSum(a, ch) m = Mul(s, n) z = Mul(a, m) y = Conv(z, wy)}"
    )
    assert rewidthed(net, scale=0.5).node("s").op_type == "ReduceSum"


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_norms_of_the_optimiser_at_any_opset(kind: str, opset: int) -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float[8] g>{{a = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(a)"
        f" n = {kind}<axis=-1>(t, g) z = Transpose<perm=[0,3,1,2]>(n) y = Conv(z, wy)}}"
    )
    net.opset_import[0].version = opset
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 6, 6]))
    assert free(net) == [(8, 1)]
    assert rewidthed(net, exact=False, scale=0.5).shape("g") == (4,)


def in_blocks(axis: int, kind: int, zero: bool) -> onnx.ModelProto:
    """fc of 16 inputs and 8 outputs, quantised in blocks of 4 along one of them."""
    net = parsed(
        '<ir_version: 10, opset_import: ["": 21]> agraph (float[1,3,6,6] x) => (float[1,5] y)'
        "<float[16,3,1,1] w, float[8,5] wy, float[16,8] wf>{a = Conv(x, w) q = GlobalAveragePool(a)"
        " f = Flatten(q) h = MatMul(f, wf) r = Relu(h) y = MatMul(r, wy)}"
    )
    graph, sizes = net.graph, [4, 8] if axis == 0 else [16, 2]
    held = [t for t in graph.initializer if t.name != "wf"]
    rng = np.random.default_rng(0)
    held.append(helper.make_tensor("q4", kind, [16, 8], rng.integers(-8, 8, 128).tolist()))
    held.append(numpy_helper.from_array(rng.uniform(0.1, 0.2, sizes).astype(np.float32), "scale"))
    names = ["q4", "scale"]
    if zero:
        held.append(helper.make_tensor("zero", kind, sizes, rng.integers(-3, 4, np.prod(sizes)).tolist()))
        names.append("zero")
    del graph.initializer[:]
    graph.initializer.extend(held)
    graph.node.insert(0, helper.make_node("DequantizeLinear", names, ["wf"], axis=axis, block_size=4))
    return net


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.INT8])
@pytest.mark.parametrize(("axis", "sizes"), [(0, [(16, 4), (8, 1)]), (1, [(16, 1), (8, 4)])])
def test_blocks_lie_along_one_axis(axis: int, sizes: list[tuple[int, int]], kind: int, zero: bool) -> None:
    net = in_blocks(axis, kind, zero)
    assert free(net) == sizes
    slim = rewidthed(net, scale=0.5)
    assert (slim.shape("q4"), slim.shape("scale")) == ((8, 4), (2, 4) if axis == 0 else (8, 1))
    rewidthed(net, scale=1.5)


def test_an_unfilled_last_block_stays() -> None:
    net = in_blocks(0, TensorProto.INT8, False)
    net.graph.node[0].attribute[1].i = 5
    assert "last block is not full" in reason(net, "w")


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_places_of_maxima_for_unpooling(scale: float) -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}, float[8,8,1,1] wm>{{a = Conv(x, w)"
        " m, at = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) d = Conv(m, wm)"
        " z = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(d, at) y = Conv(z, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=scale).shape("wm") == (8 * scale, 8 * scale, 1, 1)


def test_places_of_maxima_that_are_read_otherwise_stay() -> None:
    net = parsed(
        f"{IMAGE}<{WEIGHTS}>{{a = Conv(x, w) m, at = MaxPool<kernel_shape=[2,2]>(a) c = Cast<to=1>(at)"
        " z = Add(m, c) y = Conv(z, wy)}"
    )
    assert "count channels" in reason(net, "w")


EINSUMS = {
    "over the last axis": ("float[6,6] k", 'z = Einsum<equation="...hw,wk->...hk">(a, k)'),
    "no result named": ("float[6,6] k", 'z = Einsum<equation="...ij,jk">(a, k)'),
    "over rows": ("float[6,4] k", 'z = Einsum<equation="...hw,hk->...wk">(a, k)'),
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", EINSUMS)
def test_an_ellipsis_stands_for_axes(kind: str, scale: float) -> None:
    held, made = EINSUMS[kind]
    net = parsed(f"{IMAGE}<{WEIGHTS}, {held}>{{a = Conv(x, w) {made} y = Conv(z, wy)}}")
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=scale).shape("wy") == (5, 8 * scale, 1, 1)


CROPS = {
    "pixels": ("int64[2] s = {4,8}", "z = CenterCropPad<axes=[2,3]>(a, s)"),
    "every axis named": ("int64[4] s = {1,8,4,4}", "z = CenterCropPad(a, s)"),
    "counted from the end": ("int64[1] s = {3}", "z = CenterCropPad<axes=[-1]>(a, s)"),
}


@pytest.mark.parametrize("kind", CROPS)
def test_cropped_pixels(kind: str) -> None:
    held, made = CROPS[kind]
    head = f'<ir_version: 9, opset_import: ["": 18]> {IMAGE}'
    net = parsed(f"{head}<{WEIGHTS}, {held}>{{a = Conv(x, w) {made} y = Conv(z, wy)}}")
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 4, 1, 1)


def test_cropped_channels_stay() -> None:
    head = f'<ir_version: 9, opset_import: ["": 18]> {IMAGE}'
    net = parsed(
        f"{head}<float[8,3,1,1] w, float[5,6,1,1] wy, int64[1] s = {{6}}>"
        "{a = Conv(x, w) z = CenterCropPad<axes=[1]>(a, s) y = Conv(z, wy)}"
    )
    assert "CenterCropPad 'z' reads it as an axis to crop or to pad" in reason(net, "w")


FOURIER = {
    17: ("DFT<axis=2,onesided=1>(s)", "DFT<axis=2,inverse=1>(q)"),
    20: ("DFT<onesided=1>(s, , at)", "DFT<inverse=1>(q, , at)"),
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("opset", FOURIER)
def test_channels_pass_a_fourier_transform(opset: int, scale: float) -> None:
    """Real and imaginary parts become channels for a convolution, and parts again."""
    there, back = FOURIER[opset]
    net = parsed(
        f'<ir_version: 9, opset_import: ["": {opset}]>{IMAGE}<float[8,3,1,1] w, float[16,16,1,1] v,'
        " float[5,8,4,1] wy, int64 at = {-3}, int64[1] last = {-1}, int64[5] parts = {1,8,2,4,6},"
        " int64[4] merged = {1,16,4,6}, int64[1] zero = {0}, int64[1] one = {1}>"
        f"{{a = Conv(x, w) s = Unsqueeze(a, last) f = {there} g = Transpose<perm=[0,1,4,2,3]>(f)"
        " h = Reshape(g, merged) c = Conv(h, v) p = Reshape(c, parts) q = Transpose<perm=[0,1,3,4,2]>(p)"
        f" b = {back} r = Slice(b, zero, one, last) m = Squeeze(r, last) y = Conv(m, wy)}}"
    )
    assert sorted(free(net)) == [(8, 1), (16, 2)]
    assert rewidthed(net, scale=scale).shape("v")[:2] == (16 * scale, 16 * scale)


def test_channels_that_are_transformed_stay() -> None:
    net = parsed(
        f'<ir_version: 9, opset_import: ["": 20]>{IMAGE}<{WEIGHTS}, int64 at = {{1}}, int64[1] last = {{-1}},'
        " int64[1] zero = {0}, int64[1] one = {1}>{a = Conv(x, w) s = Unsqueeze(a, last) f = DFT(s, , at)"
        " r = Slice(f, zero, one, last) m = Squeeze(r, last) y = Conv(m, wy)}"
    )
    assert not free(net)
    assert "an axis to transform" in reason(net, "w")
