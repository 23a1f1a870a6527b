"""The paper's rule: Algorithm 2 on rank-slopes, and the same with a threshold that the budget sets."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace

from conet_graph.indicators.slope import SizeIndicators
from conet_graph.search.algorithm import (
    SearchSettings,
    fewest_trials,
    resolution,
    step_all,
    within_budget,
)
from conet_graph.search.rules.base import Rule, States


class AlgorithmTwo(Rule):
    """CONet's Algorithm 2; see `conet_graph.search.algorithm`."""

    def after(self, trial: int, states: States) -> States:
        """Algorithm 2's step, within the budgets."""
        settings, measured = self._comparable(trial), self.heard(trial)
        moving = [found.slope for name, found in measured.items() if not states[name].stopped]

        def after(delta: float) -> States:
            asked = replace(settings, delta=delta)
            return step_all(states, measured, asked, trial == 0, self.network.grains)

        kept = within_budget(
            after, settings.delta, moving, lambda tried: self.network.fits(tried, self.limits)
        )
        return self.network.within(kept, self.limits, settings)

    def heard(self, trial: int) -> dict[str, SizeIndicators]:
        """What a trial measured, without the sizes that gave no answer."""
        measured = self.store.indicators(trial)
        mute = self._mute(measured)
        return {name: found for name, found in measured.items() if name not in mute}

    def warnings(self) -> list[str]:
        """That nothing can settle in so few trials, or that delta is too fine."""
        settings, found = self.settings.search, []
        if (fewest := fewest_trials(settings)) > settings.trials:
            found.append(f"No size can settle in under {fewest} trials; this search has {settings.trials}.")
        coarse = [
            size.name
            for size in self.network.sizes
            if settings.delta < resolution(settings.start_width, len(size.voices), settings.epochs)
        ]
        if coarse:
            found.append(
                f"delta {settings.delta:g} is finer than {len(coarse)} of {len(self.network.sizes)} sizes can"
                " show in so few epochs: for them any growth of the rank counts. Give more --epochs or a"
                " larger --delta."
            )
        return found

    def remarks(self, trial: int, states: States) -> list[str]:
        """Which sizes gave no answer."""
        return [
            f"Size {size} keeps its width {states[size].width}: its 1x1 weights show no rank yet."
            for size in self._mute(self.store.indicators(trial))
            if not states[size].stopped
        ]

    def _comparable(self, trial: int) -> SearchSettings:
        """The settings with a delta that means the same in every trial.

        A network that goes on with its weights has learnt most of what it will: all its slopes are smaller
        in each trial. Delta shrinks as their mean does.
        """
        settings = self.settings.search
        if not self.settings.warm or trial == 0:
            return settings
        first, now = (_mean_slope(self.store.indicators(k)) for k in (0, trial))
        return replace(settings, delta=settings.delta * min(1.0, now / first)) if first else settings

    def _mute(self, measured: Mapping[str, SizeIndicators]) -> list[str]:
        """Sizes whose 1x1 weights never left rank 0: that is no slope of 0, but no answer."""
        silent = {size.name for size in self.network.sizes if size.pointwise}
        return [name for name, found in measured.items() if name in silent and not any(found.ranks)]


class BudgetedSlopes(AlgorithmTwo):
    """Algorithm 2 without a delta: the sizes of the steeper slopes take from the others, at equal budget.

    The threshold is the median slope of the sizes that still move, so that about half of them grow in each
    trial; then all are scaled to use the budgets up. The condition has no say: a size is only ever judged
    beside the others.
    """

    needs_budget = True

    def after(self, trial: int, states: States) -> States:
        """The step of Algorithm 2 at the median slope, scaled to the budgets."""
        measured = self.heard(trial)
        moving = [found.slope for name, found in measured.items() if not states[name].stopped]
        settings = replace(
            self.settings.search, delta=statistics.median(moving) if moving else 0.0, mu=sys.float_info.max
        )
        stepped = step_all(states, measured, settings, trial == 0, self.network.grains)
        wished = {
            name: states[name].width * (1 + (0 if after.stopped else after.action * after.phi))
            for name, after in stepped.items()
        }
        return self.spent(wished, states, stepped)

    def warnings(self) -> list[str]:
        """Of Algorithm 2's, those that are not about delta."""
        return [line for line in super().warnings() if not line.startswith("delta")]


def _mean_slope(measured: Mapping[str, SizeIndicators]) -> float:
    slopes = [found.slope for found in measured.values()]
    return sum(slopes) / len(slopes) if slopes else 0.0
