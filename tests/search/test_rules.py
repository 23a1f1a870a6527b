"""The rules beside Algorithm 2: CONetV2's metric and step, exchanges within budgets, and whole searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from conet_graph.bridge import from_torch, to_torch, weights_by_name
from conet_graph.indicators.slope import SizeIndicators, Voice
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import load_model
from conet_graph.search.begin import begin, go_on, network_in
from conet_graph.search.network import Limits, Network
from conet_graph.search.rules.conet import AlgorithmTwo
from conet_graph.search.rules.conetv2 import next_width, quality, size_quality
from conet_graph.search.rules.exchange import best_moves, prices
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import Measured, RunStore
from conet_graph.search.runner import Search, Tools
from conet_graph.search.settings import RunSettings
from conet_graph.search.worth import worths
from conet_graph.trials.protocol import Trial

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
Metrics = dict[str, float]
Loss = Callable[[nn.Module], float]


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(load_model(SAMPLE))


@pytest.mark.parametrize(
    ("rank", "condition", "value"),
    [(0.0, 1.0, 0.0), (0.5, 2.0, math.pi / 4), (0.3, 1.0, math.pi / 2), (0.25, 4.0, math.atan(1 / 3))],
)
def test_quality(rank: float, condition: float, value: float) -> None:
    assert quality(rank, condition) == pytest.approx(value)


def test_a_sizes_quality_takes_the_best_epoch_of_each_voice() -> None:
    voices = (Voice("out", ("a",)), Voice("in", ("b", "c")))
    flat = Measured(0.0, 0.0, 1.0, 1.0)
    first = {"a": Measured(0.5, 0.0, 2.0, 1.0), "b": flat, "c": flat}
    last = {"a": flat, "b": Measured(0.0, 0.25, 1.0, 4.0), "c": flat}
    assert size_quality(voices, [first, last]) == pytest.approx((math.pi / 4 + math.atan(1 / 3) / 2) / 2)


def test_the_width_follows_the_change_within_a_half_and_two() -> None:
    assert next_width(40, 0.1) == pytest.approx(52)
    assert next_width(40, -0.1) == pytest.approx(28)
    assert (next_width(40, -9.0), next_width(40, 9.0)) == (20, 80)


def test_the_best_exchange_keeps_both_budgets() -> None:
    worth = np.array([3.0, 1.0, 2.0, 0.5])
    price = np.array([[1.0, 1.0, 0.2, 0.1], [0.1, 0.2, 1.0, 1.0]])
    changes = best_moves(worth, price, np.full(4, 0.1))
    assert np.abs(changes).max() == pytest.approx(0.1)
    assert price @ changes == pytest.approx([0, 0], abs=1e-12)
    assert worth @ changes > 0
    # Twice the worth of everything, or a worth that is only what a size costs, changes nothing.
    assert best_moves(2 * worth, price, np.full(4, 0.1)) == pytest.approx(changes)
    assert best_moves(worth + 5 * price[0], price, np.full(4, 0.1)) == pytest.approx(changes)


def test_a_budget_that_would_not_be_passed_charges_nothing() -> None:
    price = np.array([[1.0, 1.0], [-1.0, 5.0]])
    changes = best_moves(np.array([2.0, 1.0]), price, np.array([0.2, 0.2]))
    assert changes == pytest.approx([0.2, -0.2])
    assert best_moves(np.array([-1.0, -2.0]), price[:1], np.full(2, 0.2)) == pytest.approx([-0.1, -0.2])


def test_a_settled_size_stays_and_a_short_step_is_kept() -> None:
    price = np.ones((1, 3))
    changes = best_moves(np.array([5.0, 0.0, 2.0]), price, np.array([0.0, 0.2, 0.05]))
    assert changes == pytest.approx([0, -0.2, 0.05])


def test_prices_are_what_growth_costs(network: Network) -> None:
    widths = network.own_widths()
    parameters, macs = network.cost(widths)
    price = prices(network, widths, Limits(parameters, macs))
    assert price.shape == (2, len(widths))
    name = list(widths)[1]
    more = round(widths[name] * 1.1)
    grown = network.cost({**widths, name: more})
    step = math.log(more / widths[name])
    expected = [(grown[0] / parameters - 1) / step, (grown[1] / macs - 1) / step]
    assert price[:, 1] == pytest.approx(expected)
    assert len(prices(network, widths, Limits(None, macs))) == 1


def size_of_weights(module: nn.Module) -> float:
    """A loss that falls with the sum of squares of all weights."""
    return -sum(float(weight.detach().square().sum()) for weight in module.parameters())


def test_worth_is_the_loss_of_a_masked_tenth(network: Network) -> None:
    trained = network.at(dict.fromkeys(network.own_widths(), 20), 0)
    found = worths(trained, network, to_torch, size_of_weights)
    assert set(found) == set(network.own_widths())
    name = next(iter(found))
    narrow = network.continued(trained, {**dict.fromkeys(found, 20), name: 18}, 0)
    lost = size_of_weights(to_torch(narrow)) - size_of_weights(to_torch(trained))
    assert found[name] == pytest.approx(lost / math.log(20 / 18))
    assert min(found.values()) > 0


def learns(module: nn.Module, epochs: int) -> Iterator[Metrics]:
    """Adds structure to all weights; the loss is lower the more weights the first convolution has."""
    first = next(weight for weight in module.parameters() if weight.ndim == 4)
    for epoch in range(epochs):
        with torch.no_grad():
            for weight in module.parameters():
                if weight.ndim == 4:
                    flat = weight.view(len(weight), -1)
                    rank = min(*flat.shape, 2 + epoch)
                    flat += 0.5 * torch.randn(len(flat), rank) @ torch.randn(rank, flat.shape[1])
        yield {"test_accuracy": 0.5, "test_loss": 10 - math.log(len(first))}


def stopped_in_trial(number: int) -> Trial:
    """Learns, but for one trial (from 0)."""
    begun = iter(range(number + 1))

    def learns_for_a_while(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        if next(begun) == number:
            raise KeyboardInterrupt
        yield from learns(module, epochs)

    return learns_for_a_while


def searched(out: Path, rule: str, loss: Loss | None = None, trial: Trial = learns, **given: Any) -> RunStore:
    settings = RunSettings("digits").changed(
        {
            "rule": rule,
            "trials": 4,
            "epochs": 3,
            "own_widths": True,
            "min_width": 4,
            "multiple": 1,
            "max_parameters": 1.0,
            "max_macs": 1.0,
            **given,
        }
    )
    folder = RunFolder(out)
    if not folder.database.exists():
        begin(SAMPLE, folder, settings, "")
    store, found = go_on(folder, None, {"trials": settings.search.trials})
    tools = Tools(to_torch, from_torch, weights_by_name, lambda share: trial, loss)
    Search(folder, store, found, network_in(folder), tools).run()
    return store


@pytest.mark.parametrize("rule", ["slopes", "conetv2", "worth", "pairs", "surface", "loose", "taper"])
def test_every_rule_searches_within_the_budgets_and_goes_on(rule: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "run", rule, size_of_weights, trial=stopped_in_trial(2))
    store = searched(tmp_path / "run", rule, size_of_weights)
    network = network_in(RunFolder(tmp_path / "run"))
    limits = network.cost(network.own_widths())
    trials = store.trials()
    assert [trial.status for trial in trials] == ["finished"] * 4
    assert all(trial.parameters <= limits[0] and (trial.macs or 0) <= limits[1] for trial in trials)
    assert store.states(1) != store.states(0)
    whole = searched(tmp_path / "whole", rule, size_of_weights)
    assert [store.states(k) for k in range(4)] == [whole.states(k) for k in range(4)]


def grown(network: Network, slopes: list[list[float]], trial: int, **given: Any) -> list[bool]:
    """Whether each size grows after a trial, by Algorithm 2, when the trials show these slopes."""

    class Slopes:
        def indicators(self, trial: int) -> dict[str, SizeIndicators]:
            found = zip(network.own_widths(), slopes[trial], strict=True)
            return {name: SizeIndicators((0.1, 0.1 + x), 1.0, x, 1) for name, x in found}

    settings = RunSettings("digits").changed({"own_widths": True, "min_width": 4, **given})
    rule = AlgorithmTwo(network, cast(RunStore, Slopes()), settings)
    first = rule.first()
    return [after.width > first[name].width for name, after in rule.after(trial, first).items()]


def test_a_budget_moves_the_shape_where_every_slope_exceeds_delta(network: Network) -> None:
    slopes = [[0.08, 0.05, 0.04, 0.03, 0.06, 0.07]]
    assert grown(network, slopes, 0, delta=0.01) == [True] * 6
    within = grown(network, slopes, 0, delta=0.01, max_parameters=1.0)
    # Those of the lowest slopes make room for the others.
    shrunk = [slope for slope, grows in zip(slopes[0], within, strict=True) if not grows]
    assert 1 <= len(shrunk) <= 5
    assert max(shrunk) < min(set(slopes[0]) - set(shrunk))


def test_warm_trials_lower_delta_with_their_slopes(network: Network) -> None:
    slopes = [[0.08, 0.04, 0.04, 0.04, 0.04, 0.06], [0.01, 0.004, 0.01, 0.01, 0.01, 0.016]]
    assert grown(network, slopes, 0, delta=0.03, warm=True) == [True] * 6
    # A fifth of the first slopes on average: delta is 0.006.
    assert grown(network, slopes, 1, delta=0.03, warm=True) == [True, False, True, True, True, True]
    assert grown(network, slopes, 1, delta=0.03) == [False] * 6


def test_pairs_find_the_size_that_matters_and_end_with_what_they_found(tmp_path: Path) -> None:
    rounds = 7  # pairs, for six sizes
    store = searched(tmp_path / "run", "pairs", trials=2 * rounds + 1, epochs=1, phi=0.3)
    network = network_in(RunFolder(tmp_path / "run"))
    own = network.own_widths()
    first = network.sizes[0].name
    found = {name: state.width for name, state in store.states(2 * rounds).items()}
    assert found[first] == round(own[first] * 1.3)
    assert sum(found[name] < own[name] for name in own) >= 2
    assert network.keeps(found, Limits(*map(float, network.cost(own))))
    signs = [np.sign(store.states(k)[first].width - store.states(k + 1)[first].width) for k in (0, 2, 4, 6)]
    assert set(signs) <= {1, -1}


def test_the_surface_widens_the_size_that_matters_within_both_budgets(tmp_path: Path) -> None:
    store = searched(tmp_path / "run", "surface", trials=25, epochs=1, phi=0.35)
    network = network_in(RunFolder(tmp_path / "run"))
    own = network.own_widths()
    first = network.sizes[0].name
    states = [store.states(k) for k in range(25)]
    widths = [{name: state.width for name, state in trial.items()} for trial in states]
    assert widths[0] == own
    assert widths[-1][first] >= 1.3 * own[first]
    assert widths[12][first] > own[first]  # the second half begins where the first one points to
    parameters, macs = network.cost(own)
    costs = np.array([network.cost(tried) for tried in widths]) / [parameters, macs]
    assert costs.max() <= 1
    assert costs.min() > 0.93
    for one, other in ((1, 2), (3, 4)):  # opposites
        moves = [np.log([tried[n] / own[n] for n in own]) for tried in (widths[one], widths[other])]
        assert np.corrcoef(*moves)[0, 1] < -0.8


def test_the_surface_stays_where_no_width_matters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        yield {"test_loss": float(rng.normal(1.5, 0.02))}

    store = searched(tmp_path / "run", "surface", trial=noise, trials=13, epochs=1, phi=0.35)
    own = network_in(RunFolder(tmp_path / "run")).own_widths()
    assert {name: state.width for name, state in store.states(12).items()} == own
    with pytest.raises(BadUsage, match="must yield a test_loss"):
        searched(tmp_path / "other", "surface", trial=lambda module, epochs: iter([{}]), trials=3)


def filters(module: nn.Module) -> list[float]:
    """Logarithms of the widths of a module's convolutions."""
    return [math.log(len(weight)) for weight in module.parameters() if weight.ndim == 4]


def best_at(power: float, network: Network) -> Trial:
    """Losses that are least where widths are the file's own to a power."""
    own = filters(to_torch(network.model))

    def trial(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        yield {"test_loss": 1.5 + 0.1 * (np.polyfit(own, filters(module), 1)[0] - power) ** 2}

    return trial


@pytest.mark.parametrize("power", [0.5, 0.8, 1.2])
def test_the_taper_is_found(power: float, network: Network, tmp_path: Path) -> None:
    own = network.own_widths()
    store = searched(tmp_path / "run", "taper", trial=best_at(power, network), trials=13, epochs=1)
    found = {name: state.width for name, state in store.states(12).items()}
    logs = [np.log(list(widths.values())) for widths in (own, found)]
    assert np.polyfit(*logs, 1)[0] == pytest.approx(power, abs=0.08)
    assert network.keeps(found, Limits(*map(float, network.cost(own))))
    flat = [state.width for state in store.states(2).values()]
    assert max(flat) - min(flat) <= 3  # one width everywhere was tried


def test_a_longer_search_knows_what_the_shorter_one_ended_with(network: Network, tmp_path: Path) -> None:
    trial = best_at(0.5, network)
    found = []
    for trials in (8, 13):  # the eighth trial is what seven have found, not the power whose turn it is
        store = searched(tmp_path / "run", "taper", trial=trial, trials=trials, epochs=1)
        found.append([state.width for state in store.states(trials - 1).values()])
    logs = np.log(list(network.own_widths().values()))
    assert [np.polyfit(logs, np.log(widths), 1)[0] for widths in found] == pytest.approx([0.5, 0.5], abs=0.08)


def test_the_taper_stays_where_losses_are_noise(network: Network, tmp_path: Path) -> None:
    own = network.own_widths()

    def noise(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        yield {"test_loss": float(rng.normal(1.5, 0.02))}

    rng = np.random.default_rng(1)
    store = searched(tmp_path / "run", "taper", trial=noise, trials=13, epochs=1)
    assert {name: state.width for name, state in store.states(12).items()} == own
    with pytest.raises(BadUsage, match="they are all the same"):
        searched(tmp_path / "same", "taper", own_widths=False, start_width=16)


def test_worth_turns_round_with_the_sign_of_the_loss(tmp_path: Path) -> None:
    forward = searched(tmp_path / "one", "worth", size_of_weights, trials=2, epochs=1)
    backward = searched(tmp_path / "two", "worth", lambda m: -size_of_weights(m), trials=2, epochs=1)
    moves = [
        [store.states(1)[name].width - state.width for name, state in store.states(0).items()]
        for store in (forward, backward)
    ]
    assert np.dot(*moves) < 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no rule 'best'"):
        RunSettings("digits").changed({"rule": "best"})
    with pytest.raises(BadUsage, match="moves a budget"):
        searched(tmp_path / "a", "slopes", max_parameters=None, max_macs=None)
    with pytest.raises(BadUsage, match="needs the loss"):
        searched(tmp_path / "b", "worth")
