"""The least loss under a budget of time: which widths a network keeps when time is short.

A knapsack over the widths of all groups. The time of a layer depends on the widths of two groups, its input's
and its output's, so what a narrower group saves changes with its neighbours: it is worked out anew after each
step. The formulation is that of HALP (Shen et al., arXiv 2110.10811) and MDP (Sun et al., arXiv 2504.02168).
They solve for all groups at once by dynamic or integer programming, per step of a training; here widths are
chosen once, greedily, and improved by exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from conet_graph.passes.tie_channels import Group

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

# The loss of a group (by its number) that keeps so many classes: comparable between groups, 0 where all stay,
# never smaller for fewer.
Loss = Callable[[int, int], float]
ROUNDS = 3  # of exchanges
MANY = 120  # groups: where there are more, exchanges take too long
LEAST_SAVED = 1e-6  # of the budget: what saves less saves nothing


class TimeModel(Protocol):
    """How long a network takes when its groups keep so many classes."""

    def milliseconds(self, counts: Counts) -> float:
        """The whole network's time."""

    def along(self, counts: Counts, group: int, kept: Counts) -> Numbers:
        """The whole network's time less what it is now, where one group keeps each of some counts."""

    def neighbours(self, group: int) -> Sequence[int]:
        """The groups that share an operator with a group, itself among them."""


def ranking_loss(scores: Numbers, groups: Sequence[Group]) -> Loss:
    """The loss by a ranking of channels: how much of a group's squared scores is gone, logarithmic.

    -log of the share that stays, once for every layer that reads the group: it grows without bound as a group
    loses its last channels, so that no group is given up for the others.
    """
    curves: list[Numbers] = []
    for group in groups:
        squares = np.sort(scores[group.classes] ** 2)[::-1]
        kept = np.concatenate([[0.0], np.cumsum(squares)]) / max(float(squares.sum()), 1e-300)
        curves.append(-np.log(np.maximum(kept, 1e-12)) * max(len(group.consumers), 1))
    return lambda group, count: max(float(curves[group][count]), 0.0)


@dataclass
class Knapsack:
    """Groups that may be narrowed, step by step.

    ``steps`` is how many classes of a group come and go at once, ``least`` how many stay at least,
    ``rounds`` how often exchanges between groups are looked for.
    """

    time: TimeModel
    loss: Loss
    movable: NDArray[np.bool_]
    least: Counts
    most: Counts
    steps: Counts
    rounds: int = ROUNDS

    def fill(self, budget: float) -> Counts | None:
        """The widths of least loss that take no longer than the budget; None if none are fast enough."""
        counts = self.most.copy()
        if self.time.milliseconds(np.where(self.movable, self.least, counts)) > budget:
            return None
        counts = self._narrowed(counts, budget)
        counts = self._widened(counts, budget)
        for _ in range(self.rounds if np.count_nonzero(self.movable) <= MANY else 0):
            better = self._exchanged(counts, budget)
            if better is None:
                break
            counts = better
        return counts

    def _levels(self, k: int) -> Counts:
        """The counts that a group may have, rising."""
        step, least, most = int(self.steps[k]), int(self.least[k]), int(self.most[k])
        whole = np.arange(-(-least // step) * step, most, step)
        return np.unique(np.append(whole, [least, most])).astype(np.int64)

    def _narrowed(self, counts: Counts, budget: float) -> Counts:
        """Always the step (of one level or several) that loses least for what it saves, until it fits."""
        counts, now = counts.copy(), self.time.milliseconds(counts)
        moves: dict[int, tuple[float, int]] = {}
        stale: Sequence[int] = np.flatnonzero(self.movable).tolist()
        while now > budget:
            for k in stale:
                moves[k] = self._best_step(counts, k, budget)
            k = min(moves, key=lambda group: (moves[group][0], group))
            price, count = moves[k]
            if price == float("inf"):  # what is left saves nothing: give up what there is
                return np.where(self.movable, self.least, counts)
            counts[k] = count
            now = self.time.milliseconds(counts)
            stale = [g for g in self.time.neighbours(k) if self.movable[g]]
        return counts

    def _best_step(self, counts: Counts, k: int, budget: float) -> tuple[float, int]:
        levels = self._levels(k)
        levels = levels[levels < counts[k]]
        saved = -self.time.along(counts, k, levels)
        here = self.loss(k, int(counts[k]))
        lost = np.array([self.loss(k, int(level)) - here for level in levels])
        worth = saved > LEAST_SAVED * budget
        if not worth.any():
            return float("inf"), int(counts[k])
        prices = np.where(worth, lost / np.where(worth, saved, 1.0), np.inf)
        best = int(np.argmin(prices))
        return float(prices[best]), int(levels[best])

    def _widened(self, counts: Counts, budget: float) -> Counts:
        """Widths given back while they fit: always what saves most loss for the time it takes."""
        counts, now = counts.copy(), self.time.milliseconds(counts)
        while True:
            best, best_gain, best_count = -1, 0.0, 0
            for k in np.flatnonzero(self.movable & (counts < self.most)).tolist():
                levels = self._levels(k)
                levels = levels[levels > counts[k]]
                taken = self.time.along(counts, k, levels)
                here = self.loss(k, int(counts[k]))
                for level, time in zip(levels.tolist(), taken.tolist(), strict=True):
                    gain = (here - self.loss(k, level)) / max(time, LEAST_SAVED * budget)
                    if now + time <= budget and gain > best_gain:
                        best, best_gain, best_count = k, gain, level
            if best < 0:
                return counts
            counts[best] = best_count
            now = self.time.milliseconds(counts)

    def _total(self, counts: Counts) -> float:
        return sum(self.loss(k, int(counts[k])) for k in np.flatnonzero(self.movable).tolist())

    def _exchanged(self, counts: Counts, budget: float) -> Counts | None:
        """The best network in which one group gave a step and others took what that left."""
        best, least = None, self._total(counts) * (1 - 1e-9)
        for k in np.flatnonzero(self.movable).tolist():
            below = self._levels(k)
            below = below[below < counts[k]]
            if not len(below):
                continue
            given = counts.copy()
            given[k] = below[-1]
            taken = self._widened(given, budget)
            total = self._total(taken)
            if total < least:
                best, least = taken, total
        return best
