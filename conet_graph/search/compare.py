"""The widths that a search found beside others at equal cost, all trained alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.latency.sessions import LEAST_ROUNDS, Times, conditions_of, opened, rounds
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.search.network import Limits, Network
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import ComparedRow, RunStore
from conet_graph.search.runner import Tools, epochs_of
from conet_graph.search.settings import RunSettings
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.randomness import seed_of

# What is compared: the found widths; at their cost the file's own scaled by one factor (compound scaling),
# one width everywhere, and widths drawn at random; the file's own.
KINDS = ("conet", "uniform", "flat", "random", "original")
# Those that are made to cost what the found widths cost.
MATCHED = ("uniform", "flat", "random")
# In what they are to cost no more: parameters, multiply-accumulates, or both.
MATCHES = ("params", "macs", "both")
# How long each network is timed.
TIMED_SECONDS = 0.5
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
        latency_ms: median time of one run in ONNX Runtime on one thread of the processor, BatchNorm folded
            as in the file; mean over its widths. None where it does not run there.
        ahead: by how much the found widths are ahead of this kind: mean of the differences of test accuracy
            seed by seed, and half of their 95 % t interval; None for fewer than two pairs.

    """

    kind: str
    widths: tuple[int, int]
    parameters: int
    macs: int
    epochs: int
    accuracies: tuple[float, ...]
    seeds: int
    seconds: float
    latency_ms: float | None = field(default=None, compare=False)
    ahead: tuple[float, float] | None = None

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
        self,
        folder: RunFolder,
        store: RunStore,
        settings: RunSettings,
        network: Network,
        tools: Tools,
        match: str = "params",
    ) -> None:
        """Take a search that has at least one finished trial; ``match`` is one of `MATCHES`.

        Raises:
            BadUsage: it has none, or nothing can be matched so.

        """
        if match not in MATCHES:
            raise BadUsage(f"--match is {match!r}: choose one of {', '.join(MATCHES)}.")
        done = [trial.trial for trial in store.trials() if trial.status == "finished"]
        if not done:
            raise BadUsage(
                f"{shown(str(folder.path))} has no finished trial yet: there is nothing to compare."
            )
        self.folder, self.store, self.settings = folder, store, settings
        self.network, self.tools = network, tools
        self.found = {name: state.width for name, state in store.states(done[-1]).items()}
        self.match, self.cost = match, network.cost(self.found)

    def run(self, epochs: int, seeds: int, tell: Callable[[ComparedRow], None] = lambda _: None) -> None:
        """Train every kind with every seed, from fresh weights; ``tell`` hears of each that is done."""
        have = {(row.kind, row.seed) for row in self._alike(epochs)}
        for seed in range(seeds):
            for kind in KINDS:
                if (self._recorded(kind), seed) not in have:
                    made = self._trained(kind, seed, epochs)
                    self.store.record_compared(made)
                    self.folder.drop_checkpoint(self._checkpoint(kind, seed, epochs))
                    tell(made)

    def summaries(self, epochs: int) -> list[Summary]:
        """What is recorded of networks trained for so many epochs, kind by kind."""
        rows = self._alike(epochs)
        by_kind = {k: [row for row in rows if row.kind == self._recorded(k)] for k in KINDS}
        found = [_summary(k, mine, by_kind["conet"]) for k, mine in by_kind.items() if mine]
        return [replace(one, latency_ms=self._latency(by_kind[one.kind])) for one in found]

    def _latency(self, rows: list[ComparedRow]) -> float | None:
        """Mean over the networks of these rows, each width once."""
        every = {tuple(row.widths.items()): row.widths for row in rows}
        try:
            return statistics.mean(self._milliseconds(widths) for widths in every.values())
        except Refused:
            return None

    def _milliseconds(self, widths: Mapping[str, int]) -> float:
        model = self.network.at(widths, self.settings.seed)
        if self.network.batchnorm_inserted:
            model = fold_batchnorm(model)
        timed = opened(model.proto, model.folder, conditions_of(None, 1))
        return Times.of([timed.run() for _ in rounds(LEAST_ROUNDS, TIMED_SECONDS)]).median

    def _recorded(self, kind: str) -> str:
        """A kind as it is recorded: what was matched otherwise is another one."""
        return kind if self.match == "params" or kind not in MATCHED else f"{kind} ({self.match})"

    def _alike(self, epochs: int) -> list[ComparedRow]:
        """What is recorded of networks that were trained as these are to be."""
        wanted = (epochs, self.settings.training.schedule)
        return [row for row in self.store.comparison() if (row.epochs, row.schedule) == wanted]

    def _checkpoint(self, kind: str, seed: int, epochs: int) -> str:
        named = self._recorded(kind).replace(" ", "-")
        return f"compare-{named}-{seed}-{epochs}-{self.settings.training.schedule}"

    def widths(self, kind: str, seed: int) -> dict[str, int]:
        """The widths of one network of the comparison."""
        own = self.network.own_widths()
        if kind == "conet":
            return self.found
        if kind == "original":
            return own
        if kind == "uniform":
            return self._at_equal_cost({name: float(width) for name, width in own.items()})
        if kind == "flat":
            return self._at_equal_cost(dict.fromkeys(own, float(min(own.values()))))
        bounds, rng = self.settings.search, np.random.default_rng([self.settings.seed, COMPARISON, seed])
        low, high = math.log(bounds.min_width), math.log(bounds.max_width)
        return self._at_equal_cost({name: math.exp(rng.uniform(low, high)) for name in own})

    def _at_equal_cost(self, shape: dict[str, float]) -> dict[str, int]:
        """Widths in these proportions that cost as much as the found ones, or just less."""
        parameters, macs = self.cost
        limits = Limits(
            parameters if self.match != "macs" else None, macs if self.match != "params" else None
        )
        widths = self.network.filled(shape, limits, self.settings.search.multiple)
        if widths is None:
            raise BadUsage("No other network is as small as the one that was found.")
        return widths

    def _trained(self, kind: str, seed: int, epochs: int) -> ComparedRow:
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
        return ComparedRow(
            self._recorded(kind), seed, widths, parameters, macs, epochs, schedule, accuracy, spent
        )


def _ahead(found: list[ComparedRow], rows: list[ComparedRow]) -> tuple[float, float] | None:
    """Mean difference of test accuracy, pair by pair of one seed, and half of its 95 % t interval."""
    others = {row.seed: row.test_accuracy for row in rows}
    pairs = [(row.test_accuracy, others.get(row.seed)) for row in found]
    differences = [mine - other for mine, other in pairs if mine is not None and other is not None]
    if len(differences) < 2:
        return None
    from scipy.stats import t

    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), float(half)


def _summary(kind: str, rows: list[ComparedRow], found: list[ComparedRow]) -> Summary:
    widths = [width for row in rows for width in row.widths.values()]
    return Summary(
        kind,
        (min(widths), max(widths)),
        round(statistics.mean(row.parameters for row in rows)),
        round(statistics.mean(row.macs or 0 for row in rows)),
        rows[0].epochs,
        tuple(row.test_accuracy for row in rows if row.test_accuracy is not None),
        len(rows),
        statistics.mean(row.seconds for row in rows),
        ahead=None if kind == "conet" else _ahead(found, rows),
    )
