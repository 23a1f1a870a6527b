"""The response surface on losses whose best widths are known: it finds them, and noise moves it little."""

from __future__ import annotations

import numpy as np
import pytest

from conet_graph.search.rules.exchange import Numbers, within_budgets
from conet_graph.search.rules.response import LossSurface, fitted
from conet_graph.search.rules.surface import kinship

SIZES, STEP, FAR = 6, 0.3, 0.45
PRICE = np.array([[1.0, 2.0, 3.0, 1.0, 2.0, 1.0], [3.0, 1.0, 1.0, 1.0, 0.5, 0.5]]) / 10
KEEPS = np.eye(SIZES) - np.linalg.pinv(PRICE) @ PRICE
ALIKE = kinship(np.arange(SIZES)[:, None] / 2)


def tried(rng: np.random.Generator, pairs: int) -> Numbers:
    """Opposite changes within the budgets, about a usual step long, and one training without any."""
    drawn = rng.normal(size=(pairs, SIZES)) @ KEEPS
    drawn *= STEP / np.sqrt((drawn**2).mean(1, keepdims=True))
    drawn[::2] *= 1.2
    drawn[1::2] *= 0.8
    return np.concatenate([np.zeros((1, SIZES)), drawn, -drawn])


def within(wished: Numbers) -> Numbers:
    """Changes that use both budgets up."""
    return KEEPS @ wished


def bowl(changes: Numbers, best: Numbers, depth: float = 0.1) -> Numbers:
    rise: Numbers = depth * ((changes - best) ** 2).sum(-1)
    return rise


@pytest.mark.parametrize("seed", range(3))
def test_the_best_changes_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    best = KEEPS @ rng.normal(size=SIZES)
    best *= 0.25 / np.sqrt((best**2).mean())
    changes = tried(rng, 12)
    exact = fitted(changes, bowl(changes, best), ALIKE, STEP).best(within, FAR)
    assert exact == pytest.approx(best, abs=0.03)
    noisy = bowl(changes, best) + rng.normal(0, 0.01, len(changes))
    found = fitted(changes, noisy, ALIKE, STEP).best(within, FAR)
    # Most of the gain, and never more cost.
    assert bowl(found, best) < 0.2 * bowl(np.zeros(SIZES), best)
    assert PRICE @ found == pytest.approx([0, 0], abs=1e-9)


def test_noise_moves_little() -> None:
    moves = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        changes = tried(rng, 12)
        found = fitted(changes, rng.normal(0, 0.02, len(changes)), ALIKE, STEP).best(within, FAR)
        moves.append(float(np.sqrt((found**2).mean())))
    assert np.mean(moves) < 0.02 * STEP
    assert np.mean([move == 0 for move in moves]) > 0.9


def test_a_bowl_around_the_first_widths_keeps_them() -> None:
    rng = np.random.default_rng(1)
    changes = tried(rng, 12)
    losses = bowl(changes, np.zeros(SIZES)) + rng.normal(0, 0.005, len(changes))
    found = fitted(changes, losses, ALIKE, STEP).best(within, FAR)
    assert np.abs(found).max() < 0.1


def test_a_budget_need_not_be_used_up() -> None:
    rng = np.random.default_rng(3)
    best = rng.normal(size=SIZES)
    best = 0.25 * best / np.sqrt((best**2).mean())
    best -= PRICE[0] * max(0.0, PRICE[0] @ best + 0.1) / (PRICE[0] @ PRICE[0])  # well under the first budget
    changes = rng.normal(size=(40, SIZES)) * STEP
    surface = fitted(changes, bowl(changes, best), ALIKE, STEP)
    found = surface.best(lambda wished: within_budgets(wished, PRICE), 2 * FAR)
    assert (PRICE @ found).max() < 1e-6
    assert bowl(found, best) < 0.5 * bowl(surface.best(within, 2 * FAR), best)


def test_no_farther_than_asked() -> None:
    rng = np.random.default_rng(2)
    changes = tried(rng, 12)
    surface = fitted(changes, changes @ (KEEPS @ rng.normal(size=SIZES)), ALIKE, STEP)
    found = surface.best(within, 0.5 * STEP)
    assert np.sqrt((found**2).mean()) == pytest.approx(0.5 * STEP)


def test_gain_and_its_error_are_those_of_the_factors() -> None:
    surface = LossSurface(np.array([-1.0, 0.5, 2.0, 0.0]), np.diag([0.04, 0, 0, 0]), step=0.5)
    gain, error = surface.gain(np.array([0.5, 1.0]))
    assert (gain, error) == pytest.approx((1.0 - 1.0 - 1.0, 0.2))


def test_sizes_that_are_alike_move_alike() -> None:
    traits = np.array([[0.0], [0.0], [3.0], [3.0], [6.0], [6.0]])
    changes = np.zeros((8, SIZES))
    changes[:, 0] = [STEP, -STEP] * 4  # only the first size is ever tried
    losses = -changes[:, 0] + np.linspace(0, 1e-3, 8)
    effects = fitted(changes, losses, kinship(traits), STEP).effects[:SIZES]
    assert effects[1] == pytest.approx(effects[0] / 2)
    assert np.abs(effects[2:]).max() < 0.02 * abs(effects[0])
