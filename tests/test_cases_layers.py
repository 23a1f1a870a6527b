"""Public reports of structural pruners that went wrong, as small networks: layers and what they tie."""

from __future__ import annotations

import pytest
from golden_text import parsed
from rewidth_case import free, produced_by, reason, require_equal, rewidthed

from conet_graph.ir.errors import BadUsage
from conet_graph.verification.report import Report

IMAGE = "agraph (float[N,3,6,6] x) => (float[N,D,E,F] y)"


def test_an_unequal_or_unrun_network_is_noticed() -> None:
    ran = [{"inputs": {"x": [1, 3]}}]
    require_equal(Report(equality="passed", runs=ran))
    for bad in (
        Report(equality="passed", runs=[{"skipped": "no"}]),
        Report(equality="not checked", runs=ran),
        Report(ok=False, equality="passed", runs=ran),
    ):
        with pytest.raises(AssertionError):
            require_equal(bad)


def test_c10_grouped_convolution_keeps_its_groups_equal() -> None:
    """Convolution with two groups: both sides change by one channel in each group."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[8,4,3,3] wb, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) b = Conv<group=2, pads=[1,1,1,1]>(a, wb) y = Conv(b, wy)}"
    )
    assert free(net) == [(8, 2), (8, 2)]
    slim = rewidthed(net, widths={"wa": 6, "wb": 4})
    assert [slim.shape(w) for w in ("wa", "wb", "wy")] == [(6, 3, 1, 1), (4, 3, 3, 3), (5, 4, 1, 1)]
    assert slim.attr("b", "group") == 2
    for weight, kept in (("wa", 3), ("wb", 2)):
        old = slim.kept(weight, 0)
        assert [p + 4 for p in old[:kept]] == old[kept:]
    with pytest.raises(BadUsage, match="multiple of 2"):
        rewidthed(net, widths={"wa": 5})


def test_c11_depthwise_passes_channels_on() -> None:
    """Depthwise behind a convolution: its rows and its group attribute follow."""
    net = parsed(
        IMAGE + "<float[16,3,1,1] wa, float[16,1,3,3] wd, float[16] bd, float[5,16,1,1] wy>"
        "{a = Conv(x, wa) d = Conv<group=16, pads=[1,1,1,1]>(a, wd, bd) y = Conv(d, wy)}"
    )
    assert free(net) == [(16, 1)]
    for width in (11, 21):
        new = rewidthed(net, widths={"wa": width})
        assert new.shape("wd") == (width, 1, 3, 3)
        assert new.shape("bd") == (width,)
        assert new.attr("d", "group") == width
        assert new.kept("wd", 0) == new.kept("wa", 0) == new.kept("wy", 1)


def test_c12_expand_depthwise_excite_project() -> None:
    """Inverted bottleneck with squeeze-excite: one size for all of it, another for the squeeze."""
    net = parsed(
        IMAGE + "<float[12,3,1,1] wa, float[12,1,3,3] wd, float[3,12,1,1] ws, float[12,3,1,1] we,"
        "float[4,12,1,1] wp> {a = Conv(x, wa) d = Conv<group=12, pads=[1,1,1,1]>(a, wd)"
        "g = GlobalAveragePool(d) s = Conv(g, ws) r = Relu(s) e = Conv(r, we) h = Sigmoid(e)"
        "m = Mul(d, h) y = Conv(m, wp)}"
    )
    assert free(net) == [(12, 1), (3, 1)]
    slim = rewidthed(net, widths={"wa": 7, "ws": 2})
    shapes = [slim.shape(w)[:2] for w in ("wa", "wd", "ws", "we", "wp")]
    assert shapes == [(7, 3), (7, 1), (2, 7), (7, 2), (4, 7)]
    assert slim.attr("d", "group") == slim.shape("wd")[0]


def test_c14_one_channel_is_not_depthwise() -> None:
    """One output channel, then one in and one out, all with group 1: sizes of their own."""
    net = parsed(
        IMAGE + "<float[6,3,1,1] wa, float[1,6,3,3] wb, float[1,1,3,3] wc, float[4,1,1,1] wy>"
        "{a = Conv(x, wa) b = Conv<group=1, pads=[1,1,1,1]>(a, wb)"
        "c = Conv<group=1, pads=[1,1,1,1]>(b, wc) y = Conv(c, wy)}"
    )
    assert free(net) == [(6, 1), (1, 1), (1, 1)]
    wide = rewidthed(net, widths={"wc": 3})
    assert [wide.shape(w)[:2] for w in ("wa", "wb", "wc", "wy")] == [(6, 3), (1, 6), (3, 1), (4, 3)]
    assert wide.attr("c", "group") == 1


def test_c15_a_wide_layer_before_a_single_output() -> None:
    """3 -> 40 -> 80 -> 1: the layer of 80 changes, the output does not."""
    net = parsed(
        IMAGE + "<float[40,3,1,1] wa, float[80,40,1,1] wb, float[1,80,1,1] wy>"
        "{a = Conv(x, wa) r = Relu(a) b = Conv(r, wb) s = Relu(b) y = Conv(s, wy)}"
    )
    assert free(net) == [(40, 1), (80, 1)]
    assert "graph output 'y'" in reason(net, "wy")
    slim = rewidthed(net, scale=0.5)
    assert [slim.shape(w)[:2] for w in ("wa", "wb", "wy")] == [(20, 3), (40, 20), (1, 40)]


def test_c16_transposed_convolution() -> None:
    """A transposed convolution holds its inputs on axis 0, its outputs on axis 1."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[8,8,2,2] wt, float[8] bt, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) t = ConvTranspose<strides=[2,2]>(a, wt, bt) y = Conv(t, wy)}"
    )
    assert free(net) == [(8, 1), (8, 1)]
    new = rewidthed(net, widths={"wa": 5, "wt": 3})
    assert [new.shape(w) for w in ("wt", "bt", "wy")] == [(5, 3, 2, 2), (3,), (5, 3, 1, 1)]
    assert new.kept("wt", 0) == new.kept("wa", 0)
    assert new.kept("wt", 1) == new.kept("bt", 0) == new.kept("wy", 1)


def test_c17_grouped_transposed_convolution() -> None:
    """Transposed with two groups: equal numbers stay in each group, on both sides."""
    net = parsed(
        IMAGE + "<float[16,3,1,1] wa, float[16,4,2,2] wt, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) t = ConvTranspose<group=2, strides=[2,2]>(a, wt) y = Conv(t, wy)}"
    )
    assert free(net) == [(16, 2), (8, 2)]
    for inside, outside in ((12, 6), (20, 12)):
        new = rewidthed(net, widths={"wa": inside, "wt": outside})
        assert new.shape("wt") == (inside, outside // 2, 2, 2)
        assert new.shape("wy") == (5, outside, 1, 1)
        assert new.attr("t", "group") == 2
        half, old = outside // 2, new.kept("wy", 1)
        assert [p + 4 for p in old[:half]] == old[half:]


def test_c25_a_map_of_one_channel_is_broadcast() -> None:
    """Spatial attention [N,1,H,W] times [N,C,H,W]: the mask's one channel is not one of C."""
    net = parsed(
        IMAGE + "<float[6,3,1,1] wa, float[1,3,1,1] wm, float[5,6,1,1] wy>"
        "{a = Conv(x, wa) m = Conv(x, wm) s = Sigmoid(m) p = Mul(a, s) y = Conv(p, wy)}"
    )
    assert free(net) == [(6, 1)]
    assert "broadcast" in reason(net, "wm")
    new = rewidthed(net, widths={"wa": 4})
    assert [new.shape(w)[:2] for w in ("wa", "wm", "wy")] == [(4, 3), (1, 3), (5, 4)]


def test_c26_squeeze_excite_ties_the_gate_to_what_it_gates() -> None:
    """Gate of 16 channels on a map of 16: one size; the squeeze of 8 another."""
    net = parsed(
        IMAGE + "<float[16,3,1,1] wa, float[16] g, float[16] b, float[16] m, float[16] v,"
        "float[8,16,1,1] ws, float[16,8,1,1] we, float[5,16,1,1] wy>"
        "{a = Conv(x, wa) n = BatchNormalization(a, g, b, m, v) p = GlobalAveragePool(n) s = Conv(p, ws)"
        "e = Conv(s, we) h = HardSigmoid(e) u = Mul(n, h) y = Conv(u, wy)}"
    )
    assert free(net) == [(16, 1), (8, 1)]
    assert produced_by(net, "wa") == produced_by(net, "we")
    new = rewidthed(net, widths={"wa": 10})
    assert [new.shape(w)[:2] for w in ("wa", "ws", "we", "wy")] == [(10, 3), (8, 10), (10, 8), (5, 10)]
    assert {new.shape(w) for w in "gbmv"} == {(10,)}
    squeezed = rewidthed(net, widths={"ws": 4})
    assert [squeezed.shape(w)[:2] for w in ("wa", "ws", "we")] == [(16, 3), (4, 16), (16, 4)]


def test_c27_squeeze_excite_of_linear_layers() -> None:
    """The same with Gemm between two Reshapes: their constants follow."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, int64[2] flat = {-1, 8}, float[2,8] ws, float[8,2] we,"
        "int64[4] full = {-1, 8, 1, 1}, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) p = GlobalAveragePool(a) f = Reshape(p, flat) s = Gemm<transB=1>(f, ws) r = Relu(s)"
        "e = Gemm<transB=1>(r, we) h = Sigmoid(e) g = Reshape(h, full) u = Mul(a, g) y = Conv(u, wy)}"
    )
    assert free(net) == [(8, 1), (2, 1)]
    for width in (5, 11):
        new = rewidthed(net, widths={"wa": width})
        assert new.shape("ws") == (2, width)
        assert new.shape("we") == (width, 2)
        assert new.numbers("f", 1)[1:] == [width]
        assert new.numbers("g", 1)[1:] == [width, 1, 1]


def test_c32_instance_norm() -> None:
    """Scale and bias of an instance norm follow its producer; it looks at one channel at a time."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[8] s, float[8] b, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) n = InstanceNormalization(a, s, b) y = Conv(n, wy)}"
    )
    new = rewidthed(net, widths={"wa": 3})
    assert [new.shape(w) for w in "sb"] == [(3,), (3,)]
    assert new.kept("s", 0) == new.kept("b", 0) == new.kept("wa", 0)


def test_c33_batch_norm_in_training_mode() -> None:
    """Statistics of the batch, and new running ones as further outputs, which nobody reads."""
    net = parsed(
        IMAGE + "<float[8,3,1,1] wa, float[8] s, float[8] b, float[8] m, float[8] v, float[5,8,1,1] wy>"
        "{a = Conv(x, wa) n, mean, var = BatchNormalization<training_mode=1>(a, s, b, m, v) y = Conv(n, wy)}"
    )
    assert free(net) == [(8, 1)]
    new = rewidthed(net, widths={"wa": 3})
    assert {new.shape(w) for w in "sbmv"} == {(3,)}
    assert list(new.node("n").output) == ["n", "mean", "var"]
