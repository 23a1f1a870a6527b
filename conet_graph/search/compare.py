"""The widths that a search found beside others at equal parameters, all trained alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.search.network import Network, largest
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import Compared, RunStore
from conet_graph.search.runner import Tools, epochs_of
from conet_graph.search.settings import RunSettings
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.randomness import seed_of

# What is compared: the found widths; the file's own scaled by one factor (compound scaling) and widths
# drawn at random, both at the parameters of the found ones; the file's own.
KINDS = ("conet", "uniform", "random", "original")
# The widest factor by which the file's own widths are scaled.
WIDEST = 64.0
# Tells the seeds of a comparison apart from those of the search.
COMPARISON = 1_000_003


@dataclass(frozen=True, slots=True)
class Summary:
    """One kind of network over all its seeds.

    Attributes:
        kind: one of `KINDS`.
        widths: smallest and largest width, over all seeds.
        parameters, macs: means over seeds.
        epochs: how long each was trained.
        accuracies: test accuracies (0 to 1), by seed; without those that diverged.
        seeds: how many were trained.
        seconds: mean time of one training.

    """

    kind: str
    widths: tuple[int, int]
    parameters: int
    macs: int
    epochs: int
    accuracies: tuple[float, ...]
    seeds: int
    seconds: float

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy."""
        return statistics.mean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the test accuracy over seeds; None for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


class Comparison:
    """Trains what is compared, one network after the other; what is recorded is not trained again."""

    def __init__(
        self, folder: RunFolder, store: RunStore, settings: RunSettings, network: Network, tools: Tools
    ) -> None:
        """Take a search that has at least one finished trial.

        Raises:
            BadUsage: it has none.

        """
        done = [trial.trial for trial in store.trials() if trial.status == "finished"]
        if not done:
            raise BadUsage(
                f"{shown(str(folder.path))} has no finished trial yet: there is nothing to compare."
            )
        self.folder, self.store, self.settings = folder, store, settings
        self.network, self.tools = network, tools
        self.found = {name: state.width for name, state in store.states(done[-1]).items()}
        self.parameters, _ = network.cost(self.found)

    def run(self, epochs: int, seeds: int, tell: Callable[[Compared], None] = lambda _: None) -> None:
        """Train every kind with every seed, from fresh weights; ``tell`` hears of each that is done."""
        have = {(row.kind, row.seed) for row in self._alike(epochs)}
        for seed in range(seeds):
            for kind in KINDS:
                if (kind, seed) not in have:
                    made = self._trained(kind, seed, epochs)
                    self.store.record_compared(made)
                    self.folder.drop_checkpoint(self._checkpoint(kind, seed, epochs))
                    tell(made)

    def summaries(self, epochs: int) -> list[Summary]:
        """What is recorded of networks trained for so many epochs, kind by kind."""
        rows = self._alike(epochs)
        return [
            _summary([row for row in rows if row.kind == k]) for k in KINDS if any(r.kind == k for r in rows)
        ]

    def _alike(self, epochs: int) -> list[Compared]:
        """What is recorded of networks that were trained as these are to be."""
        wanted = (epochs, self.settings.training.schedule)
        return [row for row in self.store.comparison() if (row.epochs, row.schedule) == wanted]

    def _checkpoint(self, kind: str, seed: int, epochs: int) -> str:
        return f"compare-{kind}-{seed}-{epochs}-{self.settings.training.schedule}"

    def widths(self, kind: str, seed: int) -> dict[str, int]:
        """The widths of one network of the comparison."""
        own = self.network.own_widths()
        if kind == "conet":
            return self.found
        if kind == "original":
            return own
        if kind == "uniform":
            return self._at_equal_parameters({name: float(width) for name, width in own.items()})
        bounds, rng = self.settings.search, np.random.default_rng([self.settings.seed, COMPARISON, seed])
        low, high = math.log(bounds.min_width), math.log(bounds.max_width)
        return self._at_equal_parameters({name: math.exp(rng.uniform(low, high)) for name in own})

    def _at_equal_parameters(self, shape: dict[str, float]) -> dict[str, int]:
        """Widths in these proportions that have as many parameters as the found ones, or just fewer."""
        units = {
            name: math.lcm(multiple, self.settings.search.multiple)
            for name, multiple in self.network.multiples.items()
        }

        def scaled(factor: float) -> dict[str, int]:
            return {n: max(1, math.floor(w * factor / units[n] + 0.5)) * units[n] for n, w in shape.items()}

        widths = largest(scaled, lambda tried: self.network.cost(tried)[0] <= self.parameters, 0.0, WIDEST)
        if widths is None:
            raise BadUsage("No other network is as small as the one that was found.")
        return widths

    def _trained(self, kind: str, seed: int, epochs: int) -> Compared:
        widths = self.widths(kind, seed)
        parameters, macs = self.network.cost(widths)
        key = seed_of(self.settings.seed, COMPARISON, seed)
        module = self.tools.to_module(self.network.at(widths, key))
        checkpoint = self.folder.checkpoint(self._checkpoint(kind, seed, epochs))
        accuracy, spent = None, 0.0
        try:
            with closing(epochs_of(self.tools.trial(1.0), module, epochs, key, checkpoint)) as training:
                for _, metrics, seconds in training:
                    accuracy = metrics.get("test_accuracy")
                    spent += seconds
        except TrialFailed:
            accuracy = None
        schedule = self.settings.training.schedule
        return Compared(kind, seed, widths, parameters, macs, epochs, schedule, accuracy, spent)


def _summary(rows: list[Compared]) -> Summary:
    widths = [width for row in rows for width in row.widths.values()]
    return Summary(
        rows[0].kind,
        (min(widths), max(widths)),
        round(statistics.mean(row.parameters for row in rows)),
        round(statistics.mean(row.macs or 0 for row in rows)),
        rows[0].epochs,
        tuple(row.test_accuracy for row in rows if row.test_accuracy is not None),
        len(rows),
        statistics.mean(row.seconds for row in rows),
    )
