"""The first look at all layers: what it may say of their weights, and that no array stands for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from rewidth_case import graph_of

from conet_graph.dead_channels import glance
from conet_graph.dead_channels.facts import Facts
from conet_graph.dead_channels.walk import walk
from tests.graphs import GraphBuilder


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def twice_the_second(w: np.ndarray) -> np.ndarray:
    w[3] = 2 * w[1]
    return w


def late_twins(w: np.ndarray) -> np.ndarray:
    """Rows that begin alike, and end otherwise: only a second look tells."""
    w.reshape(len(w), -1)[3, :40] = w.reshape(len(w), -1)[1, :40]
    return w


def seen(*weights: np.ndarray) -> list[glance.Glance]:
    """The glances at convolutions with these weights, one behind the other."""
    b = GraphBuilder()
    x = b.input("x", ["N", weights[0].shape[1], 8, 8])
    for w in weights:
        group = b.channels(x) // w.shape[1]
        x = b.op("Conv", x, b.const(w), kernel_shape=list(w.shape[2:]), group=group)
    b.output(x)
    graph = graph_of(b.build())
    found = glance.glances(Facts(graph, masked=True), graph.operators)
    return [found[op.index] for op in graph.operators]


@pytest.mark.parametrize("sheet", [1, 9, 4096])
def test_layers_are_looked_at_each_on_its_own(sheet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "SHEET", sheet)
    layers = random(8, 3, 1, 1), twice_the_second(random(8, 8, 3, 3)), random(8, 8, 1, 1)
    assert [g.apart for g in seen(*layers)] == [True, False, True]


def test_what_begins_alike_is_not_called_apart() -> None:
    assert not seen(late_twins(random(8, 8, 3, 3)))[0].apart


def test_multiples_in_different_groups_are_apart() -> None:
    """Row 1 reads the first two channels, row 6 the last two: they are no multiples of one another."""
    grouped = random(8, 2, 1, 1)
    grouped[6] = grouped[1]
    assert seen(random(8, 3, 1, 1), grouped)[1].apart
    grouped[0] = -grouped[1]
    assert not seen(random(8, 3, 1, 1), grouped)[1].apart


def test_outputs_need_a_weight_of_each_sign() -> None:
    one_sided = random(8, 3, 1, 1)
    one_sided[5] = np.abs(one_sided[5])
    assert [g.both_signs for g in seen(one_sided, random(8, 8, 3, 3))] == [False, True]


@pytest.mark.parametrize(
    ("low", "high", "nothing"), [(-np.inf, np.inf, True), (0.0, np.inf, True), (0.0, 6.0, False)]
)
def test_bounded_inputs_bound_the_outputs(low: float, high: float, nothing: bool) -> None:
    assert seen(random(8, 3, 1, 1))[0].tells_nothing(low, high) is nothing


def test_where_nothing_is_known_of_single_channels_no_array_says_so() -> None:
    b = GraphBuilder()
    x = b.relu(b.op("Conv", b.input("x", ["N", 3, 8, 8]), b.const(random(8, 3, 1, 1))))
    x = b.op("Add", x, b.op("GlobalMaxPool", x))
    b.output(b.op("Conv", x, b.const(random(4, 8, 1, 1))))
    facts = walk(graph_of(b.build()), masked=True)
    assert not any(fact.along for value, fact in facts.known.items() if value not in facts.graph.constants)
    assert facts.of(x).low == 0
    assert not facts.layers, "weights are not held when the walk is over"
