"""Files for one image on three: each comes out as ONNX Runtime gives it alone, or a sentence says why not."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bridge_case import in_runtime, in_torch, largest_difference
from onnx import numpy_helper, parser
from torch.nn import functional

from conet_graph.bridge import BatchWarning, batches, from_torch, to_torch, trainable
from conet_graph.bridge.batch import batching
from conet_graph.bridge.batch.held import Held
from conet_graph.bridge.batch.seen import Direct, Seen
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.load import LoadedModel, from_proto

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
IMAGES = 3
Weights = dict[str, np.ndarray[Any, Any]]


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(np.float32)


def network(text: str, weights: Weights) -> LoadedModel:
    proto = parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return from_proto(proto)


def shapes(model: LoadedModel) -> dict[str, list[int]]:
    held = {t.name for t in model.proto.graph.initializer}
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in model.proto.graph.input
        if v.name not in held
    }


def off_alone(model: LoadedModel, module: torch.nn.Module, axis: int = 0, files: int = 1) -> float:
    """How far the module on three images is from ONNX Runtime on each of them."""
    images = [{n: floats(*s, seed=k + 1) for n, s in shapes(model).items()} for k in range(IMAGES)]
    alone = [in_runtime(model.proto, feeds) for feeds in images]
    wanted = [np.concatenate(parts, axis) for parts in zip(*alone, strict=True)]
    together = {n: np.concatenate([feeds[n] for feeds in images]) for n in images[0]}
    return largest_difference(in_torch(module, together), wanted)


# Graphs as exporters write them for one image: (text, weights, axis of the output that counts images).
CASES: dict[str, tuple[str, Weights, int]] = {
    "weights computed from the image": (
        "g (float[1,3,6,6] x) => (float[1,4,6,6] y) {"
        " p = GlobalAveragePool(x) f = Flatten(p) m = MatMul(f, w)"
        " s = Constant<value_ints=[4,3,3,3]>() k = Reshape(m, s) y = Conv<pads=[1,1,1,1]>(x, k) }",
        {"w": floats(3, 108)},
        0,
    ),
    "one kernel a channel computed from the image": (
        "g (float[1,4,6,6] x) => (float[1,4,4,4] y) {"
        " p = GlobalMaxPool(x) f = Flatten(p) m = MatMul(f, w)"
        " s = Constant<value_ints=[4,1,3,3]>() k = Reshape(m, s) y = Conv<group=4>(x, k) }",
        {"w": floats(4, 36)},
        0,
    ),
    "modulated and demodulated weights": (
        "g (float[1,4,5,5] x, float[1,4] style) => (float[1,2,10,10] y) {"
        " s = Constant<value_ints=[4,1,1,1]>() t = Reshape(style, s) m = Mul(w, t)"
        " l = ReduceL2<axes=[0,2,3]>(m) d = Div(m, l)"
        " y = ConvTranspose<strides=[2,2], kernel_shape=[2,2]>(x, d) }",
        {"w": floats(4, 2, 2, 2)},
        0,
    ),
    "two images joined along the batch": (
        "g (float[1,3,5,5] x, float[1,3,5,5] z) => (float[1,4,5,5] y) {"
        " j = Concat<axis=0>(x, z) c = Conv(j, w) r = Relu(c) a, b = Split<axis=0>(r) y = Sub(a, b) }",
        {"w": floats(4, 3, 1, 1)},
        0,
    ),
    "three images, the first beside the others": (
        "g (float[1,3,5,5] x, float[1,3,5,5] u, float[1,3,5,5] v) => (float[2,4] y) {"
        " j = Concat<axis=0>(x, u, v) c = Conv(j, w) p = ReduceMean<axes=[2,3], keepdims=0>(c)"
        " o = Constant<value_ints=[0]>() i = Constant<value_ints=[1]>() e = Constant<value_ints=[3]>()"
        " first = Slice(p, o, i, o) others = Slice(p, i, e, o) y = Mul(first, others) }",
        {"w": floats(4, 3, 1, 1)},
        0,
    ),
    "the image and its mirror image": (
        "g (float[1,3,5,6] x) => (float[1,4,5,6] y) {"
        " n = Constant<value_ints=[-1]>() b = Constant<value_ints=[-9]>() a = Constant<value_ints=[3]>()"
        " m = Slice(x, n, b, a, n) j = Concat<axis=0>(x, m) c = Conv(j, w)"
        " y = ReduceMean<axes=[0], keepdims=1>(c) }",
        {"w": floats(4, 3, 1, 1)},
        0,
    ),
    "quarters of the image as a batch": (
        "g (float[1,3,6,6] x) => (float[1,4,6,6] y) {"
        " s = Constant<value_ints=[1,3,3,2,3,2]>() r = Reshape(x, s) t = Transpose<perm=[3,5,0,1,2,4]>(r)"
        " b = Constant<value_ints=[4,3,3,3]>() q = Reshape(t, b) c = Conv<pads=[1,1,1,1]>(q, w)"
        " u = Constant<value_ints=[2,2,1,4,3,3]>() v = Reshape(c, u) p = Transpose<perm=[2,3,4,0,5,1]>(v)"
        " e = Constant<value_ints=[1,4,6,6]>() y = Reshape(p, e) }",
        {"w": floats(4, 3, 3, 3)},
        0,
    ),
    "windows with a mask for each": (
        "g (float[1,4,4,6] x) => (float[1,4,4,6] y) {"
        " s = Constant<value_ints=[1,2,2,2,2,6]>() r = Reshape(x, s) t = Transpose<perm=[0,1,3,2,4,5]>(r)"
        " b = Constant<value_ints=[4,4,6]>() q = Reshape(t, b) k = MatMul(q, w)"
        " kt = Transpose<perm=[0,2,1]>(k) a = MatMul(q, kt) m = Add(a, mask) n = Softmax(m) o = MatMul(n, k)"
        " u = Constant<value_ints=[1,2,2,2,2,6]>() v = Reshape(o, u) p = Transpose<perm=[0,1,3,2,4,5]>(v)"
        " e = Constant<value_ints=[1,4,4,6]>() y = Reshape(p, e) }",
        {"w": floats(6, 6), "mask": floats(4, 4, 4)},
        0,
    ),
    "columns read by a recurrent layer": (
        "g (float[1,5,1,7] x) => (float[7,1,3] y) {"
        " a = Constant<value_ints=[2]>() s = Squeeze(x, a) t = Transpose<perm=[2,0,1]>(s)"
        ' h, l, c = LSTM<hidden_size=4, direction="bidirectional">(t, w, r)'
        " p = Transpose<perm=[0,2,1,3]>(h) f = Constant<value_ints=[7,8]>() m = Reshape(p, f)"
        " o = Gemm<transB=1>(m, k, b) e = Constant<value_ints=[7,1,3]>() y = Reshape(o, e) }",
        {"w": floats(2, 16, 5), "r": floats(2, 16, 4), "k": floats(3, 8), "b": floats(3)},
        1,
    ),
    "one column read by a recurrent layer": (
        "g (float[1,4,6,1] x) => (float[1,10] y) {"
        " t = Transpose<perm=[3,0,1,2]>(x) z = Constant<value_ints=[0,0,-1]>() r = Reshape(t, z)"
        " h, l = GRU<hidden_size=5>(r, w, u) a = Constant<value_ints=[0,5]>() p = Transpose<perm=[1,0,2]>(l)"
        " s = Constant<value_ints=[1]>() q = Squeeze(p, s) v = Reshape(q, a) y = Concat<axis=1>(v, q) }",
        {"w": floats(1, 15, 24), "u": floats(1, 15, 5)},
        0,
    ),
    "axes of one in another order": (
        "g (float[1,1,6] x) => (float[1,1,2,3] y) {"
        " t = Transpose<perm=[1,0,2]>(x) z = Constant<value_ints=[1,0,2,-1]>() r = Reshape(t, z)"
        " c = Softmax<axis=0>(r) e = Add(c, r) y = Transpose<perm=[1,0,2,3]>(e) }",
        {},
        0,
    ),
    "steps joined with the batch, with a first state": (
        "g (float[1,4,3,5,5] x) => (float[1,2,6] y) {"
        " s = Constant<value_ints=[4,3,5,5]>() r = Reshape(x, s) c = Conv(r, w)"
        " p = ReduceMean<axes=[2,3], keepdims=0>(c) q = Constant<value_ints=[1,4,2]>() v = Reshape(p, q)"
        " t = Transpose<perm=[1,0,2]>(v) h, l = GRU<hidden_size=6>(t, u, k, , , first)"
        " z = Identity(l) y = Concat<axis=1>(z, l) }",
        {"w": floats(2, 3, 1, 1), "u": floats(1, 18, 2), "k": floats(1, 18, 6), "first": floats(1, 1, 6)},
        0,
    ),
    "heads joined with the batch": (
        "g (float[1,6,3,3] x) => (float[1,6,9] y) {"
        " f = Constant<value_ints=[1,6,9]>() r = Reshape(x, f) t = Transpose<perm=[2,0,1]>(r)"
        " k = MatMul(t, w)"
        " s = Constant<value_ints=[9,2,3]>() a = Reshape(t, s) b = Reshape(k, s)"
        " q = Transpose<perm=[1,0,2]>(a) v = Transpose<perm=[1,0,2]>(b) vt = Transpose<perm=[1,2,0]>(b)"
        " m = MatMul(q, vt) n = Softmax<axis=-1>(m) o = MatMul(n, v) p = Transpose<perm=[1,0,2]>(o)"
        " e = Constant<value_ints=[9,1,6]>() z = Reshape(p, e) y = Transpose<perm=[1,2,0]>(z) }",
        {"w": floats(6, 6)},
        0,
    ),
    "coordinates, a token and zeros of the file": (
        "g (float[1,3,4,4] x) => (float[1,17,6] y) {"
        " s = Constant<value_ints=[1,1,4,4]>() z = ConstantOfShape(s) e = Expand(row, s)"
        " j = Concat<axis=1>(x, e, z, grid) f = Constant<value_ints=[1,6,16]>() r = Reshape(j, f)"
        " t = Transpose<perm=[0,2,1]>(r) c = Concat<axis=1>(token, t) y = Add(c, places) }",
        {
            "row": floats(1, 1, 1, 4),
            "grid": floats(1, 1, 4, 4),
            "token": floats(1, 1, 6),
            "places": floats(1, 17, 6),
        },
        0,
    ),
    "points of the file and of the image": (
        "g (float[1,3,5,5] x) => (float[1,6,5,5] y) {"
        " c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) moved = Add(t, grid)"
        " a = GridSample(x, grid) b = GridSample(x, moved) y = Concat<axis=1>(a, b) }",
        {"w": floats(2, 3, 1, 1), "grid": floats(1, 5, 5, 2)},
        0,
    ),
    "shapes read off the image": (
        "g (float[1,3,4,6] x) => (float[1,24,3] y) {"
        " s = Shape(x) z = Constant<value_ints=[0]>() i = Constant<value_ints=[1]>()"
        " n = Gather(s, z) c = Gather(s, i) rest = Constant<value_ints=[-1]>() t = Concat<axis=0>(n, c, rest)"
        " r = Reshape(x, t) p = Transpose<perm=[0,2,1]>(r) k = ConstantOfShape(n) m = Cast<to=1>(k)"
        " y = Add(p, m) }",
        {},
        0,
    ),
    "maxima put back": (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) {"
        " m, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) c = Conv(m, w)"
        " y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(c, i) }",
        {"w": floats(3, 3, 1, 1)},
        0,
    ),
    "pads computed from the image's size": (
        "g (float[1,3,5,4] x) => (float[1,3,6,5] y) {"
        " s = Shape<start=2>(x) two = Constant<value_ints=[2]>() m = Mod(s, two) less = Sub(two, m)"
        " none = Constant<value_ints=[0,0]>() some = Constant<value_ints=[0,1,1]>()"
        " z = Constant<value_ints=[0,0,0]>() o = Mul(less, none) f = Constant<value_ints=[0]>()"
        " i = Constant<value_ints=[1]>() e = Slice(less, f, i, f) q = Concat<axis=0>(z, f, z, e)"
        " g = Concat<axis=0>(z, f, z, i) h = Mul(q, g) b = Constant<value_ints=[0,0,0,0,0,0,1,1]>()"
        " p = Max(h, b) y = Pad(x, p) }",
        {},
        0,
    ),
    "another summand, filter and window for each image": (
        "g (float[1,2,8] x, float[1] t) => (float[1,2,8] y) {"
        " a = Mul(x, t) m = ReduceMax<keepdims=0>(a) q = Div(a, m) s = Constant<value_ints=[2,8]>()"
        " r = Reshape(q, s) rt = Transpose(r) p = MatMul(r, rt) o = MatMul(p, r)"
        " e = Constant<value_ints=[1,2,8]>() y = Reshape(o, e) }",
        {},
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_image_as_alone(name: str) -> None:
    text, weights, axis = CASES[name]
    model = network(text, weights)
    module = to_torch(model)
    taken = batches(module)
    assert (taken.only, taken.multiple, taken.why) == (None, 1, "")
    assert taken.checked.startswith("equal to ONNX Runtime")
    assert off_alone(model, module, axis) < 1e-5
    assert off_alone(from_torch(module, model), copy.deepcopy(module), axis) < 1e-5


def test_the_comparison_notices_a_wrong_image() -> None:
    text, weights, _ = CASES["weights computed from the image"]
    module = to_torch(network(text, weights))
    assert off_alone(network(text, {"w": weights["w"] + 0.1}), module) > 1e-2


def test_gradients_are_the_sum_over_the_images() -> None:
    text, weights, _ = CASES["weights computed from the image"]
    module = to_torch(network(text, weights))
    (weight,) = module.parameters()
    x = torch.from_numpy(floats(IMAGES, 3, 6, 6))
    module(x).square().sum().backward()
    together, weight.grad = weight.grad, None
    for image in x.split(1):
        module(image).square().sum().backward()
    assert together is not None
    assert weight.grad is not None
    assert torch.allclose(together, weight.grad, rtol=1e-4, atol=1e-4)


def test_batch_norm_in_training_sees_the_images_and_their_parts_together() -> None:
    text = (
        "g (float[1,3,5,5] x, float[1,3,5,5] z) => (float[1,3,5,5] y) {"
        " j = Concat<axis=0>(x, z) n = BatchNormalization(j, s, b, m, v)"
        " p, q = Split<axis=0>(n) y = Sub(p, q) }"
    )
    ones, none = np.ones(3, np.float32), np.zeros(3, np.float32)
    module = to_torch(network(text, {"s": ones, "b": none, "m": none, "v": ones})).train()
    x, z = torch.from_numpy(floats(4, 3, 5, 5)) + 2, torch.from_numpy(floats(4, 3, 5, 5, seed=1))
    made = module(x, z)
    normalised = functional.batch_norm(torch.cat([x, z]), None, None, training=True)
    assert torch.allclose(made, normalised[:4] - normalised[4:], atol=1e-4)


@pytest.mark.parametrize(
    "operator", ["RandomNormal<shape=[1,3,4,4]>()", "RandomNormalLike(zeros)", "Bernoulli(h)"]
)
def test_random_numbers_differ_from_image_to_image(operator: str) -> None:
    text = (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) {"
        f" s = Shape(x) zeros = ConstantOfShape(s) h = Sigmoid(x) r = {operator} y = Add(x, r) }}"
    )
    module = to_torch(network(text, {}))
    assert "draws other numbers" in batches(module).checked
    x = torch.zeros(IMAGES, 3, 4, 4)
    drawn = module(x)
    assert drawn.shape == x.shape
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(module(x), drawn)


PAIRS = (
    "g (float[2,3,4,4] x) => (float[2,4] y) {"
    " c = Conv(x, w) s = Constant<value_ints=[1,2,4,16]>() r = Reshape(c, s)"
    " m = ReduceMax<axes=[1], keepdims=1>(r) d = Sub(r, m) e = ReduceMean<axes=[3], keepdims=0>(d)"
    " f = Constant<value_ints=[2,4]>() y = Reshape(e, f) }"
)


def test_a_file_for_two_images_that_looks_at_both_takes_pairs() -> None:
    model = network(PAIRS, {"w": floats(4, 3, 1, 1)})
    module = to_torch(model)
    assert batches(module).multiple == 2
    assert off_alone(model, module) < 1e-5
    with pytest.raises(BadUsage, match="for 2 images at a time, and 3 are no multiple"):
        module(torch.zeros(3, 3, 4, 4))


def test_a_file_for_two_images_that_looks_at_each_takes_any_number() -> None:
    model = network(
        "g (float[2,3,4,4] x) => (float[2,4,4,4] y) { y = Conv(x, w) }", {"w": floats(4, 3, 1, 1)}
    )
    module = to_torch(model)
    assert batches(module).multiple == 1
    assert module(torch.zeros(3, 3, 4, 4)).shape == (3, 4, 4, 4)


def test_an_input_of_one_image_serves_all_and_other_numbers_are_refused() -> None:
    text, weights, _ = CASES["two images joined along the batch"]
    module = to_torch(network(text, weights))
    x, z = torch.from_numpy(floats(3, 3, 5, 5)), torch.from_numpy(floats(1, 3, 5, 5, seed=1))
    assert torch.allclose(module(x, z), module(x, z.expand(3, -1, -1, -1)))
    with pytest.raises(BadUsage, match="'z' has 2 images where 'x' has 3"):
        module(x, torch.zeros(2, 3, 5, 5))


# How many rows the output has depends on the numbers in the image.
FOUND = "g (float[1,2,5] x) => (int64[3,n] y) { r = Relu(x) y = NonZero(r) }"


def test_what_cannot_be_is_said_and_refused() -> None:
    model = network(FOUND, {})
    with pytest.warns(BatchWarning, match="takes a batch of 1 only: its outputs have another shape"):
        module = to_torch(model)
    assert batches(module).only == 1
    x = floats(1, 2, 5)
    assert largest_difference(in_torch(module, {"x": x}), in_runtime(model.proto, {"x": x})) == 0
    with pytest.raises(BadUsage, match="takes a batch of 1, and its input 'x' has 3"):
        copy.deepcopy(module)(torch.zeros(3, 2, 5))
    with pytest.raises(Refused, match="cannot be trained in batches, only 1 at a time"):
        trainable(model)


def test_a_wrong_rule_is_noticed_and_the_batch_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(seen: Seen) -> Direct:
        return Direct({0: Held(0, 1)}, Held(0, 1))

    text = "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { n = Softmax<axis=0>(x) y = Add(n, x) }"
    model = network(text, {})
    assert off_alone(model, to_torch(model)) < 1e-5
    monkeypatch.setitem(batching.RULES, ("", "Softmax"), wrong)
    with pytest.warns(BatchWarning, match="three images at once come out otherwise than each alone"):
        module = to_torch(model)
    assert batches(module).only == 1
    assert batches(module).checked.startswith("equal to ONNX Runtime")


def test_a_free_batch_is_the_files_own_business() -> None:
    model = network("g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = Softmax<axis=1>(x) }", {})
    assert batches(to_torch(model)).checked.startswith("equal to ONNX Runtime")
    model = network("g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = Softmax<axis=0>(x) }", {})
    with pytest.warns(BatchWarning, match="the images of a batch otherwise than each alone"):
        module = to_torch(model)
    x = floats(5, 3, 4, 4)
    assert largest_difference(in_torch(module, {"x": x}), in_runtime(model.proto, {"x": x})) < 1e-5


OTHER_AXES = {
    "images along the second axis": "t = Transpose<perm=[2,0,1]>(c) y = Relu(t)",
    "along the second axis of a recurrent state": "t = Transpose<perm=[2,0,1]>(c)"
    " s, y = GRU<hidden_size=2>(t, u, r)",
    "the same numbers for all images": "a = ReduceSum<keepdims=0>(w) y = Mul(w, a) z = Relu(c)",
}


@pytest.mark.parametrize("kind", OTHER_AXES)
def test_a_free_batch_may_lie_along_any_axis(kind: str) -> None:
    """No warning: each image comes out as it does alone, or nothing of it does."""
    more = ", float[n,6,4] z" if "same" in kind else ""
    model = network(
        f"g (float[n,3,4] x) => (float[] y{more}) {{ c = Conv(x, w) {OTHER_AXES[kind]} }}",
        {"w": floats(6, 3, 1), "u": floats(1, 6, 6), "r": floats(1, 6, 2)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchWarning)
        assert batches(to_torch(model)).checked.startswith("equal to ONNX Runtime")


def test_a_free_batch_that_only_one_image_fits_is_taken_for_one() -> None:
    model = network(
        "g (float[n,3,4,4] x) => (float[n,6] y) {"
        " c = Conv(x, w) s = Constant<value_ints=[1,96]>() r = Reshape(c, s) y = MatMul(r, m) }",
        {"w": floats(6, 3, 1, 1), "m": floats(96, 6)},
    )
    module = to_torch(model)
    assert batches(module).checked.startswith("equal to ONNX Runtime")
    x = floats(3, 3, 4, 4)
    alone = [in_runtime(model.proto, {"x": x[k : k + 1]})[0] for k in range(3)]
    assert largest_difference(in_torch(module, {"x": x}), [np.concatenate(alone)]) < 1e-5
    again = in_runtime(from_torch(module, model).proto, {"x": x[:1]})
    assert largest_difference(again, alone[0][None]) == 0


@pytest.mark.parametrize("chosen", [True, False])
def test_a_branch_that_a_constant_chooses_is_computed(chosen: bool) -> None:
    text = (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { c = Conv(x, w)"
        " y = If(chosen) <then_branch = t () => (float[1,3,4,4] a) { a = Relu(c) },"
        " else_branch = e () => (float[1,3,4,4] b) { b = Softmax<axis=1>(c) }> }"
    )
    model = network(text, {"w": floats(3, 3, 1, 1), "chosen": np.bool_(chosen)})
    assert off_alone(model, to_torch(model)) < 1e-5


def test_outputs_that_are_the_same_for_all_images_prove_nothing() -> None:
    model = network("g (float[1,3] x) => (float[1,4] y) { y = MatMul(x, w) }", {"w": floats(3, 4) * 0})
    assert batches(to_torch(model)).checked.startswith("not checked: its outputs are the same")


def test_batches_are_known_of_our_own_modules_only() -> None:
    with pytest.raises(BadUsage, match="was not made by to_torch"):
        batches(torch.nn.Linear(2, 2))
    assert isinstance(network(FOUND, {}).proto, onnx.ModelProto)
