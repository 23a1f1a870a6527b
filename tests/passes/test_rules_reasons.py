"""What is told of frozen channels is true, and names the operator that freezes them."""

from __future__ import annotations

import pytest
from golden_text import parsed
from rewidth_case import free, graph_of, rewidthed

from conet_graph.analysis.analysis import analysis_of
from conet_graph.ir.errors import Refused

HEAD = "agraph (float[N,3,6,6] x) => (float[] y)"
NUMBERS = (
    "int64[1] nought = {0}, int64[1] one = {1}, int64[1] nine = {9}, int64[1] last = {-1},"
    " int64[8] pads = {0,0,0,0,0,1,0,0}"
)
WEIGHTS = "float[8,3,1,1] w, float[5,8,1,1] wy"

REASONS = {
    "a vector of as many entries as there are pixels": (
        "a = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(a) s = Softmax<axis=-1>(t)"
        " z = Transpose<perm=[0,3,1,2]>(s)",
        "Softmax 's' selects among them (kept by default)",
    ),
    "channels pooled like pixels": (
        "a = Conv(x, w) t = Transpose<perm=[0,2,1,3]>(a)"
        " p = AveragePool<kernel_shape=[2,1], strides=[2,1]>(t)"
        " q = Transpose<perm=[0,2,1,3]>(p) z = Concat<axis=1>(q, q)",
        "AveragePool 'p' joins them with an axis that carries no channels",
    ),
    "channel differences": (
        "a = Conv(x, w) n = Slice(a, one, nine, one) m = Slice(a, nought, last, one) d = Sub(n, m)"
        " z = Pad(d, pads)",
        "Sub 'd' joins each channel with its neighbour",
    ),
}


@pytest.mark.parametrize("kind", REASONS)
def test_the_operator_that_freezes_is_named(kind: str) -> None:
    body, told = REASONS[kind]
    net = parsed(f"{HEAD}<{WEIGHTS}, {NUMBERS}>{{{body} y = Conv(z, wy)}}")
    found = analysis_of(graph_of(net))
    layer = next(x for x in found.layers if x.weight == "w")
    whys = [g.reason for g in found.groups if g.id in layer.out_groups]
    assert whys == [told]


def test_differences_two_apart_can_lose_every_second_channel() -> None:
    net = parsed(
        f"{HEAD}<float[8,3,1,1] w, float[5,6,1,1] wy, {NUMBERS}, int64[1] two = {{2}}, int64[1] six = {{6}}>"
        "{a = Conv(x, w) n = Slice(a, two, nine, one) m = Slice(a, nought, six, one) d = Sub(n, m)"
        " y = Conv(d, wy)}"
    )
    assert free(net) == [(8, 4)]
    assert rewidthed(net, widths={"w": 4}).shape("wy") == (5, 3, 1, 1)


def test_a_layer_s_own_reason_is_told() -> None:
    """Two layers, frozen for different reasons that meet in one class: each is told its own."""
    net = parsed(
        f"{HEAD}<float[8,3,1,1] w, float[3,8,1,1] wy>"
        "{a = Conv(x, w) p = Softmax<axis=1>(a) b = Conv(p, wy) y = Add(b, x)}"
    )
    with pytest.raises(Refused, match="Softmax 'p' selects"):
        rewidthed(net, widths={"w": 4})
    with pytest.raises(Refused, match=r"graph input 'x'|graph output 'y'"):
        rewidthed(net, widths={"wy": 4})


def test_limits_are_blamed_only_where_there_are_any() -> None:
    net = parsed(
        f"{HEAD}<float[8,3,1,1] w, float[8,4,1,1] wg, float[5,8,1,1] wy>"
        "{a = Conv(x, w) g = Conv<group=2>(a, wg) y = Conv(g, wy)}"
    )
    with pytest.raises(Refused, match=r"With --multiple-of nothing changes") as limited:
        rewidthed(net, scale=0.9, multiple_of=8)
    assert "--keep" not in str(limited.value)
    with pytest.raises(Refused, match="g0 moves 2 of its 8 channels at once") as unlimited:
        rewidthed(net, scale=0.99)
    assert "--" not in str(unlimited.value)
