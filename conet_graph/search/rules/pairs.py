"""A rule of our own: short trainings of opposite widths, in pairs, say which sizes to widen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from conet_graph.search.rules.base import Rule, States, Widths
from conet_graph.search.rules.exchange import Numbers, along_budgets, best_moves, prices
from conet_graph.trials.randomness import seed_of

# How far the worths are drawn to 0: as by so many pairs that moved one size and saw no difference.
RIDGE = 1.0
# Below it a change of widths is rounding.
TINY = 1e-9


def trials_of(sizes: int, rounds: int = 1) -> int:
    """How many trials some rounds of pairs take, with the last one of what they found.

    >>> trials_of(6), trials_of(8), trials_of(12), trials_of(6, rounds=2)
    (15, 15, 31, 29)
    """
    return rounds * 2 * (_order(sizes) - 1) + 1


def _order(sizes: int) -> int:
    """Of the orthogonal design for so many sizes: a power of two."""
    return 1 << max(1, (sizes - 1).bit_length())


@dataclass(frozen=True)
class Pairs(Rule):
    """Half of the sizes wider and the others narrower, against the opposite, at equal budget.

    Both networks of a pair are trained from fresh weights with the same seed; the difference of their losses
    is what their widths make of it. The signs of a round of pairs are an orthogonal design, less what would
    take from a budget or leave some of it. A round gives every size's worth by least squares, and the widths
    move by the best exchange within the budgets. The last trial trains what was found.
    """

    needs_budget = True
    decides_by_test = True
    _signs: Numbers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Lay out the signs of a round: [pairs, sizes]."""
        super().__post_init__()
        from scipy.linalg import hadamard

        count = len(self.network.sizes)
        order = _order(count)
        # The first row, all of one sign, would scale all sizes alike, which the budget takes back.
        object.__setattr__(self, "_signs", hadamard(order)[1:, order - count :].astype(np.float64))

    def first(self) -> States:
        """The first trial: half of the first pair."""
        return self.changed(self._tried(super().first(), 0), {})

    def after(self, trial: int, states: States) -> States:
        """What the next trial tries around where the rounds so far have moved to."""
        base = {name: state.width for name, state in super().first().items()}
        per_round = 2 * len(self._signs)
        due, last = trial + 1, self.settings.search.trials - 1
        seen: list[tuple[Numbers, float]] = []
        for begin in range(0, due, per_round):
            end = min(begin + per_round, due)
            seen += [self._seen(first) for first in range(begin, end - 1, 2)]
            if end - begin == per_round or due == last:
                base = self._moved(base, seen)
        wanted = base if due == last else self._tried(self.changed(base, {}), due)
        return self.changed(wanted, {name: state.width for name, state in states.items()})

    def seed(self, trial: int) -> int:
        """Both of a pair have one."""
        return seed_of(self.settings.seed, trial // 2)

    def warnings(self) -> list[str]:
        """That there are too few trials for one round."""
        needed, told = trials_of(len(self.network.sizes)), super().warnings()
        if self.settings.search.trials < needed:
            told.append(f"A round of pairs and what it finds take {needed} trials; this search has fewer.")
        return told

    def _tried(self, base: States, trial: int) -> Widths:
        """The widths of a trial around a base, within the budgets."""
        widths = {name: state.width for name, state in base.items()}
        signs = self._signs[trial // 2 % len(self._signs)]
        changes = along_budgets(signs, prices(self.network, widths, self.limits))
        step = np.log1p(self.settings.search.phi) * (1 if trial % 2 == 0 else -1)
        factors = np.exp(changes / max(np.abs(changes).max(), TINY) * step).tolist()
        wished = {name: width * factor for (name, width), factor in zip(widths.items(), factors, strict=True)}
        return {name: state.width for name, state in self.spent(wished, base, base).items()}

    def _seen(self, trial: int) -> tuple[Numbers, float]:
        """A pair's difference of logarithms of widths [sizes], and how much lower the first one's loss is."""
        one, other = (self.store.states(number) for number in (trial, trial + 1))
        apart = np.array([np.log(state.width / other[name].width) for name, state in one.items()])
        return apart, self.loss(trial + 1) - self.loss(trial)

    def _moved(self, base: Widths, seen: list[tuple[Numbers, float]]) -> Widths:
        """The base after the best exchange for what all pairs have shown."""
        if not seen:
            return base
        apart, gains = np.array([row for row, _ in seen]), np.array([gain for _, gain in seen])
        step = np.log1p(self.settings.search.phi)
        square = apart.T @ apart + RIDGE * (2 * step) ** 2 * np.eye(len(base))
        worth = np.linalg.solve(square, apart.T @ gains)
        most = np.full(len(base), step)
        changes = best_moves(worth, prices(self.network, base, self.limits), most)
        moves = zip(base.items(), np.exp(changes).tolist(), strict=True)
        wished = {name: width * factor for (name, width), factor in moves}
        states = self.changed(base, {})
        return {name: state.width for name, state in self.spent(wished, states, states).items()}
