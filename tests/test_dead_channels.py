"""Channels that change nothing: which are found, and that a network without them gives the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from dead_case import count_dead, planted, without_dead
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from rewidth_case import graph_of

from conet_graph.cli import run
from conet_graph.dead_channels.alike import alike
from conet_graph.dead_channels.curves import FREQUENT
from conet_graph.dead_channels.facts import Along, constants_alike
from conet_graph.dead_channels.find import dead_channels
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.verification import verify
from tests.graphs import GraphBuilder
from tests.strategies import DISCONTINUOUS, models

WIDTH = 6
Step = Callable[[GraphBuilder, str], str]


def weight(*shape: int, zero_rows: int = 0) -> np.ndarray:
    """Random numbers, the same for the same shape."""
    made = np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
    made[:zero_rows] = 0
    return made


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def network(middle: Step, last: Step) -> onnx.ModelProto:
    b = GraphBuilder()
    b.output(last(b, middle(b, b.input("x", ["N", 3, 8, 8]))))
    return b.build()


def first(b: GraphBuilder, x: str, w: np.ndarray, bias: np.ndarray | None = None) -> str:
    inputs = [x, b.const(w)] + ([] if bias is None else [b.const(bias)])
    return b.op("Conv", *inputs, kernel_shape=list(w.shape[2:]), pads=[w.shape[2] // 2] * 4)


def pointwise(b: GraphBuilder, x: str) -> str:
    """A consumer that takes constants into its bias."""
    return b.op("Conv", x, b.const(weight(4, b.channels(x), 1, 1)), b.const(weight(4)))


def padded(b: GraphBuilder, x: str) -> str:
    """A consumer at whose border a constant channel is none."""
    return b.op("Conv", x, b.const(weight(4, b.channels(x), 3, 3)), b.const(weight(4)), pads=[1, 1, 1, 1])


def batch_norm(b: GraphBuilder, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    rest = [b.const(weight(len(scale))), b.const(np.ones(len(scale), np.float32))]
    return b.op("BatchNormalization", x, b.const(scale), b.const(shift), *rest)


def zero_rows(b: GraphBuilder, x: str) -> str:
    bias = vector(0, 0.5, -1, 1, 1, 1)
    return b.relu(first(b, x, weight(WIDTH, 3, 3, 3, zero_rows=3), bias))


def slimmed(b: GraphBuilder, x: str) -> str:
    x = first(b, x, weight(WIDTH, 3, 3, 3))
    return b.relu(batch_norm(b, x, vector(0, 0, 1, 1, 1, 1), vector(0, -2, 1, 1, 1, 1)))


def never_positive(b: GraphBuilder, x: str) -> str:
    """Numbers from 0 to 1, weights that sum to at most 3, and a bias of -3: the ReLU lets nothing through."""
    w = np.abs(weight(WIDTH, 3, 1, 1))
    w[0], w[1] = 1, 0.1
    return b.relu(first(b, b.sigmoid(x), w, vector(-3, -0.4, 0, 0, 0, 0)))


def beyond_the_clip(b: GraphBuilder, x: str) -> str:
    """Above 6 whatever the input is: the clip makes it a constant."""
    w = np.abs(weight(WIDTH, 3, 1, 1))
    return b.clip(first(b, b.relu(x), w, vector(7, 6, 0, 0, 0, 0)), 0, 6)


def doubled(b: GraphBuilder, x: str) -> str:
    """Channel 1 is half of channel 0, channel 2 its opposite, which a ReLU does not keep."""
    w, bias = weight(WIDTH, 3, 3, 3), weight(WIDTH)
    w[1], bias[1], w[2], bias[2] = w[0] / 2, bias[0] / 2, -w[0], -bias[0]
    return b.relu(first(b, x, w, bias))


def doubled_then_normed(b: GraphBuilder, x: str) -> str:
    """The BatchNorm makes channel 1 three times channel 0, and channel 3 another function of channel 2."""
    w = weight(WIDTH, 3, 3, 3)
    w[1], w[3] = 2 * w[0], w[2]
    x = b.op("Conv", x, b.const(w), pads=[1, 1, 1, 1])
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    scale, shift = vector(1, 1.5, 1, 1, 1, 1), vector(0.2, 0.6, 0.3, 0.4, 0, 0)
    return b.relu(b.op("BatchNormalization", x, *[b.const(v) for v in (scale, shift, zeros, ones)]))


def tied(b: GraphBuilder, x: str) -> str:
    """A residual sum: channels 0 and 1 are zero on one side, channels 1 and 2 on the other."""
    left, right = weight(WIDTH, 3, 1, 1), weight(WIDTH, 3, 1, 1)
    left[:2], right[1:3] = 0, 0
    return b.add(first(b, x, left), first(b, x, right))


def depthwise(b: GraphBuilder, x: str) -> str:
    x = first(b, x, weight(WIDTH, 3, 3, 3, zero_rows=2))
    w = weight(WIDTH, 1, 3, 3)
    w[2] = 0
    return b.op("Conv", x, b.const(w), group=WIDTH, pads=[1, 1, 1, 1])


def gated(b: GraphBuilder, x: str) -> str:
    """Squeeze and excite: zero times a gate is zero."""
    x = b.relu(first(b, x, weight(WIDTH, 3, 3, 3, zero_rows=2), np.zeros(WIDTH, np.float32)))
    gate = b.sigmoid(b.op("Conv", b.gap(x), b.const(weight(WIDTH, WIDTH, 1, 1)), b.const(weight(WIDTH))))
    return b.mul(x, gate)


def focus(b: GraphBuilder, x: str) -> str:
    """The odd and the even rows of the same channels: alike in name only, and none a multiple of another."""
    x = first(b, x, weight(3, 3, 3, 3))
    return b.concat(b.slice(x, 0, 8, 2, 2), b.slice(x, 1, 8, 2, 2))


def to_pixels(b: GraphBuilder, x: str) -> str:
    """Only channels that are zero in all four positions are gone behind a pixel shuffle."""
    w = weight(16, 3, 3, 3)
    w[[0, 4, 8, 12, 1]] = 0
    return b.op("DepthToSpace", first(b, x, w), blocksize=2)


def every_third(b: GraphBuilder, x: str) -> str:
    """Of six channels, tied by threes, the second of each three is taken: not the first, which is zero."""
    return b.slice(first(b, x, weight(WIDTH, 3, 3, 3, zero_rows=1)), 1, 6, 1, 3)


def unheard(b: GraphBuilder, x: str) -> str:
    """Nobody hears channels 0 and 1 of the second layer, nor channel 2 of the first but through them."""
    x = b.relu(first(b, x, weight(WIDTH, 3, 3, 3)))
    w = np.abs(weight(WIDTH, WIDTH, 1, 1))
    w[2:, 2] = 0
    x = b.relu(first(b, x, w))
    last = weight(4, WIDTH, 1, 1)
    last[:, :2] = 0
    return first(b, x, last)


def gemm(b: GraphBuilder, x: str) -> str:
    return b.op("Gemm", b.flatten(x), b.const(weight(5, 64 * WIDTH)), b.const(weight(5)), transB=1, beta=0.5)


def normed(b: GraphBuilder, x: str) -> str:
    x = b.op("Conv", x, b.const(weight(WIDTH, b.channels(x), 1, 1)))
    return batch_norm(b, x, np.abs(weight(WIDTH)), weight(WIDTH))


def matmul(b: GraphBuilder, x: str) -> str:
    x = b.transpose(x, 0, 2, 3, 1)
    return b.add(b.matmul(x, b.const(weight(WIDTH, 5))), b.const(weight(5)))


def same(b: GraphBuilder, x: str) -> str:
    return x


@pytest.mark.parametrize(
    ("middle", "last", "dead"),
    [
        (zero_rows, pointwise, 3),
        # The constant 0.5 stays: at the border it is none. Zeros and what ReLU makes of -1 go.
        (zero_rows, padded, 2),
        (zero_rows, gemm, 3),
        (zero_rows, normed, 3),
        (zero_rows, matmul, 3),
        (slimmed, padded, 2),
        (slimmed, pointwise, 2),
        (never_positive, pointwise, 2),
        # Two constants of 6: one of them speaks for both where they meet a border.
        (beyond_the_clip, pointwise, 2),
        (beyond_the_clip, padded, 1),
        (doubled, padded, 1),
        (doubled, gemm, 1),
        (doubled_then_normed, padded, 1),
        (tied, pointwise, 1),
        (depthwise, pointwise, 3),
        (gated, pointwise, 2),
        (focus, pointwise, 0),
        (to_pixels, pointwise, 1),
        (every_third, pointwise, 0),
        (unheard, same, 3),
    ],
)
def test_dead_channels_are_counted_and_go_without_loss(middle: Step, last: Step, dead: int) -> None:
    graph = graph_of(network(middle, last))
    assert count_dead(graph) == dead
    if not dead:
        with pytest.raises(Refused, match="No channel"):
            choose_copies(graph, WidthRequest(lossless=True))
        return
    plan, _, report = without_dead(graph)
    assert plan.lossless
    assert report.ok, report.failures
    assert report.equality == "passed"


def test_what_verification_compares_with_is_the_original_itself() -> None:
    """A constant that is not taken into a bias is found out."""
    graph = graph_of(network(zero_rows, pointwise))
    plan, _, _ = without_dead(graph)
    (absorbed,) = (tensor for tensor in plan.tensors.values() if tensor.offset is not None)
    absorbed.offset = None
    assert not verify(graph, rewritten(graph, plan), plan).ok


@pytest.mark.parametrize("how", ["l2", "l1", "bn", "first", "random"])
def test_every_ranking_drops_the_dead_first(how: str) -> None:
    """However loud the weights are that hear them."""
    b = GraphBuilder()
    x = slimmed(b, b.input("x", ["N", 3, 8, 8]))
    loud = weight(4, WIDTH, 3, 3)
    loud[:, :2] = 1000
    b.output(first(b, x, loud))
    graph = graph_of(b.build())
    copies = choose_copies(graph, WidthRequest(scale=4 / WIDTH, importance=how))
    made, layout = planned(graph, copies, "keep", noise=False, seed=0)
    assert made.lossless
    assert made.groups[0].dead == [0, 1]
    assert verify(graph, rewritten(graph, made, layout), made).ok


def test_dead_and_living_channels_go_together() -> None:
    graph = graph_of(network(zero_rows, pointwise))
    copies = choose_copies(graph, WidthRequest(scale=2 / WIDTH))
    made, layout = planned(graph, copies, "keep", noise=False, seed=0)
    assert (made.groups[0].new_width, made.groups[0].dead, made.lossless) == (2, [0, 1, 2], False)
    assert verify(graph, rewritten(graph, made, layout), made).ok


def test_what_was_widened_goes_back() -> None:
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", ["N", 3, 8, 8]), 8, 3))
    b.output(b.conv(b.relu(b.conv(x, 12, 3)), 4))
    graph = graph_of(b.build())
    copies = choose_copies(graph, WidthRequest(scale=2.0))
    wide = graph_of(rewritten(graph, *planned(graph, copies, "keep", noise=True, seed=0)))
    plan, _, report = without_dead(wide)
    assert [(g.old_width, g.new_width) for g in plan.groups] == [(16, 8), (24, 12)]
    assert report.ok, report.failures


def test_a_group_keeps_a_channel_and_multiples_are_kept() -> None:
    nothing = graph_of(network(lambda b, x: first(b, x, weight(WIDTH, 3, 1, 1, zero_rows=6)), padded))
    assert without_dead(nothing)[0].groups[0].new_width == 1
    some = graph_of(network(lambda b, x: first(b, x, weight(WIDTH, 3, 1, 1, zero_rows=3)), padded))
    for request, width in (
        (WidthRequest(lossless=True, multiple_of=2), 4),
        (WidthRequest(lossless=True, min_width=5), 5),
    ):
        made = planned(some, choose_copies(some, request), "keep", noise=False, seed=0)[0]
        assert made.groups[0].new_width == width


def test_half_floats() -> None:
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 8, 8], TensorProto.FLOAT16)
    w = weight(WIDTH, 3, 1, 1, zero_rows=2)
    x = b.op(
        "Conv", x, b.const(w.astype(np.float16)), b.const(vector(0.5, -1, 1, 1, 1, 1).astype(np.float16))
    )
    last = [weight(4, WIDTH, 1, 1).astype(np.float16), weight(4).astype(np.float16)]
    b.output(b.op("Conv", b.relu(x), *[b.const(v) for v in last]))
    graph = graph_of(b.build())
    assert count_dead(graph) == 2
    assert without_dead(graph)[2].ok


def test_what_looks_across_channels_hears_them_all() -> None:
    """A LayerNorm over channels: the mean counts the zeros."""
    b = GraphBuilder()
    x = first(b, b.input("x", ["N", 3, 8, 8]), weight(WIDTH, 3, 1, 1, zero_rows=2))
    x = b.transpose(x, 0, 2, 3, 1)
    x = b.op("LayerNormalization", x, b.const(np.ones(WIDTH, np.float32)), axis=-1)
    b.output(b.matmul(x, b.const(weight(WIDTH, 5))))
    assert count_dead(graph_of(b.build())) == 0


def test_weights_that_are_no_numbers_are_alive() -> None:
    w = weight(WIDTH, 3, 1, 1)
    w[0, 0] = np.nan
    assert count_dead(graph_of(network(lambda b, x: b.relu(first(b, x, w)), pointwise))) == 0


def test_a_mask_that_the_file_multiplies_with_counts() -> None:
    """torch.nn.utils.prune, exported before prune.remove: the weight is a product of two constants."""
    mask = np.ones((WIDTH, 3, 1, 1), np.float32)
    mask[1::2] = 0

    def pruned(b: GraphBuilder, x: str) -> str:
        return b.op("Conv", x, b.mul(b.const(weight(WIDTH, 3, 1, 1)), b.const(mask)))

    graph = graph_of(network(pruned, padded))
    assert count_dead(graph) == 3
    assert without_dead(graph)[2].ok


def test_the_command_says_what_it_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(zero_rows, pointwise), tmp_path / "model.onnx")
    model, out, plan = (str(tmp_path / name) for name in ("model.onnx", "out.onnx", "plan.json"))
    assert run(["analyze", model]) == 0
    assert (
        "3 dead channels, which 'rewrite --lossless' drops without loss: 3 of g0" in capsys.readouterr().out
    )
    assert run(["rewrite", model, "-o", out, "--lossless", "--plan", plan]) == 0
    told = capsys.readouterr().out
    assert "3 dead channels dropped, no others: the original's own outputs are kept" in told
    assert "not kept" not in told
    assert run(["verify", model, out, "--plan", plan]) == 0
    capsys.readouterr()
    assert run(["rewrite", out, "-o", str(tmp_path / "again.onnx"), "--lossless"]) == 1
    assert "No channel of this network can go" in capsys.readouterr().err


def test_one_kind_of_request_at_a_time() -> None:
    graph = graph_of(network(zero_rows, padded))
    with pytest.raises(BadUsage, match="--macs and --lossless"):
        choose_copies(graph, WidthRequest(lossless=True, macs=0.5))


def test_a_plan_in_json_keeps_offsets_and_merges() -> None:
    for middle, last in ((zero_rows, pointwise), (doubled, padded)):
        plan, _, _ = without_dead(graph_of(network(middle, last)))
        assert Plan.loads(plan.dumps()).dumps() == plan.dumps()
        assert '"offset"' in plan.dumps() or '"merge"' in plan.dumps()


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=DISCONTINUOUS), st.integers(0, 10**6))
def test_random_networks_without_their_dead_channels_give_the_same(model: onnx.ModelProto, seed: int) -> None:
    graph = graph_of(planted(model, seed))
    if count_dead(graph):
        try:
            plan, _, report = without_dead(graph)
        except Refused:
            return  # all that is dead is the last channel of its group
        assert plan.lossless
        assert report.ok, report.failures


def test_masked_and_plain_facts_differ_where_channels_may_go() -> None:
    """Without a constant that a border needs, what is computed from it is another constant."""
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 8, 8])
    x = b.relu(first(b, x, weight(2, 3, 1, 1, zero_rows=2), vector(1, 2)))
    left = b.op("Conv", x, b.const(np.ones((4, 2, 1, 1), np.float32)))
    b.output(b.op("Conv", left, b.const(weight(3, 4, 1, 1)), b.const(weight(3))))
    b.output(padded(b, x))
    graph = graph_of(b.build())
    assert dead_channels(graph).idle.sum() == 4
    assert dead_channels(graph, masked=True).idle.sum() == 0


LIMITS = {"Clip": (-0.5, 6.0), "Dropout": (0.5,)}
SHAPES = {
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
    "Cast": {"to": 1},
    "Elu": {"alpha": 0.7},
    "Swish": {"alpha": 1.5},
}
SINCE = {"Mish": 18, "Swish": 24}


@pytest.mark.parametrize("kind", sorted(FREQUENT))
def test_a_curve_has_the_values_of_the_reference(kind: str) -> None:
    x = np.array([-80.0, -7.5, -0.5, -0.1, 0.0, 0.25, 3.0, 6.0, 80.0], np.float32)
    b = GraphBuilder(opset=SINCE.get(kind, 17))
    limits = [b.const(np.array(v, np.float32)) for v in LIMITS.get(kind, ())]
    b.output(b.op(kind, b.input("x", [len(x)]), *limits, **SHAPES.get(kind, {})))
    op = graph_of(b.build()).operators[0]
    with np.errstate(over="ignore", invalid="ignore"):
        (expected,) = ReferenceEvaluator(b.build()).run(None, {"x": x})
        found = FREQUENT[kind](op, x.astype(np.float64), *LIMITS.get(kind, ()))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)


def test_a_clip_of_an_old_file_has_its_limits_in_attributes() -> None:
    b = GraphBuilder(opset=10)
    b.output(b.op("Clip", b.input("x", [4]), min=-1.0, max=2.0))
    op = graph_of(b.build()).operators[0]
    assert FREQUENT["Clip"](op, np.array([-3.0, 0.5, 2.0, 9.0])).tolist() == [-1.0, 0.5, 2.0, 2.0]


@pytest.mark.parametrize("length", [1, 31, 33, 300])
@pytest.mark.parametrize("empty", [0, 40])
def test_multiples_are_found_however_rows_begin(length: int, empty: int) -> None:
    """Rows 0, 2 and 4 are multiples of one another; of those that begin alike only these are."""
    rows = weight(6, length) if length > 1 else np.array([[1], [0], [2], [0], [-3], [0]], np.float32)
    rows[2], rows[4] = 2 * rows[0], -3 * rows[0]
    rows = np.concatenate([np.zeros((6, empty), np.float32), rows], axis=1)
    number, factor = alike(rows, np.zeros(6, np.int64))
    assert number.tolist() == [0, 1, 0, 3, 0, 5]
    np.testing.assert_allclose(factor[[2, 4]] / factor[0], [2, -3], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 40])
def test_many_short_rows_are_told_apart(width: int) -> None:
    """Rows of a few numbers lie close to many others, and every second one may be the same."""
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((3000, width)).astype(np.float32)
    rows[1000:2000] = rows[:1000] * rng.choice([-2.0, 0.5], (1000, 1)).astype(np.float32)
    rows[2000:2500:2], rows[2001:2500:2] = rows[0], rows[1] * 3
    number, factor = alike(rows, np.zeros(3000, np.int64))
    wanted = np.zeros(3000) if width == 1 else np.arange(3000)
    if width > 1:
        wanted[1000:2000] = np.arange(1000)
        wanted[2000:2500:2], wanted[2001:2500:2] = 0, 1
    np.testing.assert_array_equal(number, wanted)
    np.testing.assert_allclose(rows / factor[:, None], (rows / factor[:, None])[number], atol=1e-5)


def test_what_is_nearly_a_constant_is_no_multiple_of_one() -> None:
    """Channel 1 is a constant, and channel 0 but for a weight that no product of floats shows."""
    least = np.float32(1e-45)
    found = Along(
        np.array([-np.inf, -2.0]), np.array([np.inf, -2.0]), np.array([0, 0]), np.array([least, 1.0])
    )
    kind = constants_alike(found).kind
    assert kind[0] != kind[1]
