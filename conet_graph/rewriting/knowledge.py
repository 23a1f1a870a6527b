"""What is measured of a network's channels, for whoever chooses widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.costs.cost_model import CostModel

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Knowledge:
    """Which channels matter, and what a width loses.

    Attributes:
        scores: one for each class of channels; the highest of a group stay.
        losses: by the number of a group, the loss once 0, 1, 2, ... of its classes are gone; comparable
            between groups, never falling.
        costs: the network's costs where free sizes of its inputs are known; None: as the file says.

    """

    scores: NDArray[np.float64]
    losses: Mapping[int, NDArray[np.float64]]
    costs: CostModel | None = None

    def loss(self, group: int, gone: int) -> float:
        """What a group loses with so many classes; 0 where nothing is known."""
        curve = self.losses.get(group)
        return 0.0 if curve is None else float(curve[min(gone, len(curve) - 1)])

    def drop_order(
        self, counts: Counts, least: Counts, steps: Counts, measure: Callable[[Counts], float]
    ) -> Counts:
        """Groups' numbers in the order in which they lose a class: the least loss for what is saved first.

        Args:
            counts: classes of each group now.
            least: classes of each group at least.
            steps: classes that go at once.
            measure: the cost of a network with such counts.

        """
        first, counts, now = counts, counts.copy(), measure(counts)
        order: list[int] = []
        left = {int(k) for k in np.flatnonzero(counts > least)}
        while left:
            best, best_price, best_step, best_cost = -1, np.inf, 0, now
            for k in sorted(left):
                step = int(min((counts[k] - 1) % steps[k] + 1, counts[k] - least[k]))
                tried = counts.copy()
                tried[k] -= step
                cost = measure(tried)
                gone = int(first[k] - counts[k])
                lost = self.loss(k, gone + step) - self.loss(k, gone)
                price = lost / max(now - cost, 1e-9 * max(now, 1.0))
                if best < 0 or price < best_price:
                    best, best_price, best_step, best_cost = k, price, step, cost
            order += [best] * best_step
            counts[best] -= best_step
            now = best_cost
            if counts[best] <= least[best]:
                left.discard(best)
        return np.array(order, np.int64)
