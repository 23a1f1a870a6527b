"""Whole networks: weights and their ties, batch sizes, gradients, and the way back into the file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bridge_case import difference, in_runtime, in_torch, largest_difference
from onnx import helper, numpy_helper, parser

from conet_graph import models
from conet_graph.bridge import from_torch, to_torch, weights_by_name
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.load import LoadedModel, from_proto, load_model

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def network(text: str, **weights: np.ndarray[Any, Any]) -> LoadedModel:
    proto = parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return from_proto(proto)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "resnet8.onnx"
    models.export_onnx("resnet8", path, width=8)
    return path


def test_zoo_network_equals_onnx_runtime(resnet: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    model = load_model(resnet)
    name = model.proto.graph.input[0].name
    assert difference(model.proto, {name: x}) < 1e-5


def test_modules_carry_the_operators_weights(resnet: Path) -> None:
    model = load_model(resnet)
    module = to_torch(model)
    kinds = [type(m).__name__ for m in module.modules()]
    assert kinds.count("Conv2d") == 9
    assert kinds.count("BatchNorm") == 9
    stored = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    for name, tensor in weights_by_name(module).items():
        assert np.array_equal(tensor.numpy(), stored[name])


def test_a_network_of_fixed_batch_takes_any() -> None:
    model = network(
        "g (float[1,4,6,6] x) => (float[1,2] y) {"
        " s = Conv(x, w)"
        " shape5 = Constant<value_ints=[1,2,2,36]>()"
        " r = Reshape(s, shape5)"
        " t = Transpose<perm=[0,2,1,3]>(r)"
        " flat = Constant<value_ints=[1,-1]>()"
        " f = Reshape(t, flat)"
        " y = MatMul(f, m) }",
        w=floats(4, 4, 1, 1),
        m=floats(144, 2),
    )
    module = to_torch(model)
    x = torch.from_numpy(floats(5, 4, 6, 6))
    many = module(x)
    assert many.shape == (5, 2)
    one = torch.cat([module(x[k : k + 1]) for k in range(5)])
    assert torch.allclose(many, one, atol=1e-5)


def test_a_shared_matrix_is_one_parameter_and_shared_vectors_are_not() -> None:
    model = network(
        "g (float[n,4,5,5] x) => (float[n,4,5,5] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, w, b) }",
        w=floats(4, 4, 1, 1),
        b=floats(4),
    )
    module = to_torch(model)
    assert sorted(tuple(p.shape) for p in module.parameters()) == [(4,), (4,), (4, 4, 1, 1)]
    module(torch.from_numpy(floats(2, 4, 5, 5))).square().mean().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_weights_of_products_sums_and_scales_train() -> None:
    model = network(
        "g (float[n,3] x) => (float[n,4] y) {"
        " h = MatMul(x, w)"
        " s = Add(h, b)"
        " m = Mul(s, g)"
        ' y = Einsum<equation="ij,jk->ik">(m, e) }',
        w=floats(3, 4),
        b=floats(4),
        g=floats(4),
        e=floats(4, 4),
    )
    module = to_torch(model)
    module(torch.from_numpy(floats(6, 3))).sum().backward()
    assert len(list(module.parameters())) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_what_prepares_the_image_is_no_weight() -> None:
    model = network(
        "g (float[n,5,5,3] x) => (float[n,3,5,5] y) {"
        " t = Transpose<perm=[0,3,1,2]>(x) c = Sub(t, mean) p = Div(c, deviation) q = Mul(p, both)"
        " z = Add(q, table) h = Conv(z, w) a = Mul(h, gain) b = Add(a, shift) y = Mul(b, both) }",
        mean=floats(3, 1, 1),
        deviation=floats(1, 3, 1, 1),
        both=floats(3, 1, 1),
        table=floats(3, 5, 5),
        w=floats(3, 3, 1, 1),
        gain=floats(3, 1, 1),
        shift=floats(1, 3, 1, 1),
    )
    module = to_torch(model)
    assert difference(model.proto, {"x": floats(2, 5, 5, 3)}) < 1e-5
    # Of the vector that is used before and after the convolution, each use has its own copy.
    assert sorted(n for n, _ in module.named_buffers()) == [
        "weights.both",
        "weights.deviation",
        "weights.mean",
    ]
    assert len(list(module.parameters())) == 5


def test_trained_weights_come_back_into_their_own_initializers(resnet: Path) -> None:
    model = load_model(resnet)
    module = to_torch(model).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.from_numpy(floats(8, 3, 32, 32))
    module(x).square().mean().backward()
    optimizer.step()
    back = from_torch(module, model)
    onnx.checker.check_model(back.proto, full_check=True)
    assert [n.SerializeToString() for n in back.proto.graph.node] == [
        n.SerializeToString() for n in model.proto.graph.node
    ]
    assert [t.name for t in back.proto.graph.initializer] == [t.name for t in model.proto.graph.initializer]
    ours = in_torch(module, {"x": x.numpy()})
    again = in_torch(to_torch(back), {"x": x.numpy()})
    assert largest_difference(ours, again) == 0
    assert largest_difference(in_torch(to_torch(model), {"x": x.numpy()}), again) > 1e-3


def test_an_untrained_module_gives_the_file_back(resnet: Path) -> None:
    model = load_model(resnet)
    back = from_torch(to_torch(model), model)
    assert back.proto.SerializeToString(deterministic=True) == model.proto.SerializeToString(
        deterministic=True
    )


def test_a_copy_keeps_its_places(resnet: Path) -> None:
    model = load_model(resnet)
    module = copy.deepcopy(to_torch(model))
    assert from_torch(module, model).proto.graph.initializer == model.proto.graph.initializer


def test_foreign_modules_are_refused(resnet: Path) -> None:
    with pytest.raises(BadUsage, match="was not made by to_torch"):
        weights_by_name(torch.nn.Linear(2, 2))
    other = network("g (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }", w=floats(3, 4))
    with pytest.raises(BadUsage, match="has no place in this model"):
        from_torch(to_torch(other), load_model(resnet))


def test_what_cannot_be_converted_is_named() -> None:
    model = network(
        "g (float[n,3] x) => (float[n,3] y) { h = Relu(x) y = Add(h, x) }",
    )
    proto = model.proto
    proto.graph.node.append(helper.make_node("Det", ["y"], ["b"], name="size"))
    proto.graph.node.append(helper.make_node("Add", ["b", "y"], ["out"]))
    proto.graph.output[0].name = "out"
    proto.opset_import[0].version = 22
    with pytest.raises(Refused, match=r"Det-22 \(node 'size'\) has no converter"):
        to_torch(from_proto(proto))


def test_half_floats_train_as_floats_and_come_back_as_halves() -> None:
    model = network(
        "g (float16[n,3] x) => (float16[n,4] y) { y = MatMul(x, w) }", w=floats(3, 4).astype(np.float16)
    )
    module = to_torch(model)
    (weight,) = module.parameters()
    assert weight.dtype == torch.float32
    with torch.no_grad():
        weight += 1
    (stored,) = from_torch(module, model).proto.graph.initializer
    assert numpy_helper.to_array(stored).dtype == np.float16
    assert np.allclose(numpy_helper.to_array(stored), floats(3, 4) + 1, atol=5e-3)


def test_batch_norm_keeps_statistics_while_it_trains() -> None:
    model = network(
        "g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = BatchNormalization(x, s, b, m, v) }",
        s=np.ones(3, np.float32),
        b=np.zeros(3, np.float32),
        m=np.zeros(3, np.float32),
        v=np.ones(3, np.float32),
    )
    module = to_torch(model).train()
    x = torch.from_numpy(floats(8, 3, 4, 4)) + 5
    module(x)
    back = {t.name: numpy_helper.to_array(t) for t in from_torch(module, model).proto.graph.initializer}
    # ONNX's momentum 0.9: a tenth of the batch's mean.
    assert np.allclose(back["m"], 0.1 * x.mean((0, 2, 3)).numpy(), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(5, 4), (3, 7)])
@pytest.mark.parametrize("pieces", ["Split<axis=2>(m, s)", "sequence"])
def test_parts_of_computed_sizes(pieces: str, height: int, width: int) -> None:
    """Means of rows and of columns in one map, in images of any size (CoordAtt)."""
    cut = f"p, q = {pieces}"
    if pieces == "sequence":
        cut = (
            "o = Constant<value_int=0>() i = Constant<value_int=1>() e = SplitToSequence<axis=2>(m, s)"
            " p = SequenceAt(e, o) q = SequenceAt(e, i)"
        )
    model = network(
        "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { s = Shape<start=2>(x) r = ReduceMean<axes=[3]>(x)"
        " c = ReduceMean<axes=[2]>(x) t = Transpose<perm=[0,1,3,2]>(c) m = Concat<axis=2>(r, t)"
        f" {cut} u = Transpose<perm=[0,1,3,2]>(q) y = Mul(p, u) }}"
    )
    x = np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32)
    assert difference(model.proto, {"x": x}) < 1e-5


def test_batch_norm_with_a_computed_scale_has_gradients() -> None:
    model = network(
        "g (float[n,3,4,4] x) => (float[n,3,4,4] y) { c = Relu(s) y = BatchNormalization(x, c, b, m, v) }",
        s=np.ones(3, np.float32),
        b=np.zeros(3, np.float32),
        m=np.zeros(3, np.float32),
        v=np.ones(3, np.float32),
    )
    module = to_torch(model).eval()
    assert difference(model.proto, {"x": floats(2, 3, 4, 4)}) < 1e-5
    module(torch.from_numpy(floats(2, 3, 4, 4))).square().mean().backward()
    assert [p.grad is not None for p in module.parameters()] == [True, True]


# A convolution whose weight is standardised, as TorchScript's exporter writes it: the statistics come from a
# transposed copy of the weight, and the BatchNorm takes its own.
STANDARDISED = (
    "g (float[n,2,5,5] x) => (float[n,3,3,3] y) {"
    " mean = ReduceMean<axes=[0,1],keepdims=0>(copy)"
    " centred = Sub(copy, mean) square = Mul(centred, centred)"
    " variance = ReduceMean<axes=[0,1],keepdims=0>(square)"
    " s, m, v = BatchNormalization<training_mode=1,momentum=1.0>(flat, gain, zeros, mean, variance)"
    " shape = Constant<value_ints=[3,2,3,3]>() w = Reshape(s, shape) y = Conv(x, w) }"
)


def test_standardised_weights_learn_and_the_file_follows() -> None:
    flat = floats(1, 3, 18)
    model = network(
        STANDARDISED, flat=flat, copy=flat.transpose(0, 2, 1).copy(), gain=floats(3), zeros=floats(3) * 0
    )
    x = floats(4, 2, 5, 5)
    module = to_torch(model).eval()
    assert {n: tuple(w.shape) for n, w in weights_by_name(module).items()} == {
        "flat": (1, 3, 18),
        "gain": (3,),
        "zeros": (3,),
    }
    module(torch.from_numpy(x)).square().mean().backward()
    weight = torch.from_numpy(flat).requires_grad_()
    deviation = (weight.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    standard = (weight - weight.mean(2, keepdim=True)) / deviation * torch.from_numpy(floats(3)).view(3, 1)
    torch.conv2d(torch.from_numpy(x), standard.view(3, 2, 3, 3)).square().mean().backward()
    grads = {tuple(p.shape): p.grad for p in module.parameters()}
    assert weight.grad is not None
    assert torch.allclose(grads[1, 3, 18], weight.grad, atol=1e-6)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn_like(parameter)
    trained = from_torch(module, model)
    assert largest_difference(in_torch(module, {"x": x}), in_runtime(trained.proto, {"x": x})) < 1e-5


def test_statistics_computed_from_weights_pass_gradients_on() -> None:
    model = network(
        "g (float[n,3,4,4] x) => (float[n,3,4,4] y) {"
        " v = Exp(w) m = Neg(w) y = BatchNormalization(x, s, b, m, v) }",
        w=floats(3),
        s=floats(3),
        b=floats(3),
    )
    module = to_torch(model).eval()
    assert difference(model.proto, {"x": floats(2, 3, 4, 4)}) < 1e-5
    module(torch.from_numpy(floats(2, 3, 4, 4))).square().mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).all()) for p in module.parameters())


def test_the_helper_notices_a_difference() -> None:
    assert largest_difference([np.ones(3)], [np.array([1.0, 1.0, 2.0])]) == 0.5
