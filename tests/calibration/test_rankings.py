"""Rankings by calibration inputs where the right answer is known, and curves that are measured."""

from __future__ import annotations

import numpy as np
import pytest
from rewidth_case import graph_of

from conet_graph.calibration import allocation, elimination
from conet_graph.calibration.allocation import neighbours, sharpened
from conet_graph.calibration.elimination import eliminate
from conet_graph.calibration.gradients import GRADIENTS, sensitivities
from conet_graph.calibration.gram import Moments, shrunk
from conet_graph.calibration.importance import RANKINGS, knowledge_of
from conet_graph.calibration.side_by_side import Workers
from conet_graph.calibration.statistics import Reading, readings
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.knowledge import Knowledge
from tests.graphs import GraphBuilder

RNG = np.random.default_rng(0)
Array = np.ndarray


def two_convs(first: Array, second: Array) -> Graph:
    """Two 1x1 convolutions over 1x1 maps, a ReLU between them."""
    b = GraphBuilder()
    x = b.input("x", ["N", first.shape[1], 1, 1])
    a = b.conv(x, len(first), weight=b.const(first[..., None, None], "a.weight"), bias=False)
    b.output(b.conv(b.relu(a), len(second), weight=b.const(second[..., None, None], "b.weight"), bias=False))
    return graph_of(b.build())


def runs(count: int, channels: int) -> list[dict[str, Array]]:
    """Runs of one sample each."""
    return [{"x": RNG.standard_normal((1, channels, 1, 1)).astype(np.float32)} for _ in range(count)]


def free_classes(graph: Graph) -> Array:
    (group,) = (g for g in graph.result(CHANNELS).groups if g.free)
    return group.classes


@pytest.mark.parametrize("how", GRADIENTS)
def test_with_one_output_a_channel_is_worth_what_it_adds_to_it(how: str) -> None:
    first = RNG.standard_normal((5, 4)).astype(np.float32)
    second = RNG.standard_normal((1, 5)).astype(np.float32)
    graph, feeds = two_convs(first, second), runs(16, 4)
    x = np.concatenate([feed["x"][:, :, 0, 0] for feed in feeds])
    hidden = np.maximum(x @ first.T, 0)
    wanted = np.square(second[0] * hidden).mean(0) / (hidden @ second[0]).var(ddof=1)
    found = sensitivities(graph, feeds, how)[free_classes(graph)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("how", GRADIENTS)
def test_a_flattened_channel_counts_at_all_its_places(how: str) -> None:
    # Of four channels the last one's weights are ten times as large, at each of its four places.
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 2, 2])
    a = b.conv(x, 4, bias=False)
    weight = RNG.standard_normal((16, 6)).astype(np.float32)
    weight[12:] *= 10
    b.output(b.op("MatMul", b.op("Flatten", a), b.const(weight, "m.weight")))
    graph = graph_of(b.build())
    feeds = [{"x": RNG.standard_normal((8, 3, 2, 2)).astype(np.float32)} for _ in range(4)]
    found = sensitivities(graph, feeds, how)[free_classes(graph)]
    assert int(np.argmax(found)) == 3
    assert found[3] > 5 * found[:3].max()


@pytest.mark.parametrize("how", [how for how in RANKINGS if how != "first"])
def test_dead_channels_go_first_and_for_nothing(how: str) -> None:
    first, second = RNG.standard_normal((6, 4)), RNG.standard_normal((3, 6))
    first[1] = 0  # nothing comes out
    second[:, 4] = 0  # nobody listens
    second[:, 1] = 50
    first[4] = 50
    graph, feeds = two_convs(first.astype(np.float32), second.astype(np.float32)), runs(24, 4)
    known = knowledge_of(graph, readings(graph, feeds), how, feeds=feeds)
    classes = free_classes(graph)
    assert set(np.argsort(known.scores[classes])[:2].tolist()) == {1, 4}
    (number,) = (k for k, g in enumerate(graph.result(CHANNELS).groups) if g.free)
    assert [known.loss(number, gone) for gone in range(3)] == [0, 0, 0]
    assert known.loss(number, 3) > 0


def test_a_ranking_that_is_none() -> None:
    with pytest.raises(BadUsage, match="choose one of best, reconstruction, activation, taylor"):
        knowledge_of(two_convs(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)), [], "l3")


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("twins", [0, 20])
def test_channels_sought_a_few_at_a_time_go_as_one_after_the_other(
    side: int, twins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its own draw: near ties may go in another order, and in some draws many follow.
    rng = np.random.default_rng(2)
    b = GraphBuilder()
    x = b.input("x", ["N", 12, 2, 2])
    first = rng.standard_normal((64, 12, 1, 1)).astype(np.float32)
    first[64 - twins :] = 2 * first[:twins]
    h = b.relu(b.conv(x, 64, weight=b.const(first, "a.weight"), bias=False))
    weight = rng.standard_normal((10, 64, side, side)).astype(np.float32)
    b.output(b.conv(h, 10, side, weight=b.const(weight, "b.weight"), bias=False))
    graph = graph_of(b.build())
    found = readings(graph, [{"x": rng.standard_normal((32, 12, 2, 2)).astype(np.float32)} for _ in range(8)])
    read_by = [(found[-1], 1.0)]
    few = eliminate(free_classes(graph), read_by)
    monkeypatch.setattr(elimination, "MOST_SOUGHT", 1)
    one = eliminate(free_classes(graph), read_by)
    assert few is not None
    assert one is not None
    np.testing.assert_allclose(few.losses, one.losses, rtol=0.05, atol=1e-6)
    assert (few.order == one.order).mean() > 0.8
    # What is twice there goes once for nothing.
    assert few.losses[twins] < 0.05 * few.losses[-1]


@pytest.mark.parametrize("per", [1, 4])
def test_losses_are_those_of_the_best_fit_without_what_is_gone(per: int) -> None:
    # Of each class so many features; those of class -1 stay, and help to rebuild the others.
    rng = np.random.default_rng(5)
    classes = np.repeat([*range(40), -1, -1], per)
    mixed = rng.standard_normal((len(classes), len(classes))) * np.exp(-np.arange(len(classes)) / 20)
    moments = mixed @ mixed.T / len(classes)
    weight = rng.standard_normal((len(classes), 3))
    reading = Reading(
        None, classes[None], moments[None].astype(np.float32), weight[None].astype(np.float32), 1.0
    )
    made = eliminate(np.arange(40), [(reading, 1.0)])
    assert made is not None
    damped = moments + np.eye(len(classes)) * elimination.DAMPING * np.trace(moments) / len(classes)
    inverse = np.linalg.inv(damped)
    for gone in (1, 7, 25, 40):
        out = np.isin(classes, made.order[:gone])
        lost = weight[out].T @ np.linalg.solve(inverse[np.ix_(out, out)], weight[out])
        assert made.losses[gone] == pytest.approx(np.trace(lost), rel=1e-3)


def parts_of(rows: Array, count: int) -> list[Moments]:
    """Rows [n, F] in shares, summed up about zero."""
    about = np.zeros((1, 1, rows.shape[1]), np.float32)
    made = []
    for share in np.array_split(rows.astype(np.float32), count):
        made.append(Moments(about, np.zeros((1, 1, 0), np.float32)))
        made[-1].add(share[None], np.zeros((1, len(share), 0), np.float32))
        made[-1].settle()
    return made


def together(parts: list[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


def test_correlations_that_move_from_part_to_part_are_not_believed() -> None:
    parts = parts_of(RNG.standard_normal((24, 40)), 8)
    system = together(parts).system(True)
    found = shrunk(parts, system)[0]
    np.testing.assert_allclose(np.diagonal(found), np.diagonal(system.xx[0]))
    off = ~np.eye(40, dtype=bool)
    assert np.square(found[off]).sum() < 0.1 * np.square(system.xx[0][off]).sum()


def test_correlations_that_every_part_shows_are_believed() -> None:
    base = np.tile(RNG.standard_normal((16, 3)), (8, 1))
    parts = parts_of(base @ RNG.standard_normal((3, 6)), 8)
    system = together(parts).system(True)
    np.testing.assert_allclose(shrunk(parts, system), system.xx, rtol=1e-4, atol=1e-6)


def three_groups() -> Graph:
    b = GraphBuilder()
    value = b.input("x", ["N", 3, 4, 4])
    for _ in range(3):
        value = b.relu(b.conv(value, 8))
    b.output(b.conv(value, 2))
    return graph_of(b.build())


def test_curves_get_the_slopes_that_are_measured() -> None:
    graph = three_groups()
    groups = graph.result(CHANNELS).groups
    numbers = [k for k, g in enumerate(groups) if g.free]
    price = dict(zip(numbers, (1.0, 2.0, 4.0), strict=True))

    class Measured(allocation.Trials):
        def _error(self, copies: Array, pool: Workers) -> float:
            return 0.1 + sum(price[k] * int((copies[groups[k].classes] == 0).sum()) for k in numbers)

    scores = np.arange(len(graph.result(CHANNELS).units.frozen_class), dtype=np.float64)
    known = Knowledge(scores, {k: np.arange(9.0) for k in numbers})
    copies = np.ones(len(scores), np.int64)
    copies[groups[numbers[2]].classes[:7]] = 0  # as narrow as it gets: this one is widened
    trials = Measured(graph, [], None)  # type: ignore[arg-type]
    steps = np.full(len(groups), 2)
    whole, half = sharpened(known, copies, steps, neighbours(numbers, 12), trials)
    assert [whole.losses[k][1] for k in numbers] == pytest.approx([1, 2, 4])
    # Half of the way in ratios, from the middle one.
    assert [half.losses[k][1] for k in numbers] == pytest.approx([2**0.5, 2, 2 * 2**0.5])


def test_neighbours_are_measured_together() -> None:
    assert neighbours([3, 4, 6, 7, 9], 2) == [[3, 4, 6], [7, 9]]
    assert neighbours([3, 4], 12) == [[3], [4]]
    assert neighbours([], 12) == []
