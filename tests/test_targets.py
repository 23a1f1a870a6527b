"""From requests to widths: scales, names, targets, and what cannot be met."""

from __future__ import annotations

from typing import Any

import golden_text
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from rewidth_case import graph_of

from conet_graph.analysis.layers import find_layer
from conet_graph.costs.cost import Cost, cost
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.named_widths import find_groups
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from tests.graphs import GraphBuilder

MACS = 64 * (3 * 9 * 16 + 16 * 32 + 32 * 10)
PARAMETERS = (27 + 1) * 16 + (16 + 1) * 32 + (32 + 1) * 10


def chain(*widths: int) -> Graph:
    """Convolutions 'a', 'b', ... of the given widths on 8x8 pixels, then 'last' of ten, which is frozen."""
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 8, 8])
    for k, width in enumerate(widths):
        x = b.relu(b.conv(x, width, 3 if k == 0 else 1, name="abcdefgh"[k]))
    b.output(b.conv(x, 10, name="last"))
    return graph_of(b.build())


def widths(graph: Graph, **request: Any) -> list[int]:
    """New width of each free group."""
    copies = choose_copies(graph, WidthRequest(**request))
    return [int(copies[g.classes].sum()) * g.multiple for g in free(graph)]


def free(graph: Graph) -> list[Any]:
    channels = graph.result(CHANNELS)
    return [g for g in channels.groups if g.free]


def cost_at(graph: Graph, copies: NDArray[np.int64]) -> Cost:
    """Cost of the network that is really rewritten."""
    return cost(graph_of(rewrite_model(graph, lay_out(graph, copies))))


def test_the_chain_costs_what_is_written_above() -> None:
    found = cost(chain(16, 32))
    assert (found.parameters, found.macs) == (PARAMETERS, MACS)


# -- scale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"scale": 0.5}, [8, 16]),
        ({"scale": 0.3}, [4, 8]),  # 4.8 is too far from 8, 9.6 is not
        ({"scale": 0.3, "multiple_of": 1}, [5, 10]),
        ({"scale": 0.7}, [8, 24]),  # 11.2 and 22.4
        ({"scale": 0.3, "multiple_of": 4}, [4, 8]),
        ({"scale": 0.35, "multiple_of": 4}, [4, 12]),  # 5.6 and 11.2
        ({"scale": 0.001}, [1, 1]),
        ({"scale": 0.75}, [12, 24]),  # not the 16 that are there, to which 12 is as near as to 8
        ({"scale": 0.9}, [14, 28]),  # 14.4 and 28.8: of multiples of 8 or 4 one stays at 16
        ({"scale": 1.1}, [18, 36]),  # 17.6 and 35.2
        ({"scale": 0.3, "min_width": 12}, [12, 16]),
        ({"scale": 0.3, "min_width": 20, "multiple_of": 1}, [16, 20]),  # narrowing never widens
        ({"scale": 0.3, "min_width": 9, "multiple_of": 4}, [12, 12]),
        ({"scale": 1.0}, [16, 32]),
        ({"scale": 1.5}, [24, 48]),
        ({"scale": 1.2, "multiple_of": 8}, [16, 40]),  # 19.2 and 38.4
        ({"scale": 0.5, "keep": ("a",)}, [16, 16]),
        ({"scale": 0.5, "widths": {"b": 20}}, [8, 20]),
    ],
)
def test_scale(request_: dict[str, Any], expected: list[int]) -> None:
    assert widths(chain(16, 32), **request_) == expected


def test_a_width_that_is_no_multiple_becomes_one() -> None:
    assert widths(chain(12, 3), scale=1.0, multiple_of=8) == [8, 3]  # 3 channels cannot
    assert widths(chain(12, 3), scale=1.1, multiple_of=8) == [16, 8]


def test_copies_are_handed_out_in_turn() -> None:
    graph = chain(4)
    copies = choose_copies(graph, WidthRequest(scale=2.5))
    assert copies[free(graph)[0].classes].tolist() == [3, 3, 2, 2]


def test_the_least_important_channels_go() -> None:
    b = GraphBuilder()
    weight = np.array([1, 5, 2, 4], np.float32).reshape(4, 1, 1, 1)
    a = b.conv(b.input("x", ["N", 1, 4, 4]), 4, weight=b.const(weight), bias=False)
    b.output(b.conv(a, 1, weight=b.const(np.ones((1, 4, 1, 1), np.float32)), bias=False))
    graph = graph_of(b.build())
    classes = free(graph)[0].classes
    assert choose_copies(graph, WidthRequest(scale=0.5))[classes].tolist() == [0, 1, 0, 1]
    assert choose_copies(graph, WidthRequest(scale=0.5, importance="first"))[classes].tolist() == [1, 1, 0, 0]


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b", "b.weight", "g1", "s1"])
def test_a_group_a_size_a_layer_and_its_weight_are_names(name: str) -> None:
    assert widths(chain(16, 32), widths={name: 24}) == [16, 24]
    assert widths(chain(16, 32), scale=0.5, keep=(name,)) == [8, 32]


def halves() -> Graph:
    """A convolution of 8 + 24 channels that are split, and read by two convolutions."""
    b = GraphBuilder()
    one, two = b.split(b.conv(b.input("x", ["N", 3, 8, 8]), 32, name="a"), [8, 24])
    b.output(b.add(b.conv(one, 5), b.conv(two, 5)))
    return graph_of(b.build())


@pytest.mark.parametrize(
    ("width", "expected"), [(16, [4, 12]), (64, [16, 48]), (10, [3, 7]), (2, [1, 1]), (3, [1, 2])]
)
def test_groups_of_one_layer_keep_their_proportions(width: int, expected: list[int]) -> None:
    assert widths(halves(), widths={"a": width}) == expected
    assert widths(halves(), widths={"s0": width}) == expected


def test_fewer_channels_than_parts_are_not_possible() -> None:
    with pytest.raises(BadUsage, match=r"cannot be 1 wide: its channels are 2 sizes .* give 2"):
        widths(halves(), widths={"a": 1})


def grouped() -> Graph:
    b = GraphBuilder()
    a = b.conv(b.input("x", ["N", 3, 8, 8]), 16, name="a")
    b.output(b.conv(b.conv(a, 16, 3, group=4, name="grouped"), 5))
    return graph_of(b.build())


def test_widths_that_the_group_cannot_have() -> None:
    assert widths(grouped(), widths={"a": 8}) == [8, 16]
    with pytest.raises(BadUsage, match=r"cannot be 10 wide: its channels move 4 at once.* give 8 or 12"):
        widths(grouped(), widths={"a": 10})
    with pytest.raises(BadUsage, match=r"cannot be 0 wide: .* give 4"):
        widths(grouped(), widths={"a": 0})
    assert widths(grouped(), scale=0.6, multiple_of=3) == [12, 12]  # 9.6, in steps of 12


def test_a_layer_s_width_is_counted_on_its_own_output() -> None:
    """After a pixel shuffle there is a quarter of the channels."""
    b = GraphBuilder()
    up = b.op("DepthToSpace", b.conv(b.input("x", ["N", 3, 8, 8]), 32, name="a"), blocksize=2)
    b.output(b.conv(b.conv(up, 8, 3, group=8, name="dw"), 5))
    graph = graph_of(b.build())
    assert widths(graph, widths={"a": 16}) == [16]
    assert widths(graph, widths={"dw": 4}) == [16]


def test_names_that_are_wrong() -> None:
    graph = chain(16, 32)
    with pytest.raises(BadUsage, match="no layer or group 'lats'; close are 'last'"):
        widths(graph, widths={"lats": 4})
    with pytest.raises(BadUsage, match="no layer or group 'z'"):
        widths(graph, scale=0.5, keep=("z",))
    with pytest.raises(Refused, match="'last' cannot change: graph output"):
        widths(graph, widths={"last": 5})
    with pytest.raises(BadUsage, match="'a' and 'g0' have the same channels"):
        widths(graph, widths={"a": 4, "g0": 8})
    with pytest.raises(BadUsage, match="'a' is to be 4 wide, but 'g0' is to stay"):
        widths(graph, widths={"a": 4}, keep=("g0",))
    assert widths(graph, widths={"a": 4, "g0": 4}) == [4, 32]


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 2.5])
@pytest.mark.parametrize("what", ["parameters", "macs"])
def test_a_target_is_met_from_below_within_two_percent(what: str, share: float, uniform: bool) -> None:
    graph = chain(16, 32, 24)
    goal = share * getattr(cost(graph), what)
    option = "params" if what == "parameters" else what
    # Above one a target is absolute.
    asked = {option: share if share < 1 else goal}
    request = WidthRequest(**asked, uniform=uniform, multiple_of=1)
    reached = getattr(cost_at(graph, choose_copies(graph, request)), what)
    assert 0.98 * goal <= reached <= goal
    aligned = getattr(cost_at(graph, choose_copies(graph, WidthRequest(**asked, uniform=uniform))), what)
    assert 0.95 * goal <= aligned <= goal


def test_a_fraction_and_its_number_are_one_target() -> None:
    assert widths(chain(16, 32), macs=0.5) == widths(chain(16, 32), macs=MACS / 2)


def test_a_cost_that_can_be_had_exactly_is_had() -> None:
    graph = chain(16)
    for width in range(1, 40):
        if width != 16:
            assert widths(graph, macs=64 * (27 + 10) * width, multiple_of=1) == [width]


def test_bytes_of_weights() -> None:
    graph = chain(16, 32, 24)
    goal = 0.5 * 4 * cost(graph).parameters
    for request in (WidthRequest(weight_bytes=0.5), WidthRequest(weight_bytes=goal)):
        assert 0.98 * goal <= 4 * cost_at(graph, choose_copies(graph, request)).parameters <= goal


def test_uniform_takes_the_same_share_everywhere_and_ranking_does_not() -> None:
    b = GraphBuilder()
    a = b.conv(b.input("x", ["N", 3, 8, 8]), 40, name="a", bias=False)
    # Half of the channels of 'a' are worth next to nothing.
    weak = np.where(np.arange(40) % 2, 1.0, 1e-3).astype(np.float32)
    a = b.mul(a, b.const(weak.reshape(1, 40, 1, 1)))
    for tensor in b.initializers:
        if tensor.name == "a.weight":
            array = np.tile(weak.reshape(40, 1, 1, 1), (1, 3, 1, 1))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "a.weight"))
    second = np.tile(weak.reshape(1, 40, 1, 1), (40, 1, 1, 1))
    c = b.conv(a, 40, name="c", weight=b.const(second, "c.weight"), bias=False)
    b.output(b.conv(c, 10, weight=b.const(np.ones((10, 40, 1, 1), np.float32)), bias=False))
    graph = graph_of(b.build())
    # Multiplications a pixel are 3a + ac + 10c: 2120 with all, and without the weak half of 'a' and 4 of
    # the channels of 'c', which are all alike, 60 + 720 + 360.
    assert widths(graph, macs=64 * 1140, multiple_of=1) == [20, 36]
    assert widths(graph, macs=64 * 1148, uniform=True, multiple_of=1) == [28, 28]  # 84 + 784 + 280


def test_limits_hold_in_targets_too() -> None:
    found = widths(chain(16, 32, 24), macs=0.5, multiple_of=4, min_width=8)
    assert all(w % 4 == 0 and w >= 8 for w in found)
    assert widths(chain(16, 32, 24), macs=0.5, keep=("b",))[1] == 32
    assert widths(chain(16, 32, 24), macs=0.5, widths={"b": 30})[1] == 30


def test_named_widths_count_towards_the_target() -> None:
    graph = chain(16, 32)
    # 'b' alone meets it: nothing else moves; 'b' made wider: 'a' pays for it.
    assert widths(graph, macs=0.9, widths={"b": 8}) == [16, 8]
    narrow = widths(graph, macs=MACS * 1.1, widths={"b": 64})
    assert narrow[1] == 64
    assert narrow[0] < 16


def test_targets_out_of_reach_name_the_closest() -> None:
    # One channel each: 64 * (27 + 1 + 10) MACs; 64 times as wide: 64 * (27 * 1024 + 1024 * 2048 + 20480).
    with pytest.raises(Refused, match="1000 MACs cannot be reached: the closest is 2432,"):
        widths(chain(16, 32), macs=1000)
    with pytest.raises(Refused, match=r"1e\+12 MACs cannot be reached: the closest is 1\.373e\+08,"):
        widths(chain(16, 32), macs=1e12)
    with pytest.raises(Refused, match="closest is 2432"):
        widths(chain(16, 32), macs=1e-6, uniform=True)


def test_macs_of_an_image_of_any_size_are_a_share() -> None:
    b = GraphBuilder()
    b.output(b.conv(b.conv(b.input("x", ["N", 3, "H", "W"]), 8), 5))
    graph = graph_of(b.build())
    assert widths(graph, macs=0.5) == [4]  # n channels cost 3n + 5n a pixel
    assert widths(graph, params=0.5) == [3]  # n channels cost 4n + 5n + 5: 77, 32
    with pytest.raises(BadUsage, match="1e\\+04 MACs depend on the size of the inputs"):
        widths(graph, macs=10_000)
    assert widths(graph, macs=10_000, input_shapes={"x": (1, 3, 25, 10)}) == [5]


def test_exchanges_find_what_single_steps_do_not() -> None:
    """A small network meets its target whenever some widths do, by all widths tried."""

    def macs(a: int, b: int) -> int:
        return 64 * (27 * a + a * b + 10 * b)

    for share in np.arange(0.3, 0.95, 0.05):
        goal = share * macs(8, 16)
        best = max(m for a in range(1, 9) for b in range(1, 17) if (m := macs(a, b)) <= goal)
        reached = macs(*widths(chain(8, 16), macs=float(share), multiple_of=1))
        assert reached <= goal
        assert reached >= min(0.98 * goal, best)


def test_latency_is_measured_on_candidates() -> None:
    graph = chain(16, 32)

    def meter(copies: NDArray[np.int64]) -> float:
        return float(sum(copies[g.classes].sum() for g in free(graph)))

    found = widths(graph, latency_ms=24.0, measure_latency=meter, multiple_of=1)
    assert 22 <= sum(found) <= 24
    with pytest.raises(Refused, match="runs in 48 milliseconds already"):
        widths(graph, latency_ms=50.0, measure_latency=meter)
    with pytest.raises(Refused, match="closest is 2,"):
        widths(graph, latency_ms=1.0, measure_latency=meter, multiple_of=1)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"scale": 0.5, "macs": 0.5},
        {"scale": float("nan")},
        {"scale": 0.0},
        {"scale": 65.0},
        {"macs": float("nan")},
        {"params": -1.0},
        {"params": float("inf")},
        {"latency_ms": 5.0},
        {"scale": 0.5, "multiple_of": 0},
        {"scale": 0.5, "min_width": 0},
        {"scale": 0.5, "importance": "size"},
    ],
)
def test_requests_that_make_no_sense(request_: dict[str, Any]) -> None:
    with pytest.raises(BadUsage):
        widths(chain(4), **request_)


SELECTED = {
    "attention among channels": "t = Transpose<perm=[0,2,1]>(f) s = MatMul(f, t) p = Softmax<axis=-1>(s)"
    " q = MatMul(p, f) m = Reshape(q, back) y = Conv(m, wy)",
    "the first of the largest": "k = ArgMax<axis=1>(f) c = Cast<to=1>(k) y = Mul(c, c)",
    "a softmax whose weights mix pixels": "p = Softmax<axis=1>(f) m = Reshape(p, back) y = Conv(m, wy)",
}


@pytest.mark.parametrize("kind", SELECTED)
def test_what_frees_channels_that_only_a_default_keeps_is_said(kind: str) -> None:
    net = golden_text.parsed(
        "agraph (float[1,3,4,4] x) => (float[] y)<float[8,3,1,1] w, float[5,8,1,1] wy,"
        f" int64[3] flat = {{1,8,16}}, int64[4] back = {{1,8,4,4}}>"
        f"{{a = Conv(x, w) f = Reshape(a, flat) {SELECTED[kind]}}}"
    )
    with pytest.raises(Refused, match=r"kept by default.*--free-kept frees what is kept by default"):
        widths(graph_of(net), scale=0.5)


def test_nothing_may_change() -> None:
    b = GraphBuilder()
    b.output(b.conv(b.input("x", ["N", 3, 8, 8]), 10, name="only"))
    graph = graph_of(b.build())
    with pytest.raises(Refused, match="Nothing may change in this network: graph output 'only'") as told:
        widths(graph, scale=0.5)
    assert "--free-kept" not in str(told.value)
    with pytest.raises(Refused, match="nothing changes"):
        widths(chain(4), scale=0.5, keep=("a",))
    with pytest.raises(Refused, match="nothing changes"):
        widths(chain(16, 32), scale=1.1, multiple_of=16)


def test_the_same_request_gives_the_same_channels() -> None:
    for how in ("l2", "random"):
        request = WidthRequest(macs=0.5, importance=how, seed=5)
        one, two = (choose_copies(chain(16, 32, 24), request) for _ in range(2))
        assert one.tolist() == two.tolist()


def test_a_layer_is_named_by_its_weight_also_behind_a_transpose() -> None:
    source = """net (float[N,3] x) => (float[] end) <float[8,3] fc_w, float[8,5] we> {
        turned = Transpose<perm = [1, 0]>(fc_w) y = MatMul(x, turned) end = MatMul(y, we) }"""
    graph = golden_text.after_pass(golden_text.parsed(source), "assign_channels")
    assert find_groups(graph, "fc_w") == {0: 1}
    assert find_layer(graph, "fc_w").op.outputs == ["y"]
    assert widths(graph, widths={"fc_w": 6}) == [6]


def test_a_goal_out_of_reach_names_the_groups_that_move_as_a_whole() -> None:
    """Two grouped convolutions with a shuffle between them: every channel is tied to all others."""
    body = (
        "a = Conv(x, w) b = Conv<group=3>(a, c) r = Reshape(b, apart) t = Transpose<perm=[0,2,1,3,4]>(r)"
        " s = Reshape(t, back) d = Conv<group=3>(s, e) y = Conv(d, v)"
    )
    weights = (
        "float[9,3,1,1] w, float[15,3,1,1] c, float[9,5,1,1] e, float[2,9,1,1] v,"
        " int64[5] apart = {0,3,5,4,4}, int64[4] back = {0,15,4,4}"
    )
    graph = graph_of(
        golden_text.parsed(f"agraph (float[1,3,4,4] x) => (float[1,2,4,4] y) <{weights}> {{{body}}}")
    )
    with pytest.raises(Refused, match=r"1 of \d free groups cannot be narrower, because all of .*: g\d\.$"):
        choose_copies(graph, WidthRequest(macs=0.1))
