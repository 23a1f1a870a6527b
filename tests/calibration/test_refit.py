"""Networks with redundant channels: narrowed and refitted they are what they were, to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import conet_graph as cg
from conet_graph.calibration.float32 import in_float32
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.refits import read_plan, write_plan
from tests.helpers.small_networks import Array, answers, network

RNG = np.random.default_rng(1)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_every_order() -> None:
    """A test draws what it draws alone, whichever tests ran before it."""
    RNG.bit_generator.state = START


def redundant(outputs: int, *rest: int) -> Array:
    """A weight [outputs, ...] whose second half of filters is made of twins, combinations and dead ones."""
    half = outputs // 2
    first = RNG.standard_normal((half, *rest))
    scales = RNG.uniform(0.5, 2.0, half)
    scales[0] = 0.0
    return np.concatenate([first, first * scales.reshape(-1, *[1] * len(rest))])


def weight(*shape: int) -> Array:
    return RNG.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))


# The layer behind the redundant channels h, of which there are 8; its weights.
CONSUMERS = {
    "plain": ("y = Conv <pads=[1,1,1,1]> (h, w, b)", {"w": weight(5, 8, 3, 3), "b": weight(5)}),
    "no bias": ("y = Conv (h, w)", {"w": weight(5, 8, 1, 1)}),
    "strided": ("y = Conv <strides=[2,2]> (h, w, b)", {"w": weight(5, 8, 2, 2), "b": weight(5)}),
    "dilated": ("y = Conv <dilations=[2,2]> (h, w, b)", {"w": weight(5, 8, 2, 2), "b": weight(5)}),
    "padded": ('y = Conv <auto_pad="SAME_UPPER"> (h, w, b)', {"w": weight(5, 8, 2, 2), "b": weight(5)}),
    "transposed": ("y = ConvTranspose <strides=[2,2]> (h, w, b)", {"w": weight(8, 5, 2, 2), "b": weight(5)}),
    "normalised": (
        "c = Conv (h, w)  y = BatchNormalization (c, s, t, m, v)",
        {
            "w": weight(5, 8, 1, 1),
            "s": weight(5) + 2,
            "t": weight(5),
            "m": weight(5),
            "v": weight(5) ** 2 + 1,
        },
    ),
    "depthwise first": (
        "d = Conv <group=8, pads=[1,1,1,1]> (h, k, e)  y = Conv (d, w, b)",
        {"k": np.repeat(weight(1, 1, 3, 3), 8, 0), "e": np.zeros(8), "w": weight(5, 8, 1, 1), "b": weight(5)},
    ),
    "two readers": (
        "p = Conv (h, w, b)  q = Conv (h, u, c)  y = Concat <axis=1> (p, q)",
        {"w": weight(3, 8, 1, 1), "b": weight(3), "u": weight(2, 8, 1, 1), "c": weight(2)},
    ),
    "gemm": (
        "f = Flatten (h)  y = Gemm <transB=1> (f, w, b)",
        {"w": weight(5, 8 * 36) / 8, "b": weight(5)},
    ),
    "matmul": (
        "a = GlobalAveragePool (h)  f = Flatten (a)  z = MatMul (f, w)  y = Add (z, b)",
        {"w": weight(8, 5), "b": weight(5)},
    ),
    "sum": (
        "p = Conv (h, w, b)  q = Conv (x, u, c)  s = Add (p, q)  r = Relu (s)  y = Conv (r, v, d)",
        {
            "w": weight(4, 8, 1, 1),
            "b": weight(4),
            "u": weight(4, 3, 1, 1),
            "c": weight(4),
            "v": weight(5, 4, 1, 1),
            "d": weight(5),
        },
    ),
}


@pytest.mark.parametrize("name", CONSUMERS)
def test_redundant_channels_go_without_loss(name: str) -> None:
    nodes, weights = CONSUMERS[name]
    body = f"g (float[n,3,6,6] x) => (float[m,k,i,j] y) {{ a0 = Conv (x, w0, b0)  h = Relu (a0)  {nodes} }}"
    if "Flatten" in nodes:
        body = body.replace("float[m,k,i,j] y", "float[m,k] y")
    first = redundant(8, 3, 1, 1)
    offset = RNG.standard_normal(4) / 4
    scales = first[4:, 0, 0, 0] / first[:4, 0, 0, 0]
    model = network(body, {"w0": first, "b0": np.concatenate([offset, offset * scales]), **weights})
    x = RNG.standard_normal((480, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, widths={"a0": 4}, calibrate={"x": x}, samples=480)
    assert made.refit is not None
    narrowed = cg.rewrite(model, made)
    new = RNG.standard_normal((8, 3, 6, 6)).astype(np.float32)
    (wanted,), (found,) = answers(model, x=new), answers(narrowed, x=new)
    assert np.abs(wanted - found).max() < 1e-4 * np.abs(wanted).max()
    assert [g.new_width for g in made.groups] == [4]
    assert cg.verify(model, narrowed, made).ok


# A weight that the file computes from constants: what computes it goes, the weight is held as numbers.
STANDARDISED = {
    "plain": "",
    "and a bias of its own": ", b",
    "and a norm behind it": ", b)  y = BatchNormalization (c, s, t, m, v",
}


@pytest.mark.parametrize("name", STANDARDISED)
@pytest.mark.parametrize("later", [False, True])
def test_a_standardised_weight_is_refitted(name: str, later: bool) -> None:
    """Nodes are found at their new numbers, whether many come behind those that went or none."""
    parts = ["a0 = Conv (x, w0)  h = Relu (a0)", "mean = ReduceMean <axes=[1,2,3]> (w)  u = Sub (w, mean)"]
    made = "  ".join(parts if later else parts[::-1])
    out = "c" if "norm" in name else "y"
    body = f"g (float[n,3,6,6] x) => (float[m,k,i,j] y) {{ {made}  {out} = Conv (h, u{STANDARDISED[name]}) }}"
    first = weight(4, 3, 1, 1)
    weights = {"w0": np.concatenate([first, first * 2]), "w": weight(5, 8, 1, 1)}
    weights |= {"b": weight(5)} if STANDARDISED[name] else {}
    if out == "c":
        weights |= {"s": weight(5) + 2, "t": weight(5), "m": weight(5), "v": weight(5) ** 2 + 1}
    model = network(body, weights)
    x = RNG.standard_normal((160, 3, 6, 6)).astype(np.float32)
    plan = cg.plan(model, widths={"a0": 4}, calibrate={"x": x})
    narrowed = cg.rewrite(model, plan)
    assert [g.new_width for g in plan.groups] == [4]
    (wanted,), (found,) = answers(model, x=x[:8]), answers(narrowed, x=x[:8])
    assert np.abs(wanted - found).max() < 1e-3 * np.abs(wanted).max()
    assert cg.verify(model, narrowed, plan).ok


# Two layers of one weight, and what lies between and behind them.
SHARING = {
    "side by side": "p = Conv (h, w, b)  q = Conv (g, w, b)  y = Concat <axis=1> (p, q)",
    "biases of their own": "p = Conv (h, w, b)  q = Conv (g, w, c)  y = Concat <axis=1> (p, q)",
    "one behind the other": "p = Conv (h, w, b)  r = Conv (p, u, d)  g2 = Relu (r)  q = Conv (g2, w, b)"
    "  y = Concat <axis=1> (p, q)",
}


@pytest.mark.parametrize("name", SHARING)
def test_a_shared_weight_is_fitted_for_all_of_its_readers(name: str) -> None:
    # The first reader says something by channels 0, 1 and their twins 4, 5, the second by 2, 3 and 6, 7.
    twice = np.array([1.0, 1, 1, 1, 2, -3, 0.5, 4]).reshape(8, 1, 1, 1)
    first, second = (np.tile(weight(4, 3, 1, 1), (2, 1, 1, 1)) * twice for _ in range(2))
    inner = np.tile(weight(4, 5, 1, 1), (2, 1, 1, 1)) * np.abs(twice)
    first[[2, 3, 6, 7]] = second[[0, 1, 4, 5]] = 0
    inner[[0, 1, 4, 5]] = 0
    weights = {"w0": first, "v0": second, "w": weight(5, 8, 1, 1), "b": weight(5)}
    weights |= {"c": weight(5)} if name == "biases of their own" else {}
    before = "h = Conv (x, w0)  g = Conv (x, v0)"
    if name == "one behind the other":
        del weights["v0"]
        before = "h = Conv (x, w0)"
        weights |= {"u": inner, "d": np.zeros(8)}
    model = network(f"n (float[n,3,6,6] x) => (float[m,k,i,j] y) {{ {before}  {SHARING[name]} }}", weights)
    x = RNG.standard_normal((160, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, widths={"h": 4}, calibrate={"x": x})
    narrowed = cg.rewrite(model, made)
    assert [(g.old_width, g.new_width) for g in made.groups] == [(8, 4)]
    assert (
        sum(t.name.startswith("w") and list(t.dims[:2]) == [5, 4] for t in narrowed.proto.graph.initializer)
        == 1
    )
    (wanted,), (found,) = answers(model, x=x[:8]), answers(narrowed, x=x[:8])
    assert np.abs(wanted - found).max() < 1e-3 * np.abs(wanted).max()


# Two branches whose outputs are added. Either loses half of its channels, and with them half of what it reads
# of x; side by side they still read all of it.
SUMS = {
    "plain": ("p = Conv (h, w, b)  q = Conv (g, u, c)  y = Add (p, q)", {}),
    "no bias": ("p = Conv (h, w)  q = Conv (g, u)  y = Add (q, p)", {}),
    "strided": ("p = Conv <strides=[2,2]> (h, w, b)  q = Conv <strides=[2,2]> (g, u, c)  y = Sum (p, q)", {}),
    "normalised": (
        "p0 = Conv (h, w)  p = BatchNormalization (p0, s, t, m, v)"
        "  q0 = Conv (g, u, c)  q = BatchNormalization (q0, s2, t, m, v)  y = Add (p, q)",
        {
            "s": RNG.uniform(0.5, 2, 5),
            "s2": -RNG.uniform(0.5, 2, 5),
            "t": weight(5),
            "m": weight(5),
            "v": RNG.uniform(0.5, 2, 5),
        },
    ),
    "gemm": (
        "hp = GlobalAveragePool (h)  hf = Flatten (hp)  gp = GlobalAveragePool (g)  gf = Flatten (gp)"
        "  p = Gemm <transB=1, alpha=0.5> (hf, w, b)  q = Gemm <transB=1, beta=2.0> (gf, u, c)"
        "  y = Add (p, q)",
        {"w": weight(5, 8), "u": weight(5, 8)},
    ),
}


def test_branches_whose_sum_comes_late_are_fitted_alone() -> None:
    weights = {"w0": weight(8, 8, 1, 1), "v0": weight(8, 8, 1, 1), "w": weight(5, 8, 1, 1)}
    weights |= {"u": weight(5, 8, 1, 1), "k": weight(5, 8, 1, 1)}
    model = network(
        "n (float[n,8,6,6] x) => (float[m,k,i,j] y) { h = Conv (x, w0)  g = Conv (x, v0)"
        "  p = Conv (h, w)  q = Conv (g, u)  r = Conv (x, k)  s = Add (p, q)  y = Mul (s, r) }",
        weights,
    )
    x = RNG.standard_normal((96, 8, 6, 6)).astype(np.float32)
    made = cg.plan(model, widths={"h": 4, "g": 4}, calibrate={"x": x})
    assert made.refit is not None
    assert {fit.name for fit in made.refit.layers} >= {"p", "q"}
    assert cg.verify(model, cg.rewrite(model, made), made).ok


@pytest.mark.parametrize("name", SUMS)
def test_the_branches_of_a_sum_make_up_for_each_other(name: str) -> None:
    nodes, own = SUMS[name]
    weights = {"w0": weight(8, 8, 1, 1), "v0": weight(8, 8, 1, 1), "w": weight(5, 8, 1, 1)}
    weights |= {"u": weight(5, 8, 1, 1), "b": weight(5), "c": weight(5)} | own
    sizes = "float[m,k]" if name == "gemm" else "float[m,k,i,j]"
    model = network(
        f"n (float[n,8,6,6] x) => ({sizes} y) {{ h = Conv (x, w0)  g = Conv (x, v0)  {nodes} }}",
        {k: v for k, v in weights.items() if f" {k})" in nodes or f" {k}," in nodes or k in ("w0", "v0")},
    )
    x = (RNG.standard_normal((480, 8, 6, 6)) + RNG.standard_normal((480, 8, 1, 1))).astype(np.float32)
    made = cg.plan(model, widths={"h": 4, "g": 4}, calibrate={"x": x}, samples=480)
    narrowed = cg.rewrite(model, made)
    assert [g.new_width for g in made.groups] == [4, 4]
    (wanted,), (found,) = answers(model, x=x[:8]), answers(narrowed, x=x[:8])
    assert np.abs(wanted - found).max() < 1e-3 * np.abs(wanted).max()
    assert made.refit is not None
    assert any(" + " in fit.name and fit.after < fit.before / 100 for fit in made.refit.layers)


def test_recurrent_layers_do_without_redundant_inputs() -> None:
    mix = redundant(8, 5)
    weights = {"m": mix.T, "w": weight(1, 9, 8), "r": weight(1, 9, 3), "b": weight(1, 18)}
    model = network(
        "g (float[n,6,5] x) => (float[a,b2,c,d] y) { t = Transpose <perm=[1,0,2]> (x)  h = MatMul (t, m)"
        "  y = GRU <hidden_size=3> (h, w, r, b) }",
        weights,
    )
    x = RNG.standard_normal((64, 6, 5)).astype(np.float32)
    made = cg.plan(model, widths={"h": 4}, calibrate={"x": x})
    narrowed = cg.rewrite(model, made)
    (wanted,), (found,) = answers(model, x=x), answers(narrowed, x=x)
    assert np.abs(wanted - found).max() < 1e-3


@pytest.mark.parametrize(("kind", "allowed"), [("float16", 0.02), ("bfloat16", 0.05)])
def test_half_floats_stay_half_floats(kind: str, allowed: float) -> None:
    number = TensorProto.DataType.Value(kind.upper())
    dtype = helper.tensor_dtype_to_np_dtype(number)
    half = weight(4, 3, 1, 1)
    first = np.concatenate([half, 2 * half])  # twins to the last bit, also when rounded
    weights = {"w0": first, "w": weight(5, 8, 1, 1), "b": weight(5)}
    model = network(
        f"g ({kind}[n,3,6,6] x) => ({kind}[m,k,i,j] y)"
        " { a0 = Conv (x, w0)  h = Relu (a0)  y = Conv (h, w, b) }",
        {name: array.astype(dtype) for name, array in weights.items()},
        opset=22,
    )
    x = RNG.standard_normal((48, 3, 6, 6)).astype(np.float16 if kind == "float16" else np.float32)
    made = cg.plan(model, widths={"a0": 4}, calibrate={"x": x})
    narrowed = cg.rewrite(model, made, check=kind == "float16")  # ONNX Runtime runs no bfloat16
    assert {t.data_type for t in narrowed.proto.graph.initializer} == {number}
    old, new = (LoadedModel(in_float32(m.proto)) for m in (model, narrowed))
    (wanted,), (found,) = (answers(m, x=x.astype(np.float32)) for m in (old, new))
    assert np.abs(wanted - found).max() < allowed * np.abs(wanted).max()


def test_a_plan_is_read_again_with_its_tensors(tmp_path: Path) -> None:
    model = network(
        "g (float[n,3,6,6] x) => (float[m,k,i,j] y) { a0 = Conv (x, w0)  h = Relu (a0)  y = Conv (h, w, b) }",
        {"w0": weight(8, 3, 1, 1), "w": weight(5, 8, 1, 1), "b": weight(5)},
    )
    x = RNG.standard_normal((48, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, macs=0.5, calibrate={"x": x})
    write_plan(made, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again.refit is not None
    assert again.dumps("plan.safetensors") == made.dumps("plan.safetensors")
    first, second = cg.rewrite(model, made), cg.rewrite(model, again)
    assert first.proto.SerializeToString() == second.proto.SerializeToString()
    assert made.refit is not None
    errors = made.refit.errors
    assert errors["refitted"] is not None
    assert errors["ranked"] is not None
    assert errors["refitted"] < errors["ranked"]
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(BadUsage, match="missing"):
        cg.rewrite(model, read_plan(tmp_path / "plan.json"))
    other = Plan.loads(made.dumps())
    assert other.refit is not None
    damaged = cg.rewrite(model, made)
    next(t for t in damaged.proto.graph.initializer if t.name == "w0").raw_data = (
        b"\0" * 4 * 3 * made.groups[0].new_width
    )
    assert not cg.verify(model, damaged, made).ok


def test_outputs_that_say_nothing_are_refused() -> None:
    model = network(
        "g (float[n,3,6,6] x) => (float[m,k,i,j] y) { a0 = Conv (x, w0)  h = Relu (a0)  y = Conv (h, w, b) }",
        {"w0": weight(8, 3, 1, 1), "w": np.zeros((5, 8, 1, 1)), "b": weight(5)},
    )
    with pytest.raises(Refused, match="same for all"):
        cg.plan(model, macs=0.5, calibrate={"x": RNG.standard_normal((48, 3, 6, 6)).astype(np.float32)})


@pytest.mark.parametrize(("factor", "kind"), [("float s", np.float32), ("int64 s", np.int64)])
def test_an_input_that_is_one_number_is_fed(factor: str, kind: type) -> None:
    times = "c = Cast <to=1> (s)  y = Mul (p, c)"
    model = network(
        f"g (float[n,3,6,6] x, {factor}) => (float[m,k,i,j] y)"
        f" {{ a0 = Conv (x, w0)  h = Relu (a0)  p = Conv (h, w, b)  {times} }}",
        {"w0": weight(8, 3, 1, 1), "w": weight(5, 8, 1, 1), "b": weight(5)},
    )
    x = RNG.standard_normal((40, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, widths={"a0": 4}, calibrate={"x": x, "s": np.arange(1, 41).astype(kind)})
    assert made.refit is not None
    refitted, ranked = made.refit.errors["refitted"], made.refit.errors["ranked"]
    assert refitted is not None
    assert ranked is not None
    assert refitted < 0.5 * ranked


def test_a_network_without_anything_to_narrow_is_refused_as_without_inputs() -> None:
    model = network(
        "g (float[n,3,6,6] x) => (float[m,k,i,j] y) { y = Conv (x, w, b) }",
        {"w": weight(5, 3, 1, 1), "b": weight(5)},
    )
    said = []
    for data in (None, {"x": RNG.standard_normal((40, 3, 6, 6)).astype(np.float32)}):
        with pytest.raises(Refused) as caught:
            cg.plan(model, macs=0.5, calibrate=data)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_layer_too_large_to_be_fitted_is_compensated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a Flatten 288 features, of 40 inputs: what follows from the channels that stay is found."""
    monkeypatch.setattr("conet_graph.calibration.large.MOST_FEATURES", 100)
    monkeypatch.setattr("conet_graph.calibration.statistics.MOST_DETAIL", 100)
    first = redundant(8, 3, 1, 1)
    model = network(
        "g (float[n,3,6,6] x) => (float[m,k] y)"
        " { a0 = Conv (x, w0)  h = Relu (a0)  f = Flatten (h)  y = Gemm <transB=1> (f, w, b) }",
        {"w0": first, "w": weight(5, 8 * 36), "b": weight(5)},
    )
    x = RNG.standard_normal((40, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, widths={"a0": 4}, calibrate={"x": x})
    new = RNG.standard_normal((8, 3, 6, 6)).astype(np.float32)
    (wanted,), (found,) = answers(model, x=new), answers(cg.rewrite(model, made), x=new)
    assert np.abs(wanted - found).max() < 0.02 * np.abs(wanted).max()


def test_memory_bounds_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conet_graph.calibration.memory.MOST_BYTES", 200_000)
    model = network(
        "g (float[n,3,6,6] x) => (float[m,k,i,j] y) { a0 = Conv (x, w0)  h = Relu (a0)  y = Conv (h, w, b) }",
        {"w0": weight(8, 3, 1, 1), "w": weight(5, 8, 1, 1), "b": weight(5)},
    )
    x = RNG.standard_normal((96, 3, 6, 6)).astype(np.float32)
    made = cg.plan(model, macs=0.5, calibrate={"x": x})
    assert made.refit is not None
    assert any("of 96 inputs were used" in sentence for sentence in made.refit.left)


def test_nothing_is_left_for_a_norm_that_comes_first() -> None:
    # The sum is fitted, so of each of its channels the best guess is what it has: scale 1, shift 0.
    rng = np.random.default_rng(6)
    sizes = {"w0": (8, 3, 3, 3), "w1": (16, 8, 3, 3), "w2": (8, 16, 3, 3), "w3": (5, 8, 1, 1)}
    weights = {name: rng.standard_normal(size) / np.sqrt(np.prod(size[1:])) for name, size in sizes.items()}
    norms = {f"s{k}": rng.uniform(0.5, 1.5, 8) for k in (1, 2)}
    norms |= {f"{part}{k}": rng.standard_normal(8) / 2 for part in "tm" for k in (1, 2)}
    norms |= {f"v{k}": np.ones(8) for k in (1, 2)}
    body = """g (float[n,3,6,6] x) => (float[m,k,i,j] y, float[m2,8,6,6] n2) {
        a = Conv <pads=[1,1,1,1]> (x, w0)
        n1 = BatchNormalization (a, s1, t1, m1, v1)  h1 = Relu (n1)
        b = Conv <pads=[1,1,1,1]> (h1, w1)  h2 = Relu (b)
        c = Conv <pads=[1,1,1,1]> (h2, w2)  d = Add (a, c)
        n2 = BatchNormalization (d, s2, t2, m2, v2)  h3 = Relu (n2)
        y = Conv (h3, w3) }"""
    model = network(body, {**weights, **norms})
    x = rng.standard_normal((480, 3, 6, 6)).astype(np.float32)
    narrowed = cg.rewrite(model, cg.plan(model, widths={"b": 3}, calibrate={"x": x}, samples=480))
    new = rng.standard_normal((64, 3, 6, 6)).astype(np.float32)
    wanted, found = answers(model, x=new)[1], answers(narrowed, x=new)[1]
    wanted, found = (np.moveaxis(v, 1, 0).reshape(8, -1) for v in (wanted, found))
    plain = np.square(wanted - found).mean()
    fits = [np.polyfit(a, b, 1) for a, b in zip(found, wanted, strict=True)]
    best = np.mean(
        [np.square(np.polyval(f, a) - b).mean() for f, a, b in zip(fits, found, wanted, strict=True)]
    )
    assert plain > 0.005 * wanted.var()  # the branch lost something
    assert best > 0.97 * plain


@pytest.mark.parametrize("layer", ["Conv <group=8, pads=[1,1]>", "ConvTranspose <group=8, strides=[2]>"])
def test_a_depthwise_layer_is_fitted_with_the_channels_it_has_left(layer: str) -> None:
    # What reaches it is not what it was, and its scales and offsets make up for some of that.
    rng = np.random.default_rng(7)
    shapes = {"w0": (12, 3, 3), "w1": (8, 12, 1), "k": (8, 1, 3), "e": (8,), "w": (5, 8, 1)}
    weights = {name: rng.standard_normal(s) / np.sqrt(max(np.prod(s[1:]), 1)) for name, s in shapes.items()}
    model = network(
        f"""g (float[n,3,20] x) => (float[m,k1,i] y) {{
            a = Conv (x, w0)  r = Relu (a)  b = Conv (r, w1)  h = Relu (b)
            d = {layer} (h, k, e)  s = Relu (d)  y = Conv (s, w) }}""",
        weights,
    )
    x = rng.standard_normal((320, 3, 20)).astype(np.float32)
    made = cg.plan(model, widths={"a": 3, "b": 5}, calibrate={"x": x}, samples=320)
    assert made.refit is not None
    assert not made.refit.left
    (fit,) = (fit for fit in made.refit.layers if fit.name == "d")
    assert fit.ridge is not None
    assert fit.after < fit.before
    assert cg.verify(model, cg.rewrite(model, made), made).ok
