"""What makes the next widths of what the trials so far have measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from conet_graph.ir.errors import BadUsage
from conet_graph.search.algorithm import EXPAND, SHRINK, STAY, SizeState, start_state
from conet_graph.search.network import Limits, Network
from conet_graph.search.run_store import RunStore
from conet_graph.search.settings import RunSettings
from conet_graph.trials.randomness import seed_of

States = dict[str, SizeState]
Widths = dict[str, int]


@dataclass(frozen=True)
class Rule(ABC):
    """A rule of one search. It keeps nothing: all it decides follows from the database and the settings.

    Attributes:
        keeps_weights: trials go on with the last one's weights, whether --warm is given or not.
        needs_budget: the rule moves a budget from size to size, and so must have one.
        weighs: what the sizes are worth is measured after each trial (`conet_graph.search.worth`).
        decides_by_test: the rule looks at the test part of the data.

    """

    network: Network
    store: RunStore
    settings: RunSettings

    keeps_weights: ClassVar[bool] = False
    needs_budget: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    decides_by_test: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse a search without the budget that the rule moves."""
        if self.needs_budget and self.limits == Limits():
            raise BadUsage(
                f"The rule {self.settings.rule} moves a budget between sizes: give --max-params, --max-macs"
                " or both (1.0: what the file has)."
            )

    @property
    def limits(self) -> Limits:
        """The budgets, in absolute numbers."""
        return self.network.limits(self.settings)

    def first(self) -> States:
        """The states of the first trial."""
        settings = self.settings.search
        wished = dict.fromkeys(self.network.grains, float(settings.start_width))
        rounded = self.network.rounded(wished, settings)
        widths = self.network.own_widths() if self.settings.own_widths else rounded
        states = {name: start_state(settings, width) for name, width in widths.items()}
        return self.network.within(states, self.limits, settings)

    @abstractmethod
    def after(self, trial: int, states: States) -> States:
        """The states for the trial after this one, from what it measured and what it was trained with."""

    def seed(self, trial: int) -> int:
        """Of a trial's fresh weights and order of images."""
        return seed_of(self.settings.seed, trial)

    def warnings(self) -> list[str]:
        """What to say before the first trial: what these settings cannot find out."""
        if not self.decides_by_test:
            return []
        return [
            f"The rule {self.settings.rule} decides by the test part of the data: judge what it finds by"
            " other images."
        ]

    def remarks(self, trial: int, states: States) -> list[str]:
        """What to say after a trial."""
        return []

    def loss(self, trial: int) -> float:
        """Of a trial's network on the test part of the data, after its last epoch."""
        found = self.store.metrics(trial)[-1].get("test_loss")
        if found is None:
            raise BadUsage(
                f"The rule {self.settings.rule} compares losses: the trial must yield a test_loss."
            )
        return found

    def changed(self, widths: Widths, before: Widths) -> States:
        """States of some widths that all move, their actions as the table shows them."""
        made = {}
        for name, width in widths.items():
            change = width - before.get(name, width)
            action = EXPAND if change > 0 else SHRINK if change < 0 else STAY
            made[name] = SizeState(width, action, self.settings.search.phi, False)
        return made

    def spent(self, wished: Mapping[str, float], states: States, actions: States) -> States:
        """States whose moving sizes have these proportions and use up the budgets; bounds go before budgets.

        Args:
            wished: width of every size before rounding.
            states: of the trial that was measured; settled sizes keep their widths.
            actions: with the actions, steps and stops of the next trial.

        """
        settings = self.settings.search
        filled = self.network.filled(wished, self.limits, settings.multiple) or {}
        bounded = self.network.rounded({name: filled.get(name, wished[name]) for name in wished}, settings)
        made = {}
        for name, after in actions.items():
            width = states[name].width if after.stopped else bounded[name]
            made[name] = SizeState(width, after.action, after.phi, after.stopped)
        return self.network.within(made, self.limits, settings)
