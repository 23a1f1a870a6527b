"""What is measured of a network's channels, for whoever chooses widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

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

        def offer(k: int) -> tuple[float, int, int]:
            """What a step of a group loses for each unit saved, the group, the step."""
            step = int(min((counts[k] - 1) % steps[k] + 1, counts[k] - least[k]))
            tried = counts.copy()
            tried[k] -= step
            gone = int(first[k] - counts[k])
            lost = self.loss(k, gone + step) - self.loss(k, gone)
            return lost / max(now - measure(tried), 1e-9 * max(now, 1.0)), k, step

        offers = [offer(int(k)) for k in np.flatnonzero(counts > least)]
        heapify(offers)
        while offers:
            # What a step saves only falls while other groups shrink: an offer that is still the best when it
            # is made again is the best of all.
            _, k, step = heappop(offers)
            again = offer(k)
            if offers and again > offers[0]:
                heappush(offers, again)
                continue
            order += [k] * step
            counts[k] -= step
            now = measure(counts)
            if counts[k] > least[k]:
                heappush(offers, offer(k))
        return np.array(order, np.int64)
