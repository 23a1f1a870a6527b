"""A rule of our own: how strongly widths should differ, from one width everywhere to more than at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from conet_graph.ir.errors import BadUsage
from conet_graph.search.rules.base import Rule, States, Widths
from conet_graph.search.rules.response import DOUBTS, fitted

# Trials take these powers of the first widths by turns: 1 is themselves, 0 one width everywhere.
POWERS = (1.0, 0.5, 0.0, 0.75, 0.25, 1.25)
# A usual change of the power, of which the loss's slope and bend are counted.
STEP = 0.5
# So many powers between the least and the largest one are compared in the end.
FINE = 126


def trials_of(turns: int) -> int:
    """How many trials some turns of all powers take, with the last one of what they found.

    >>> trials_of(3)
    19
    """
    return turns * len(POWERS) + 1


@dataclass(frozen=True)
class Taper(Rule):
    """Short trainings along one line of shapes, each filling the budgets; then the best point of the line.

    Every width is the first one to a power, the same for all. A single number is all that is asked of the
    trainings, so that few of them can tell. A linear and squared model of their losses is fitted
    (`response`), and the power is taken that gains most, one standard error taken off; widths that nothing
    speaks against are the first ones: compound scaling, with --width own.
    """

    needs_budget = True
    decides_by_test = True

    def __post_init__(self) -> None:
        """Refuse a network whose first widths are all the same: powers of them are, too."""
        super().__post_init__()
        if len(set(self._base().values())) == 1:
            raise BadUsage(
                "The rule taper raises the first trial's widths to a power, and they are all the same: start"
                " with the file's own widths (--width own), or choose another rule."
            )

    def after(self, trial: int, states: States) -> States:
        """The next power, or the one that all trials speak for."""
        due = trial + 1
        power = self._best(due) if due >= self.settings.search.trials - 1 else POWERS[due % len(POWERS)]
        return self.changed(self._at(power), {name: state.width for name, state in states.items()})

    def warnings(self) -> list[str]:
        """That there are too few trials."""
        needed, told = trials_of(1), super().warnings()
        if self.settings.search.trials < needed:
            told.append(f"One turn of all powers takes {needed} trials; this search has fewer.")
        return told

    def remarks(self, trial: int, states: States) -> list[str]:
        """At the end, the power that was found."""
        if trial < self.settings.search.trials - 1:
            return []
        power = self._best(trial)
        if power == 1:
            return ["No other power gains more than chance would make of it: these are the first widths."]
        return [f"The first widths to the power of {power:.2f}."]

    def _base(self) -> Widths:
        return {name: state.width for name, state in self.first().items()}

    def _best(self, count: int) -> float:
        """The power that the losses of the first trials speak for."""
        if count < 2:
            return 1.0
        shapes = {power: self._at(power) for power in POWERS[:count]}
        tried = np.array([[self._tried(trial, shapes) - 1] for trial in range(count)])
        losses = np.array([self.loss(trial) for trial in range(count)])
        surface = fitted(tried, losses, np.eye(1), STEP)

        def sure_gain(power: float) -> float:
            gain, error = surface.gain(np.array([power - 1]))
            return gain - DOUBTS * error

        # The first of the best: 1 where nothing gains.
        powers: list[float] = np.linspace(min(POWERS), max(POWERS), FINE).tolist()
        return max([1.0, *powers], key=sure_gain)

    def _tried(self, trial: int, shapes: Mapping[float, Widths]) -> float:
        """The power of a trial: the one whose turn it was, but for what a shorter search ended with.

        ``shapes``: the widths at each power.
        """
        due, base = POWERS[trial % len(POWERS)], shapes[1.0]
        widths = {name: state.width for name, state in self.store.states(trial).items()}
        if widths == shapes[due]:
            return due
        first, last = (np.log([these[name] for name in base]) for these in (base, widths))
        return float(np.polyfit(first, last, 1)[0])

    def _at(self, power: float) -> Widths:
        """The first widths to a power, within the budgets."""
        base = self._base()
        if power == 1:
            return base
        states = self.changed(base, {})
        wished = {name: width**power for name, width in base.items()}
        return {name: state.width for name, state in self.spent(wished, states, states).items()}
