"""Comparisons: which widths stand beside the found ones, how they are trained, and going on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from torch import nn

from conet_graph.bridge import from_torch, to_torch, weights_by_name
from conet_graph.ir.errors import BadUsage
from conet_graph.search.algorithm import SizeState
from conet_graph.search.begin import begin, go_on, network_in
from conet_graph.search.compare import KINDS, Comparison
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import ComparedRow, RunStore, TrialRow
from conet_graph.search.runner import Tools
from conet_graph.search.settings import RunSettings
from conet_graph.trials.errors import TrialFailed

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
FOUND = {"s0": 20, "s1": 44, "s2": 12, "s3": 30, "s4": 8, "s5": 36}
Metrics = dict[str, float]


class Trained:
    """A trial that counts how often it was asked, and answers with the number of weights."""

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.times, self.fails = 0, fails

    def __call__(self, module: nn.Module, epochs: int) -> Iterator[Metrics]:
        self.times += 1
        if self.times in self.fails:
            raise TrialFailed("the loss is not finite")
        for _ in range(epochs):
            yield {"test_accuracy": 0.5 + 0.01 * self.times, "seconds": 2.0}


def comparison(out: Path, trial: Trained, store: RunStore | None = None, match: str = "params") -> Comparison:
    folder, settings = RunFolder(out), RunSettings("digits").changed({"min_width": 4, "max_width": 64})
    if store is None:
        begin(SAMPLE, folder, settings, "")
        store, _ = go_on(folder, None, {})
        store.begin_trial(0, {name: SizeState(w, 0, 0.2, False) for name, w in FOUND.items()}, 1, 1)
        store.finish_trial(TrialRow(0, "finished", 1, 1, 9.0, 0.1, 0.1, 0.5, None), {}, {})
    tools = Tools(to_torch, from_torch, weights_by_name, lambda share: trial)
    return Comparison(folder, store, settings, network_in(folder), tools, match)


def test_the_others_have_as_many_parameters_or_just_fewer(tmp_path: Path) -> None:
    made = comparison(tmp_path / "run", Trained())
    assert made.widths("conet", 0) == FOUND
    assert made.widths("original", 0) == made.network.own_widths()
    goal = made.network.cost(FOUND)[0]
    uniform = made.widths("uniform", 0)
    factors = [uniform[name] / width for name, width in made.network.own_widths().items()]
    assert max(factors) / min(factors) < 1.3  # rounded to even
    flat = made.widths("flat", 0)
    assert max(flat.values()) - min(flat.values()) <= 2
    for widths in (uniform, flat, made.widths("random", 0), made.widths("random", 1)):
        assert 0.93 * goal < made.network.cost(widths)[0] <= goal
        assert all(width % 2 == 0 for width in widths.values())
    assert made.widths("random", 0) != made.widths("random", 1)
    assert made.widths("random", 0) == made.widths("random", 0)


def test_each_is_trained_with_each_seed_and_recorded_once(tmp_path: Path) -> None:
    trial = Trained()
    made = comparison(tmp_path / "run", trial)
    heard: list[ComparedRow] = []
    made.run(epochs=3, seeds=2, tell=heard.append)
    assert [(row.kind, row.seed) for row in heard] == [(kind, seed) for seed in (0, 1) for kind in KINDS]
    assert made.store.comparison() == heard
    made.run(epochs=3, seeds=3)
    assert trial.times == 15
    conet, uniform, flat, random, original = made.summaries(3)
    assert all((s.latency_ms or 0) > 0 for s in (conet, uniform, flat, random, original))
    assert conet.accuracies == pytest.approx((0.51, 0.56, 0.61))
    assert (conet.accuracy, conet.spread) == (pytest.approx(0.56), pytest.approx(0.05))
    assert (conet.widths, conet.epochs, conet.seconds, conet.seeds) == ((8, 44), 3, 6.0, 3)
    assert conet.ahead is None
    assert uniform.ahead == (pytest.approx(-0.01), pytest.approx(0.0, abs=1e-9))
    assert original.widths == (16, 64)
    assert uniform.parameters <= conet.parameters
    assert random.parameters <= conet.parameters
    made.run(epochs=4, seeds=1)  # trained for longer: again
    assert trial.times == 20
    assert [summary.seeds for summary in made.summaries(4)] == [1] * 5
    assert made.summaries(3) == [conet, uniform, flat, random, original]
    made.settings = made.settings.changed({"schedule": "step"})
    made.run(epochs=4, seeds=1)  # and otherwise
    assert trial.times == 25


def test_multiply_accumulates_can_be_matched_instead(tmp_path: Path) -> None:
    trial = Trained()
    made = comparison(tmp_path / "run", trial)
    made.run(epochs=1, seeds=1)
    parameters, macs = made.network.cost(FOUND)
    both = comparison(tmp_path / "run", trial, made.store, "both")
    for match, limits in (("macs", (math.inf, macs)), ("both", (parameters, macs))):
        other = comparison(tmp_path / "run", trial, made.store, match)
        for kind in ("uniform", "flat", "random"):
            costs = other.network.cost(other.widths(kind, 0))
            assert all(cost <= limit for cost, limit in zip(costs, limits, strict=True))
    both.run(epochs=1, seeds=1)  # the found widths and the file's own are trained already
    assert trial.times == 8
    assert [summary.seeds for summary in both.summaries(1)] == [1] * 5
    with pytest.raises(BadUsage, match="choose one of params, macs, both"):
        comparison(tmp_path / "run", trial, made.store, "time")


def test_a_comparison_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    trial = Trained()
    made = comparison(tmp_path / "run", trial)

    def stop(done: ComparedRow) -> None:
        if done.kind == "random":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(epochs=1, seeds=1, tell=stop)
    comparison(tmp_path / "run", trial, made.store).run(epochs=1, seeds=1)
    assert trial.times == 5


def test_a_network_that_diverges_is_counted_but_not_averaged(tmp_path: Path) -> None:
    made = comparison(tmp_path / "run", Trained(frozenset({1})))
    made.run(epochs=1, seeds=2)
    conet = made.summaries(1)[0]
    assert (conet.seeds, conet.accuracies, conet.spread) == (2, (pytest.approx(0.56),), None)


def test_without_a_finished_trial_there_is_nothing_to_compare(tmp_path: Path) -> None:
    begin(SAMPLE, RunFolder(tmp_path / "run"), RunSettings("digits"), "")
    store, _ = go_on(RunFolder(tmp_path / "run"), None, {})
    with closing(store), pytest.raises(BadUsage, match="no finished trial yet"):
        comparison(tmp_path / "run", Trained(), store)
