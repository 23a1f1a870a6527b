"""Small steps towards a cost: what a bisection over all widths leaves is given to single groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

CLOSE = 0.98  # the part of a target that is good enough
ROUNDS = 4
TRIES = 5_000  # exchanges that are looked at in a round, at most


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
        for _ in range(ROUNDS):
            better = self._exchanged(counts) if self.measure(counts) < CLOSE * self.goal else None
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
        """The best network in which one group gave steps, few at first, and another took what fits.

        None where no exchange comes closer, or where looking for one takes too long.
        """
        best, most, tries = None, self.measure(counts), 0
        groups = np.flatnonzero(self.least < self.most).tolist()
        giving = dict.fromkeys(groups, counts)
        while giving and tries < TRIES:
            for give in list(giving):
                given = self._narrower(giving[give], give)
                if given[give] == giving[give][give]:
                    del giving[give]  # at its least
                    continue
                giving[give] = given
                for take in groups:
                    if take == give:
                        continue
                    tried, cost = self._filled(given, take)
                    tries += 1
                    if most < cost <= self.goal:
                        best, most = tried, cost
                if most >= CLOSE * self.goal:
                    return best
        return best

    def _filled(self, counts: Counts, k: int) -> tuple[Counts, float]:
        """Counts with as much as fits of one group, and their cost."""
        step, made = int(self.steps[k]), counts.copy()
        low, high = (
            0,
            -(-int(self.most[k] - counts[k]) // step),
        )  # low fit, more than high are not there
        while low < high:
            middle = (low + high + 1) // 2
            made[k] = min((counts[k] // step + middle) * step, self.most[k])
            if self.measure(made) <= self.goal:
                low = middle
            else:
                high = middle - 1
        made[k] = min((counts[k] // step + low) * step, self.most[k]) if low else counts[k]
        return made, self.measure(made)
