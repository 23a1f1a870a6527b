"""Scores of channels, worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from rewidth_case import graph_of

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting import ranking
from conet_graph.rewriting.ranking import importance
from tests.graphs import GraphBuilder

# Two 1x1 convolutions with two channels between them: out of (3, 0) and (0, 1), into (4) and (1).
FIRST = np.array([[3, 0], [0, 1]], np.float32).reshape(2, 2, 1, 1)
SECOND = np.array([[4, 1]], np.float32).reshape(1, 2, 1, 1)


def two_convs(
    first: np.ndarray = FIRST, second: np.ndarray = SECOND, scale: list[float] | None = None
) -> Graph:
    b = GraphBuilder()
    x = b.input("x", ["N", first.shape[1], 4, 4])
    a = b.conv(x, len(first), weight=b.const(first, "a.weight"), bias=False)
    if scale is not None:
        rest = [b.const(np.full(len(first), v, np.float32)) for v in (0, 0, 1)]
        a = b.op("BatchNormalization", a, b.const(np.array(scale, np.float32), "scale"), *rest)
    b.output(b.conv(b.relu(a), len(second), weight=b.const(second, "b.weight"), bias=False))
    return graph_of(b.build())


def scores(graph: Graph, how: str, seed: int = 0) -> list[float]:
    """Scores of the only free group, in the order of its channels."""
    channels = graph.result(CHANNELS)
    (group,) = (g for g in channels.groups if g.free)
    return importance(graph, how, seed)[group.classes].tolist()


def test_l2_is_the_root_of_all_squares_of_a_channel_over_the_mean() -> None:
    # sqrt(9 + 16) = 5 and sqrt(1 + 1).
    mean = (5 + 2**0.5) / 2
    assert scores(two_convs(), "l2") == pytest.approx([5 / mean, 2**0.5 / mean])


def test_l1_is_the_sum_of_all_magnitudes_of_a_channel_over_the_mean() -> None:
    assert scores(two_convs(-FIRST), "l1") == pytest.approx([7 / 4.5, 2 / 4.5])


def test_bn_is_the_magnitude_of_the_scale() -> None:
    assert scores(two_convs(scale=[-1, 3]), "bn") == pytest.approx([0.5, 1.5])


def test_bn_without_a_batch_norm_is_l2() -> None:
    assert scores(two_convs(), "bn") == scores(two_convs(), "l2")


def test_first_falls_with_the_position() -> None:
    weight = np.ones((4, 2, 1, 1), np.float32)
    found = scores(two_convs(weight, np.ones((1, 4, 1, 1), np.float32)), "first")
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4


def test_fpgm_is_the_distance_to_all_others() -> None:
    # Distances 3 + 7, 3 + 4 and 7 + 4: the one in the middle goes first.
    first = np.array([[1, 0], [1, 3], [1, 7]], np.float32).reshape(3, 2, 1, 1)
    found = scores(two_convs(first, np.ones((1, 3, 1, 1), np.float32)), "fpgm")
    assert found == pytest.approx([10 / (28 / 3), 7 / (28 / 3), 11 / (28 / 3)])


def test_fpgm_counts_all_weights_of_a_channel() -> None:
    # Those that read a channel tell channels apart, too: 1, 4 and 8.
    first = np.array([[1, 0], [1, 1], [1, 2]], np.float32).reshape(3, 2, 1, 1)
    second = np.array([1, 4, 8], np.float32).reshape(1, 3, 1, 1)
    found = scores(two_convs(first, second), "fpgm")
    near, far, wide = (1 + 9) ** 0.5, (4 + 49) ** 0.5, (1 + 16) ** 0.5
    sums = np.array([near + far, near + wide, far + wide])
    assert found == pytest.approx((sums / sums.mean()).tolist())


def test_random_depends_on_the_seed_alone() -> None:
    assert scores(two_convs(), "random", 3) == scores(two_convs(-FIRST), "random", 3)
    assert scores(two_convs(), "random", 3) != scores(two_convs(), "random", 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["l2", "l1"])
def test_a_channel_that_is_not_finite_scores_as_the_best_of_its_group(value: float, how: str) -> None:
    first = np.array([1, 1, 2], np.float32).reshape(3, 1, 1, 1)
    first[0] = value
    # The others are worth 1 and 2: it counts as 2, and costs them nothing.
    found = scores(two_convs(first, np.zeros((1, 3, 1, 1), np.float32)), how)
    assert found == pytest.approx([2 / (5 / 3), 1 / (5 / 3), 2 / (5 / 3)])


def test_weights_that_are_all_zero_or_all_nan_score_alike() -> None:
    for value in (0, np.nan):
        first = np.full_like(FIRST, value)
        assert scores(two_convs(first, np.zeros_like(SECOND)), "l2") == [1, 1]


def test_squares_beyond_the_largest_float_stay_finite() -> None:
    first = np.array([1e300, 1e200], np.float64).reshape(2, 1, 1, 1)
    b = GraphBuilder()
    x = b.input("x", ["N", 1, 4, 4], onnx.TensorProto.DOUBLE)
    a = b.conv(x, 2, weight=b.const(first, "a.weight"), bias=False)
    b.output(b.conv(a, 1, weight=b.const(np.ones((1, 2, 1, 1)), "b.weight"), bias=False))
    graph = graph_of(b.build())
    assert np.isfinite(scores(graph, "l2")).all()
    assert scores(graph, "l1") == pytest.approx([2, 2e-100])


def test_groups_are_comparable_each_has_a_mean_of_one() -> None:
    b = GraphBuilder()
    a = b.conv(b.input("x", ["N", 3, 4, 4]), 8, 3)
    c = b.conv(a, 4, 1, weight=b.const(1000 * b.rng("w").standard_normal((4, 8, 1, 1)).astype(np.float32)))
    b.output(b.conv(c, 2))
    graph = graph_of(b.build())
    channels = graph.result(CHANNELS)
    found = importance(graph, "l2")
    free = [g for g in channels.groups if g.free]
    assert [g.width for g in free] == [8, 4]
    assert [found[g.classes].mean() for g in free] == pytest.approx([1, 1])


def test_half_precision_is_read_as_numbers() -> None:
    b = GraphBuilder()
    x = b.input("x", ["N", 2, 4, 4], onnx.TensorProto.FLOAT16)
    a = b.conv(x, 2, weight=b.const(FIRST.astype(np.float16), "a.weight"), bias=False)
    b.output(b.conv(a, 1, weight=b.const(SECOND.astype(np.float16), "b.weight"), bias=False))
    assert scores(graph_of(b.build()), "l2") == scores(two_convs(), "l2")


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_the_size_of_the_pieces_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(s).astype(np.float32) for s in ((5, 3, 3, 3), (2, 5, 1, 4)))
    whole = scores(two_convs(first, second), "l2")
    monkeypatch.setattr(ranking, "CHUNK", chunk)
    assert scores(two_convs(first, second), "l2") == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18, 1e25])
def test_squares_that_float32_cannot_hold_count_too(scale: float) -> None:
    """The ranking adds up in float32 where it has room, and in float64 where it has not."""
    apart = np.array([1.0, 1e-12], np.float32).reshape(2, 1, 1, 1)  # squares 1e-24 apart
    for unit in (np.float32(1), apart):
        plain, scaled = (
            scores(two_convs(FIRST * unit * s, SECOND * s), "l2") for s in (1.0, np.float32(scale))
        )
        assert scaled == pytest.approx(plain, rel=1e-6)


def test_each_copy_of_a_channel_counts() -> None:
    """A flattened channel is four columns of the Gemm: all of them belong to its score."""
    b = GraphBuilder()
    a = b.conv(
        b.input("x", ["N", 1, 2, 2]), 2, weight=b.const(np.zeros((2, 1, 1, 1), np.float32)), bias=False
    )
    columns = np.array([[1, 1, 1, 1, 0, 0, 0, 4]], np.float32)
    b.output(b.op("Gemm", b.flatten(a), b.const(columns, "fc.weight"), transB=1))
    assert scores(graph_of(b.build()), "l2") == pytest.approx([2 / 3, 4 / 3])


def test_wrong_requests() -> None:
    with pytest.raises(BadUsage, match="choose one of l2, l1, bn, fpgm, first, random"):
        importance(two_convs(), "l3")
    with pytest.raises(BadUsage, match="0 or more"):
        importance(two_convs(), "random", -1)
