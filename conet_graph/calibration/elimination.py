"""Which channels can be rebuilt from the others: they are taken out one by one, the least missed first.

A layer that loses a channel can make up for it as far as the channels that stay tell what it held. With the
inverse K of the features' covariances, taking feature c out costs the layer w_c' w_c / K_cc of its output's
energy *after* the best refit of its weights, and both are updated in closed form (Hassibi and Stork, Second
order derivatives for network pruning, 1993; in blocks: Frantar and Alistarh, Optimal brain compression,
2022). A channel that several layers read costs what all of them miss, each in shares of its own variance.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.gram import Doubles
from conet_graph.calibration.statistics import Reading
from conet_graph.passes.channels.units import Ids

# Of the features' mean square: what cannot be told apart below this counts as rebuilt.
DAMPING = 1e-3


@dataclass(frozen=True)
class Elimination:
    """Classes of a group in the order in which they go, and the loss once so many are gone.

    ``losses`` has one entry more than ``order``: none gone, one gone, ... all gone.
    """

    order: Ids
    losses: Doubles


class _State:
    """One block of a reading while features are taken out of it."""

    def __init__(self, reading: Reading, block: int, wanted: Ids, weight: float) -> None:
        classes = reading.classes[block]
        moments = reading.moments[block].astype(np.float64)
        scale = np.trace(moments) / max(len(moments), 1)
        moments[np.diag_indices_from(moments)] += DAMPING * scale + 1e-20
        self.inverse: NDArray[np.float64] = np.linalg.inv(moments)
        self.weight = reading.weight[block].astype(np.float64)
        self.share = weight / max(reading.spread, 1e-30)
        place = {int(c): np.flatnonzero(classes == c) for c in wanted}
        self.features = {c: found for c, found in place.items() if len(found)}

    def costs(self, classes: list[int]) -> Doubles:
        """What each class would cost if it went next; 0 for one that is not read here."""
        found = np.zeros(len(classes))
        here = [k for k, c in enumerate(classes) if c in self.features]
        sizes = {len(self.features[classes[k]]) for k in here}
        for size in sizes:
            same = [k for k in here if len(self.features[classes[k]]) == size]
            index = np.stack([self.features[classes[k]] for k in same])
            held = self.weight[index]  # [n, m, O]
            if size == 1:
                energy = np.square(held[:, 0]).sum(1) / self.inverse[index[:, 0], index[:, 0]]
            else:
                inner = self.inverse[index[:, :, None], index[:, None, :]]
                energy = (held * np.linalg.solve(inner, held)).sum((1, 2))
            found[same] = energy
        return np.asarray(found * self.share)

    def take_out(self, klass: int) -> None:
        """Take a class out; the others' weights make up for it."""
        index = self.features.pop(klass, None)
        if index is None:
            return
        columns = self.inverse[:, index]
        gain = np.linalg.solve(self.inverse[np.ix_(index, index)], np.eye(len(index)))
        steps = columns @ gain
        self.weight -= steps @ self.weight[index]
        self.inverse -= steps @ columns.T
        # What is gone stays gone, to the last bit.
        self.inverse[index], self.inverse[:, index] = 0.0, 0.0
        self.inverse[index, index] = 1.0
        self.weight[index] = 0.0


def eliminate(
    classes: Ids, read_by: list[tuple[Reading, float]], dead: Collection[int] = ()
) -> Elimination | None:
    """Take the classes of a group out one by one.

    Args:
        classes: the group's.
        read_by: what reads them, each with the weight of its loss.
        dead: those without which the outputs stay as they are: they go first, for nothing.

    Returns:
        The order and the losses; None where nothing that is known reads them.

    """
    states = [
        state
        for reading, weight in read_by
        for block in range(len(reading.classes))
        if (state := _State(reading, block, classes, weight)).features
    ]
    if not states:
        return None
    left = [int(c) for c in classes]
    order: list[int] = []
    losses = [0.0]
    while left:
        costs = np.sum([state.costs(left) for state in states], axis=0)
        costs[[klass in dead for klass in left]] = 0.0
        least = next((n for n, klass in enumerate(left) if klass in dead), int(np.argmin(costs)))
        klass = left.pop(least)
        for state in states:
            state.take_out(klass)
        order.append(klass)
        losses.append(losses[-1] + float(costs[least]))
    return Elimination(np.array(order, np.int64), np.array(losses))
