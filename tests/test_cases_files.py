"""Public reports of structural pruners that went wrong, as small networks: files, targets and reports."""

from __future__ import annotations

import io
import json
from pathlib import Path

import golden_text
import numpy as np
import onnx
import pytest
import torch
from golden_text import parsed
from onnx import TensorProto, numpy_helper
from rewidth_case import free, graph_of, produced_by, reason, rewidthed

import conet_graph as cg
from conet_graph.analysis.analysis import analysis_of
from conet_graph.cli import run
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.rewriting import latency_meter

IMAGE = "agraph (float[N,3,6,6] x) => (float[N,D,E,F] y)"
PLAIN = (
    IMAGE + "<float[16,3,1,1] wa, float[16] ba, float[64,16,1,1] wb, float[5,64,1,1] wy>"
    "{a = Conv(x, wa, ba) r = Relu(a) b = Conv(r, wb) s = Relu(b) y = Conv(s, wy)}"
)


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    return golden_text.run(model)


def with_array(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """A copy of a model with another value of one weight."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return copy


def array_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def test_c30_frozen_parameters() -> None:
    """A module exported with requires_grad off analyses and rewrites like one with it on."""
    files = []
    for trained in (True, False):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
        module.requires_grad_(trained)
        file = io.BytesIO()
        torch.onnx.export(module.eval(), (torch.zeros(1, 3, 4, 4),), file, dynamo=False)
        files.append(onnx.load_from_string(file.getvalue()))
    assert free(files[0]) == free(files[1]) == [(8, 1)]
    first, second = (rewidthed(file, scale=0.5).arrays() for file in files)
    assert first.keys() == second.keys()
    assert {a.shape for a in first.values()} == {(4, 3, 1, 1), (4,), (4, 4, 1, 1)}
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_c34_every_output_keeps_its_width() -> None:
    """A feature map that is an output as well as an input of the classifier stays, like the logits."""
    net = parsed(
        "agraph (float[N,3,6,6] x) => (float[N,10] y, float[N,D,E,F] b)"
        "<float[8,3,1,1] wa, float[6,8,1,1] wb, float[10,6] wy> {a = Conv(x, wa) b = Conv(a, wb)"
        "g = GlobalAveragePool(b) f = Flatten(g) y = Gemm<transB=1>(f, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert "graph output 'b'" in reason(net, "wb")
    assert "graph output 'y'" in reason(net, "wy")
    slim = rewidthed(net, scale=0.5)
    assert [slim.shape(w)[:2] for w in ("wa", "wb", "wy")] == [(4, 3), (6, 4), (10, 6)]
    with pytest.raises(Refused, match="graph output"):
        rewidthed(net, widths={"wy": 5})


def test_c35_no_width_falls_to_zero() -> None:
    """However small the scale, one channel (or the least asked for) stays; a target below that is refused."""
    net = parsed(PLAIN)
    assert [rewidthed(net, scale=0.001).shape(w)[:2] for w in ("wa", "wb", "wy")] == [(1, 3), (1, 1), (5, 1)]
    least = rewidthed(net, scale=0.001, min_width=3)
    assert [least.shape(w)[:2] for w in ("wa", "wb", "wy")] == [(3, 3), (3, 3), (5, 3)]
    with pytest.raises(Refused, match="the closest is 10,"):
        rewidthed(net, params=3.0)  # 3 + 1 + 1 + 5 numbers are left at width 1


def test_c36_rounding_never_gives_zero() -> None:
    """A width of 16 in multiples of 16 stays 16, and one of 64 is halved."""
    slim = rewidthed(parsed(PLAIN), scale=0.5, multiple_of=16)
    assert [slim.shape(w)[:2] for w in ("wa", "wb", "wy")] == [(16, 3), (32, 16), (5, 32)]
    with pytest.raises(Refused, match="nothing changes"):
        rewidthed(parsed(PLAIN), scale=15 / 16, multiple_of=64)


def test_c37_a_latency_target_in_multiples_of_eight() -> None:
    """Widths for a target of latency keep to the multiple; what was measured decides."""
    net = parsed(PLAIN)
    seen: list[int] = []

    def channels_left(copies: np.ndarray) -> float:
        seen.append(int(copies.sum()))
        return float(seen[-1])

    whole = len(graph_of(net).result(CHANNELS).units.frozen_class)
    slim = rewidthed(net, latency_ms=whole - 40.0, measure_latency=channels_left, multiple_of=8)
    widths = [slim.shape("wa")[0], slim.shape("wb")[0]]
    assert all(w % 8 == 0 and w > 0 for w in widths)
    assert sum(widths) <= 80 - 40
    assert min(seen) <= whole - 40
    graph = graph_of(net)
    assert latency_meter(graph)(np.ones(whole, np.int64)) > 0
    with pytest.raises(Refused, match="closest"):
        rewidthed(net, latency_ms=1e-9, measure_latency=channels_left)


def test_c43_what_a_dropped_bias_was_worth() -> None:
    """A channel that is constant behind its norm: dropping it costs that constant, and nothing else."""
    net = parsed(
        IMAGE + "<float[4,3,1,1] wa, float[4] g = {0.0, 1.0, 2.0, 3.0}, float[4] b, float[4] m, float[4] v,"
        "float[5,4,1,1] wy>"
        "{a = Conv(x, wa) n = BatchNormalization(a, g, b, m, v) r = Relu(n) y = Conv(r, wy)}"
    )
    slim = rewidthed(net, widths={"wa": 3}, importance="bn")
    assert slim.kept("wa", 0) == [1, 2, 3]
    assert slim.report.exact
    constant = np.maximum(array_of(net, "b")[0], 0)
    absorbed = constant * array_of(net, "wy")[:, 0].reshape(1, 5, 1, 1)
    assert np.abs(absorbed).min() > 0.01
    (whole,), (left,) = outputs(net), outputs(slim.proto)
    np.testing.assert_allclose(whole - left, np.broadcast_to(absorbed, whole.shape), rtol=1e-3, atol=1e-4)


def test_c45_long_skip_chains() -> None:
    """A U of 500 levels, each with a skip across: no recursion, a size for each level and side."""
    levels = 500
    nodes, weights, below = [], [], "x"
    for k in range(levels):
        weights.append(f"float[2,{3 if k == 0 else 2},1,1] d{k}, float[2,4,1,1] u{k}")
        nodes.append(f"a{k} = Conv({below}, d{k})")
        below = f"a{k}"
    for k in reversed(range(levels)):
        nodes.append(f"c{k} = Concat<axis=1>({below}, a{k}) b{k} = Conv(c{k}, u{k})")
        below = f"b{k}"
    net = onnx.parser.parse_model(
        f"{golden_text.HEADER} agraph (float[1,3,2,2] x) => (float[1,2,2,2] {below})"
        f"<{', '.join(weights)}> {{{' '.join(nodes)}}}"
    )
    assert len(net.graph.node) == 3 * levels
    for value in list(net.graph.value_info):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        net.graph.initializer.append(numpy_helper.from_array(np.ones(dims, np.float32), value.name))
    del net.graph.value_info[:]
    assert free(net) == [(2, 1)] * (2 * levels - 1)


@pytest.mark.parametrize("declared", ["float[N,6,6,6] c, ", ""], ids=["known shape", "unknown shape"])
def test_c46_what_is_frozen_names_what_blocks_it(declared: str) -> None:
    """An operator of another domain freezes what it touches and is named; the rest stays free."""
    net = parsed(
        f'<ir_version: 8, opset_import: ["": 17, "other": 1]> {IMAGE} <{declared}float[8,3,1,1] wa,'
        "float[6,8,1,1] wb, float[7,6,1,1] wc, float[5,7,1,1] wy> {a = Conv(x, wa) b = Conv(a, wb)"
        "c = other.Wave(b) d = Conv(c, wc) y = Conv(d, wy)}"
    )
    net.graph.node[2].name = "wave_1"
    assert free(net) == [(8, 1), (7, 1)]
    analysis = analysis_of(graph_of(net))
    (blocking,) = analysis.unsupported
    assert (blocking.op, blocking.node) == ("other::Wave", "wave_1")
    frozen = {g.id: g for g in analysis.groups if not g.free}
    assert "b" in {name for g in blocking.freezes for name in frozen[g].producers}
    assert all("wave_1" in str(frozen[g].reason) for g in blocking.freezes)


def test_c47_costs_are_those_of_the_new_file() -> None:
    """Two branches, concatenated, and one added: parameters and MACs as counted by hand."""
    net = parsed(
        "agraph (float[1,3,6,6] x) => (float[1,5,6,6] y) <float[8,3,1,1] wa, float[6,3,3,3] wb,"
        "float[14,3,1,1] ws, float[5,14,1,1] wy> {a = Conv(x, wa) b = Conv<pads=[1,1,1,1]>(x, wb)"
        "c = Concat<axis=1>(a, b) s = Conv(x, ws) t = Add(c, s) y = Conv(t, wy)}"
    )
    assert free(net) == [(8, 1), (6, 1)]
    new = rewidthed(net, widths={"wa": 4, "wb": 5})
    facts = cg.analyze(LoadedModel(new.proto)).model
    weights = 4 * 3 + 5 * 3 * 9 + 9 * 3 + 5 * 9
    assert facts.parameters == weights
    assert facts.macs == 36 * weights


def test_c48_the_file_is_smaller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No masks: the weights of the written file have the new shapes, and what went is printed."""
    onnx.save(parsed(PLAIN), tmp_path / "net.onnx")
    command = ["rewrite", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "slim.onnx"), "--scale", "0.25"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    before, after = 16 * 3 + 16 + 64 * 16 + 5 * 64, 4 * 3 + 4 + 16 * 4 + 5 * 16
    assert told["parameters"] == {"old": before, "new": after}
    stored = sum(numpy_helper.to_array(t).size for t in onnx.load(tmp_path / "slim.onnx").graph.initializer)
    assert stored == after
    shrunk = (tmp_path / "net.onnx").stat().st_size - (tmp_path / "slim.onnx").stat().st_size
    assert shrunk >= 4 * (before - after) * 0.95


def test_c49_a_transformer_block_written_out() -> None:
    """LayerNorm in nine operators and linear layers as MatMul and Add: inner size free, width tied."""
    net = parsed(
        "agraph (float[N,3,4,4] x) => (float[N,T,D] y)"
        "<float[8,3,1,1] wa, int64[3] to = {0, 8, -1}, float two = {2.0}, float eps = {0.00001}, float[8] g,"
        "float[8] b, float[8,12] w1, float[12] b1, float[12,8] w2, float[8] b2, float[8,5] wy>"
        "{a = Conv(x, wa) r = Reshape(a, to) t = Transpose<perm=[0,2,1]>(r) m = ReduceMean<axes=[-1]>(t)"
        "d = Sub(t, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s)"
        "o = Mul(n, g) p = Add(o, b) h = MatMul(p, w1) h1 = Add(h, b1) u = Relu(h1) k = MatMul(u, w2)"
        "k1 = Add(k, b2) z = Add(k1, t) y = MatMul(z, wy)}"
    )
    assert free(net) == [(8, 1), (12, 1)]
    inner = rewidthed(net, widths={"w1": 7})
    assert [inner.shape(w) for w in ("w1", "b1", "w2")] == [(8, 7), (7,), (7, 8)]
    outer = rewidthed(net, exact=False, widths={"wa": 6})
    assert [outer.shape(w) for w in ("g", "b", "w1", "w2", "b2", "wy")] == [
        *[(6,)] * 2,
        *[(6, 12), (12, 6)],
        *[(6,), (6, 5)],
    ]
    assert outer.numbers("r", 1)[1] == 6
    assert any("ReduceMean" in told or "'m'" in told for told in outer.report.inexact_because)


@pytest.mark.parametrize("form", ["Constant", "Identity", "Transpose", "Cast", "DequantizeLinear"])
def test_c50_weights_that_nodes_hold(form: str) -> None:
    """A convolution's weight behind a node: the channels are found, and the file stays exact."""
    numbers = ", ".join(["0.5"] * 23 + ["1.0"])
    made = {
        "Constant": ("", f"w = Constant<value = float[8,3,1,1] {{{numbers}}}>()"),
        "Identity": ("float[8,3,1,1] held, ", "w = Identity(held)"),
        "Transpose": ("float[3,8,1,1] held, ", "w = Transpose<perm=[1,0,2,3]>(held)"),
        "Cast": ("float16[8,3,1,1] held, ", "w = Cast<to=1>(held)"),
        "DequantizeLinear": (
            "int8[8,3,1,1] held, float scale = {0.1}, int8 zero = {0}, ",
            "w = DequantizeLinear(held, scale, zero)",
        ),
    }
    declared, node = made[form]
    net = parsed(
        f"{IMAGE}<{declared}float[8] ba, float[5,8,1,1] wy> {{{node} a = Conv(x, w, ba) y = Conv(a, wy)}}"
    )
    assert free(net) == [(8, 1)]
    for width in (5, 9):
        new = rewidthed(net, widths={"a": width})
        assert new.shape("wy") == (5, width, 1, 1)
        held = new.arrays().get("held")
        if held is not None:
            assert sorted(held.shape) == sorted((width, 3, 1, 1))


@pytest.mark.parametrize("opset", range(7, 25))
def test_c51_every_opset(opset: int) -> None:
    """Conv, norm, pool, transpose, flatten and a mean, from opset 7 to 24."""
    mean = "m = ReduceMean<keepdims=0>(t, ax)" if opset >= 18 else "m = ReduceMean<axes=[2], keepdims=0>(t)"
    axes = "int64[1] ax = {2}, " if opset >= 18 else ""
    net = parsed(
        f'<ir_version: {8 if opset < 21 else 10}, opset_import: ["": {opset}]>'
        "agraph (float[N,3,6,6] x) => (float[N,D] y) <float[8,3,3,3] wa, float[8] s, float[8] b, float[8] m0,"
        f"float[8] v, {axes}float[24,5] wy, float[5] by>"
        "{a = Conv<pads=[1,1,1,1]>(x, wa) n = BatchNormalization(a, s, b, m0, v)"
        "p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(n) t = Transpose<perm=[0,1,3,2]>(p)"
        f"{mean} f = Flatten(m) y = Gemm(f, wy, by)}}"
    )
    assert free(net) == [(8, 1)]
    for width in (5, 9):
        new = rewidthed(net, widths={"wa": width})
        assert new.shape("wy") == (3 * width, 5)
        assert {i.domain: i.version for i in new.proto.opset_import} == {"": opset}


def test_c52_old_forms_of_operators() -> None:
    """BatchNormalization-7, Dropout-7, Flatten-1 and a Slice whose numbers are attributes."""
    net = parsed(
        '<ir_version: 3, opset_import: ["": 8]> agraph (float[N,3,6,6] x) => (float[N,D] y)'
        "<float[8,3,1,1] wa, float[8] s, float[8] b, float[8] m, float[8] v, float[5,216] wy, float[5] by>"
        "{a = Conv(x, wa) n = BatchNormalization(a, s, b, m, v) d = Dropout<ratio=0.5>(n)"
        "c = Slice<axes=[1], starts=[2], ends=[8]>(d) f = Flatten(c) y = Gemm<transB=1>(f, wy, by)}"
    )
    outside, inside = produced_by(net, "wa")
    new = rewidthed(net, widths={inside: 4, outside: 1})
    assert new.shape("wa") == (5, 3, 1, 1)
    assert new.shape("wy") == (5, 4 * 36)
    assert (new.attr("c", "starts"), new.attr("c", "ends")) == ([1], [5])


@pytest.mark.parametrize("form", ["one initializer", "Identity"])
def test_c54_equal_biases_stored_once(form: str) -> None:
    """One vector of zeros for three layers of equal width: each layer gets its own when it changes."""
    copies = form == "Identity"
    names = ["z", "z1", "z2"] if copies else ["z"] * 3
    nodes = "z1 = Identity(z) z2 = Identity(z) " if copies else ""
    net = parsed(
        IMAGE + "<float[4,3,1,1] wa, float[4,4,1,1] wb, float[4,4,1,1] wc, float[4] z = {0.5, 0.5, 0.5, 0.5},"
        f"float[5,4,1,1] wy> {{{nodes}a = Conv(x, wa, {names[0]}) b = Conv(a, wb, {names[1]})"
        f"c = Conv(b, wc, {names[2]}) y = Conv(c, wy)}}"
    )
    assert free(net) == [(4, 1)] * 3
    slim = rewidthed(net, widths={"wa": 1, "wb": 2, "wc": 3})
    for k, layer in enumerate("abc"):
        assert slim.shape(slim.node(layer).input[2]) == (k + 1,)


def test_c54_a_weight_that_two_layers_share_ties_them() -> None:
    """One weight applied twice is a real tie, and stays one tensor."""
    net = parsed(
        IMAGE + "<float[4,3,1,1] wa, float[4,4,1,1] w, float[5,4,1,1] wy>"
        "{a = Conv(x, wa) b = Conv(a, w) r = Relu(b) c = Conv(r, w) y = Conv(c, wy)}"
    )
    assert free(net) == [(4, 1)]
    slim = rewidthed(net, widths={"wa": 3})
    assert slim.shape("w") == (3, 3, 1, 1)
    assert slim.node("b").input[1] == slim.node("c").input[1] == "w"


def test_c55_what_is_simplified_means_the_same() -> None:
    """A Slice of everything, an Identity and a Dropout: the file as it was is what must be equalled."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, int64[1] zero = {0}, int64[1] all = {9223372036854775807},"
        "int64[1] one = {1}, float[5,8,1,1] wy> {a = Conv(x, wa) i = Identity(a)"
        "s = Slice(i, zero, all, one) d = Dropout(s) y = Conv(d, wy)}"
    )
    assert free(net) == [(8, 1)]
    slim = rewidthed(net, widths={"wa": 5})
    masked = array_of(net, "wy").copy()
    masked[:, [k for k in range(8) if k not in slim.kept("wa", 0)]] = 0
    (want,), (have,) = outputs(with_array(net, "wy", masked)), outputs(slim.proto)
    np.testing.assert_allclose(have, want, rtol=1e-5)


def test_c56_a_batch_of_minus_one() -> None:
    """Exporters write -1 for a free batch: read as unknown, and free in the new file."""
    net = parsed(PLAIN)
    for value in (net.graph.input[0], net.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    slim = rewidthed(net, scale=0.5)
    assert slim.shape("wb") == (32, 8, 1, 1)
    assert [r["inputs"]["x"][0] for r in slim.report.runs] == [1, 2]
    assert slim.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value <= 0


@pytest.mark.parametrize("command", [False, True], ids=["Python", "command line"])
def test_c57_external_data(tmp_path: Path, command: bool) -> None:
    """Weights beside the model file are read there, and written beside the new one."""
    net = parsed(
        PLAIN.replace("float[64,16,1,1]", "float[64,16,5,5]").replace("(r, wb)", "<pads=[2,2,2,2]>(r, wb)")
    )
    onnx.save(net, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=64)
    source, target = tmp_path / "net.onnx", tmp_path / "out.onnx"
    if command:
        assert run(["rewrite", str(source), "-o", str(target), "--scale", "0.5"]) == 0
    else:
        model = cg.load(source)
        cg.save(cg.rewrite(model, cg.plan(model, scale=0.5)), target)
    bare = onnx.load(target, load_external_data=False)
    held = {t.name: t for t in bare.graph.initializer}
    assert held["wb"].data_location == TensorProto.EXTERNAL
    assert not held["wb"].raw_data
    assert target.stat().st_size < 4 * 32 * 8 * 25
    slim = {t.name: tuple(t.dims) for t in onnx.load(target).graph.initializer}
    assert slim["wb"] == (32, 8, 5, 5)
