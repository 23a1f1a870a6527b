"""Small steps towards a cost: what a bisection over all widths leaves is given to single groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

CLOSE = 0.98  # the part of a target that is good enough
TRIES = 20_000  # exchanges that are looked at, at most: a second or two in the largest networks


@dataclass(frozen=True)
class Fit:
    """A goal for a cost that grows with every count, and the limits of the counts.

    ``steps`` is how many classes of a group come and go at once; ``order`` holds groups' numbers, the
    group that deserves a step most first.
    """

    measure: Callable[[Counts], float]
    goal: float
    least: Counts
    most: Counts
    steps: Counts
    order: Counts

    def fill(self, counts: Counts) -> Counts:
        """Counts whose cost comes closer to the goal, from below: within 2 % if steps lead there."""
        counts = self._topped_up(counts)
        for _ in range(TRIES):
            if self.measure(counts) >= CLOSE * self.goal:
                break
            better = self._exchanged(counts)
            if better is None:
                break
            counts = better
        return counts

    def _wider(self, counts: Counts, k: int) -> Counts:
        made = counts.copy()
        made[k] = min((counts[k] // self.steps[k] + 1) * self.steps[k], self.most[k])
        return made

    def _narrower(self, counts: Counts, k: int) -> Counts:
        made = counts.copy()
        made[k] = max((counts[k] - 1) // self.steps[k] * self.steps[k], self.least[k])
        return made

    def _topped_up(self, counts: Counts) -> Counts:
        """A step for each entry of the order whose group it fits, until the goal is close."""
        closed: set[int] = set()
        now = self.measure(counts)
        for k in self.order.tolist():
            if now >= CLOSE * self.goal:
                break
            if k in closed or counts[k] >= self.most[k]:
                continue
            tried = self._wider(counts, k)
            cost = self.measure(tried)
            if cost <= self.goal:
                counts, now = tried, cost
            else:
                closed.add(k)  # costs only grow: it will not fit later either
        return counts

    def _exchanged(self, counts: Counts) -> Counts | None:
        """The best network in which one group gave a step, and another took one or two; None: no better."""
        best, most = None, self.measure(counts)
        groups = np.flatnonzero(self.least < self.most).tolist()
        pairs = ((give, take) for give in groups for take in groups if give != take)
        for tries, (give, take) in enumerate(pairs):
            if tries >= TRIES or most >= CLOSE * self.goal:
                break
            tried = self._narrower(counts, give)
            if tried[give] == counts[give]:
                continue
            for _ in range(2):
                tried = self._wider(tried, take)
                cost = self.measure(tried)
                if most < cost <= self.goal:
                    best, most = tried, cost
        return best
