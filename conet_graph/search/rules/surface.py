"""A rule of our own: a response surface of the loss over widths, left for no gain that may be noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from conet_graph.search.rules.base import Rule, States, Widths
from conet_graph.search.rules.exchange import Numbers, along_budgets, prices, shares, within_budgets
from conet_graph.search.rules.response import LossSurface, fitted

# How far what is found may lie from the first widths, in steps (root mean square).
FARTHEST = 1.5
# Pairs go by turns so far, in steps: how fast the loss bends shows only at different distances.
DISTANCES = (1.2, 0.8)
# No size changes by more steps than this in a trial.
MOST = 2.0
# How often widths are corrected towards both budgets.
CORRECTIONS = 2


def trials_of(sizes: int) -> int:
    """How many trials it takes at least, with the last one of what they found: two a size.

    >>> trials_of(6), trials_of(12)
    (13, 25)
    """
    return 2 * sizes + 1


@dataclass(frozen=True)
class ResponseSurface(Rule):
    """Short trainings all around the first widths, and once more around what they find; then what all find.

    Each half of the trials begins with its middle; the others are pairs of opposite changes, drawn so that
    sizes that are alike change alike, and brought to use both budgets. Of all losses so far a linear and
    squared model in the logarithms of widths is fitted (`response`), and its best point is taken that gains
    more than it may err. So widths that nothing speaks for are the first ones: compound scaling, with --width
    own.
    """

    needs_budget = True
    decides_by_test = True
    _kinship: Numbers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """See how alike the sizes are."""
        super().__post_init__()
        object.__setattr__(self, "_kinship", kinship(_traits(self)))

    def after(self, trial: int, states: States) -> States:
        """What the next trial tries, or what all trials have found."""
        base = {name: state.width for name, state in super().first().items()}
        due, last = trial + 1, self.settings.search.trials - 1
        middle = (last + 1) // 2
        if due >= last:
            changes = self._best(base, due, FARTHEST)
        elif due >= middle:
            changes = self._best(base, middle, 1.0) + self._drawn(base, due, due - middle)
        else:
            changes = self._drawn(base, due, due)
        before = {name: state.width for name, state in states.items()}
        return self.changed(self._spent(base, changes), before)

    def allowed(self, wished: Numbers, price: Numbers) -> Numbers:
        """The nearest changes that use the budgets up, to first order."""
        return along_budgets(wished, price)

    def warnings(self) -> list[str]:
        """That there are too few trials."""
        needed, told = trials_of(len(self.network.sizes)), super().warnings()
        if self.settings.search.trials < needed:
            told.append(f"A surface over so many sizes takes {needed} trials; this search has fewer.")
        return told

    def remarks(self, trial: int, states: States) -> list[str]:
        """At the end, that nothing better than the first widths was found."""
        first = {name: state.width for name, state in super().first().items()}
        if trial < self.settings.search.trials - 1 or first != {n: s.width for n, s in states.items()}:
            return []
        return ["No other widths gain more than chance would make of them: these are the first trial's."]

    @property
    def _step(self) -> float:
        return float(np.log1p(self.settings.search.phi))

    def _surface(self, base: Widths, count: int) -> LossSurface:
        """The surface around the base that the first trials speak for."""
        tried = [self.store.states(trial) for trial in range(count)]
        changes = [[np.log(state.width / base[name]) for name, state in states.items()] for states in tried]
        losses = [self.loss(trial) for trial in range(count)]
        return fitted(np.array(changes), np.array(losses), self._kinship, self._step)

    def _best(self, base: Widths, count: int, steps: float) -> Numbers:
        """The best changes that the first trials speak for; none before there are two."""
        if count < 2:
            return np.zeros(len(base))
        price = prices(self.network, base, self.limits)
        surface = self._surface(base, count)
        return surface.best(lambda wished: self.allowed(wished, price), steps * self._step)

    def _drawn(self, base: Widths, trial: int, place: int) -> Numbers:
        """A trial's changes around the middle of its half: none for the first, then pairs of opposites."""
        if place == 0:
            return np.zeros(len(base))
        pair, second = divmod(place - 1, 2)
        rng = np.random.default_rng([self.settings.seed, trial - second])
        drawn = np.linalg.cholesky(self._kinship) @ rng.normal(size=len(base)) * (-1 if second else 1)
        kept = self.allowed(drawn, prices(self.network, base, self.limits))
        scaled = kept / max(float(np.sqrt((kept**2).mean())), 1e-9) * DISTANCES[pair % len(DISTANCES)]
        return np.clip(scaled, -MOST, MOST) * self._step

    def _spent(self, base: Widths, changes: Numbers) -> Widths:
        """The base after some changes, with the budgets used as they leave them and whole channels can."""
        if not changes.any():
            return base
        states = self.changed(base, {})
        price = prices(self.network, base, self.limits)
        back, wanted = np.linalg.pinv(price), price @ changes
        wanted = 1 + wanted - wanted.max()
        best, least = base, np.inf
        for _ in range(CORRECTIONS):
            factors = np.exp(changes).tolist()
            wished = {name: width * x for (name, width), x in zip(base.items(), factors, strict=True)}
            widths = {name: state.width for name, state in self.spent(wished, states, states).items()}
            used = shares(self.network, widths, self.limits)
            if (missed := np.abs(wanted - used).max()) < least:
                best, least = widths, missed
            changes = changes + back @ (wanted - used)
        return best


class LooseSurface(ResponseSurface):
    """The same where a budget need not be used up: fewer parameters for as many MACs, or the other way."""

    def allowed(self, wished: Numbers, price: Numbers) -> Numbers:
        """The nearest changes that pass no budget, to first order."""
        return within_budgets(wished, price)


def kinship(traits: Numbers) -> Numbers:
    """How alike sizes are [sizes, sizes], half of it by their traits [sizes, traits]; each is itself.

    >>> kinship(np.array([[0.0], [0.0], [9.0]])).round(2).tolist()
    [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    apart = ((traits[:, None] - traits[None]) ** 2).sum(-1)
    alike: Numbers = (np.exp(-apart / 2) + np.eye(len(traits))) / 2
    return alike


def _traits(rule: Rule) -> Numbers:
    """Of each size: logarithms of its width in the file and of its layers' number, and its place (0 to 1)."""
    sizes = rule.network.sizes
    last = max(1, len(sizes) - 1)
    return np.array(
        [[np.log(s.width), np.log(max(1, len(s.layers))), place / last] for place, s in enumerate(sizes)]
    )
