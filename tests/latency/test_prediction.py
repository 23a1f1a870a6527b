"""Predicted times of narrowed networks, and the widths that meet a predicted time."""

from __future__ import annotations

import numpy as np
import pytest
from latency_case import chain, counts_of, milliseconds, table_of

from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.latency.prediction import Prediction
from conet_graph.latency.table import Row, Table
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.knapsack import Knapsack, ranking_loss
from conet_graph.rewriting.targets import WidthRequest, choose_copies


@pytest.mark.parametrize(("s", "w"), [(64, 96), (32, 96), (64, 8), (8, 16), (40, 56)])
def test_times_of_layers_add_up(s: int, w: int) -> None:
    graph = chain()
    prediction = Prediction.of(graph, table_of(graph))
    assert prediction.milliseconds(counts_of(graph, s, w)) == pytest.approx(milliseconds(s, w), rel=0.01)


def test_the_whole_network_s_time_is_the_measured_one_in_its_own_table() -> None:
    graph = chain()
    table = table_of(graph)
    table.original_ms = 7.0
    assert Prediction.of(graph, table).original_ms == pytest.approx(milliseconds(64, 96), rel=0.01)
    table.sha256 = graph.loaded.sha256
    assert Prediction.of(graph, table).original_ms == 7.0


def test_what_one_group_changes_is_the_difference_of_wholes() -> None:
    graph = chain()
    prediction = Prediction.of(graph, table_of(graph))
    now = counts_of(graph, 64, 96)
    for k in np.flatnonzero([g.free for g in graph.result(CHANNELS).groups]).tolist():
        kept = np.array([8, 24, 56], np.int64)
        for count, change in zip(kept, prediction.along(now, k, kept), strict=True):
            tried = now.copy()
            tried[k] = count
            whole = prediction.milliseconds(tried) - prediction.milliseconds(now)
            assert change == pytest.approx(whole)
        assert k in prediction.neighbours(k)


def test_layers_of_a_board_s_table_are_found_by_name() -> None:
    graph = chain()
    table = Table({"x": Row("x", ["b"], [(96.0, 64.0, 3.0), (48.0, 64.0, 1.5), (48.0, 32.0, 0.75)])})
    prediction = Prediction.of(graph, table)
    assert prediction.milliseconds(counts_of(graph, 64, 96)) == pytest.approx(3.0, rel=0.02)
    assert prediction.milliseconds(counts_of(graph, 32, 96)) == pytest.approx(1.5, rel=0.02)
    with pytest.raises(BadUsage, match="no layer of this network"):
        Prediction.of(graph, Table({"y": Row("y", ["other"], [(1.0, 1.0, 1.0)])}))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.2])
def test_the_least_loss_within_a_budget_is_that_of_all_widths_tried(share: float) -> None:
    graph = chain()
    prediction = Prediction.of(graph, table_of(graph))
    groups = graph.result(CHANNELS).groups
    most = counts_of(graph, 64, 96)
    scores = np.random.default_rng(3).uniform(0.5, 1.5, len(graph.result(CHANNELS).units.frozen_class))
    loss = ranking_loss(scores, groups)
    movable = np.array([g.free for g in groups], np.bool_)
    steps, least = np.full(len(groups), 8, np.int64), np.where(movable, 8, most)
    budget = share * milliseconds(64, 96)

    def total(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        return sum(loss(k, int(counts[k])) for k in np.flatnonzero(movable).tolist())

    found = Knapsack(prediction, loss, movable, least, most, steps).fill(budget)
    assert found is not None
    assert prediction.milliseconds(found) <= budget
    all_widths = (counts_of(graph, s, w) for s in range(8, 65, 8) for w in range(8, 97, 8))
    best = min(total(counts) for counts in all_widths if prediction.milliseconds(counts) <= budget)
    assert total(found) <= best * 1.1


def test_a_budget_that_is_too_small() -> None:
    graph = chain()
    prediction = Prediction.of(graph, table_of(graph))
    request = WidthRequest(latency_ms=0.6, predicted=prediction)
    copies = choose_copies(graph, request)  # steps of 8 do not reach it, smaller ones do
    groups = graph.result(CHANNELS).groups
    assert prediction.milliseconds(np.array([copies[g.classes].sum() for g in groups])) <= 0.6
    with pytest.raises(
        Refused, match=r"0\.51 milliseconds cannot be reached: the closest is 0\.5\d+ as predicted"
    ):
        choose_copies(graph, WidthRequest(latency_ms=0.51, predicted=prediction))


def test_a_group_that_loses_its_last_channels_loses_most() -> None:
    graph = chain()
    groups = graph.result(CHANNELS).groups
    loss = ranking_loss(np.ones(len(graph.result(CHANNELS).units.frozen_class)), groups)
    k = next(k for k, g in enumerate(groups) if g.free)
    curve = [loss(k, count) for count in range(len(groups[k].classes), 0, -1)]
    assert curve[0] == 0
    steps = np.diff(curve)
    assert (steps > 0).all()
    assert (np.diff(steps) > 0).all()
