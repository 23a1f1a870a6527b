"""Which channels can be rebuilt from the others: they are taken out one by one, the least missed first.

A layer that loses a channel can make up for it as far as the channels that stay tell what it held. With the
inverse K of the features' covariances, taking feature c out costs the layer w_c' w_c / K_cc of its output's
energy *after* the best refit of its weights, and both are updated in closed form (Hassibi and Stork, Second
order derivatives for network pruning, 1993; in blocks: Frantar and Alistarh, Optimal brain compression,
2022). A channel that several layers read costs what all of them miss, each in shares of its own variance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.statistics import Reading
from conet_graph.passes.channels.units import Ids

# Of the features' mean square: what cannot be told apart below this counts as rebuilt.
DAMPING = 1e-3
# Classes among which the next ones to go are sought at once: a share of those that are left, and at most.
SOUGHT, MOST_SOUGHT = 8, 128
# Of so many classes, one goes at once, wherever others have come to stand meanwhile.
AT_ONCE = 128
# Share of the features which, once gone, are cut out of the tables.
EMPTY = 0.1


@dataclass(frozen=True)
class Elimination:
    """Classes of a group in the order in which they go, and the loss once so many are gone.

    ``losses`` has one entry more than ``order``: none gone, one gone, ... all gone.
    """

    order: Ids
    losses: Doubles


@dataclass
class _State:
    """One block of a reading while features are taken out of it.

    Attributes:
        inverse: of the features' covariances [F, F].
        weight: what the features are multiplied with [F, O].
        share: what a unit of the output's energy counts.
        features: of each class that is left.
        gone: features that are still there, as zeros.

    """

    inverse: Doubles
    weight: Doubles
    share: float
    features: dict[int, Ids]
    gone: int = 0

    @staticmethod
    def of(reading: Reading, block: int, wanted: Ids, weight: float) -> _State:
        """Nothing is taken out yet; ``wanted`` are the classes that may go."""
        classes = reading.classes[block]
        moments = reading.moments[block].astype(np.float64)
        scale = np.trace(moments) / max(len(moments), 1)
        moments[np.diag_indices_from(moments)] += DAMPING * scale + 1e-20
        place = {int(c): np.flatnonzero(classes == c) for c in wanted}
        whole = _State(
            np.linalg.inv(moments),
            reading.weight[block].astype(np.float64),
            weight / max(reading.spread, 1e-30),
            {c: found for c, found in place.items() if len(found)},
        )
        return whole.part(list(whole.features))  # what features of other groups say is in the inverse

    def part(self, classes: Sequence[int]) -> _State:
        """These classes alone: what they cost as they go needs no others."""
        here = {c: self.features[c] for c in classes if c in self.features}
        index = np.concatenate([np.zeros(0, np.int64), *here.values()])
        ends = np.cumsum([len(found) for found in here.values()])
        places = {c: np.arange(end - len(here[c]), end) for c, end in zip(here, ends, strict=True)}
        return _State(self.inverse[np.ix_(index, index)], self.weight[index], self.share, places)

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

    def take_out(self, classes: Sequence[int]) -> None:
        """Take classes out; the others' weights make up for them."""
        gone = [self.features.pop(klass) for klass in classes if klass in self.features]
        if not gone:
            return
        index = np.concatenate(gone)
        columns = self.inverse[:, index]
        steps = np.linalg.solve(self.inverse[np.ix_(index, index)], columns.T).T
        self.weight -= steps @ self.weight[index]
        self.inverse -= steps @ columns.T
        # What is gone stays gone, to the last bit.
        self.inverse[index], self.inverse[:, index] = 0.0, 0.0
        self.inverse[index, index] = 1.0
        self.weight[index] = 0.0
        self.gone += len(index)
        if self.gone > EMPTY * len(self.inverse):
            smaller = self.part(list(self.features))
            self.inverse, self.weight, self.features = smaller.inverse, smaller.weight, smaller.features
            self.gone = 0


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
        if (state := _State.of(reading, block, classes, weight)).features
    ]
    if not states:
        return None
    left = [int(c) for c in classes]
    order = [klass for klass in left if klass in dead]
    losses = [0.0] * (len(order) + 1)
    going = order[:]
    while len(order) < len(classes):
        for state in states:
            state.take_out(going)
        left = [klass for klass in left if klass not in going]
        found = _next(states, left)
        going = [klass for klass, _ in found]
        order += going
        losses += (losses[-1] + np.cumsum([cost for _, cost in found])).tolist()
    return Elimination(np.array(order, np.int64), np.array(losses))


def _next(states: Sequence[_State], left: list[int]) -> list[tuple[int, float]]:
    """The next classes to go, in their order, and what each costs.

    As a rule a class costs more once others are gone. So the cheapest few are taken out by themselves, as
    long as one of them costs less than the others did at first; of a large group some go anyway.
    """
    costs = np.sum([state.costs(left) for state in states], axis=0)
    cheapest = np.argsort(costs, kind="stable")
    sought = min(max(len(left) // SOUGHT, 1), MOST_SOUGHT)
    some = [left[n] for n in cheapest[:sought]]
    limit = costs[cheapest[sought]] if sought < len(left) else np.inf
    parts = [state.part(some) for state in states]
    found: list[tuple[int, float]] = []
    while some:
        costs = np.sum([part.costs(some) for part in parts], axis=0)
        least = int(np.argmin(costs))
        if len(found) > len(left) // AT_ONCE and costs[least] > limit:
            break
        klass = some.pop(least)
        found.append((klass, float(costs[least])))
        for part in parts:
            part.take_out([klass])
    return found
