"""Two layers whose outputs are added, fitted as one: what the sum lacks, either of them may give.

One after the other, the first is fitted to what it put out alone, and what it cannot say the second cannot
always say for it. Side by side their features are the features of one layer, and the sum is its target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conet_graph.calibration.forms import Form
from conet_graph.calibration.gram import FEW_RIDGES, RIDGES, Floats, Moments, add_feed, chosen
from conet_graph.calibration.large import most_features
from conet_graph.calibration.pair import Pair
from conet_graph.calibration.rectified import MOST_HELD, Rows, rectified
from conet_graph.calibration.rows import Picks, most_rows
from conet_graph.calibration.solving import Doubles
from conet_graph.passes.classify_edges import Layer


@dataclass(frozen=True)
class Branch:
    """A layer of the narrowed network, and what it adds to the sum: its features times a matrix, and a bias.

    Attributes:
        layer: the layer.
        form: how its weight reads as a matrix.
        gain: of a BatchNorm behind it, for each output [O]; else ones.
        starts: matrices [1, F, O], times the gain, that no fit has touched: its weights first, and what else
            a fit may be pulled towards.
        before: what it added beside its first start [1, O].
        bias: what it adds beside its matrix now [1, O].

    """

    layer: Layer
    form: Form
    gain: Doubles
    starts: list[Doubles]
    before: Doubles
    bias: Doubles


@dataclass(frozen=True)
class Fitted:
    """New matrices of both branches, and what is to be added to the bias of one of them [1, O]."""

    matrices: list[Doubles]
    offset: Doubles
    ridge: float
    before: float
    after: float


def fitted_together(pair: Pair, branches: Sequence[Branch], quick: bool) -> Fitted | None:
    """Fit the layers of a sum; None where that helps nothing on rows which the fit does not see.

    Args:
        pair: both networks; what reaches the branches and the original's sum are at hand.
        branches: the layers of a sum.
        quick: to compare widths: fewer strengths are tried, and no fit is made again for a rectifier.

    """
    features = sum(branch.starts[0].shape[1] for branch in branches)
    if features > most_features(quick) or any(len(branch.starts[0]) != 1 for branch in branches):
        return None
    bounds = None if quick else pair.bounds(branches[-1].layer)
    rows = _Table(pair, branches, most_rows(features, 1, quick))
    sized = list(zip(branches, rows.sizes, strict=True))
    seen, aside, held = Moments(), Moments(), Rows([])
    for k in range(len(pair.new.feeds)):
        x, y = rows.of(k)
        if bounds is not None and x.size * len(pair.new.feeds) <= MOST_HELD:
            held.add(x, y, None)
        add_feed(k, x, y, seen, aside)
    seen.settle()
    aside.settle()
    bias = np.sum([branch.bias for branch in branches], axis=0)
    # Not from the weights as they are: they were fitted to rows that are now to judge.
    starts = [
        np.concatenate([b.starts[min(n, len(b.starts) - 1)] * size for b, size in sized], axis=1)
        for n in range(max(len(branch.starts) for branch in branches))
    ]
    before = np.sum([branch.before for branch in branches], axis=0)
    start, ridge, before_it, after = chosen(
        seen, aside, starts, before, True, FEW_RIDGES if quick else RIDGES
    )
    if ridge is None:
        return None
    system = seen.plus(aside).system(True)
    solve = system.solver(ridge)
    if bounds is not None and held.parts:
        matrix, new_bias = rectified(held, system, solve, start, bounds)
    else:
        matrix = start + solve(system.gap(start))
        new_bias = system.intercept(matrix)
    parts = np.split(matrix, np.cumsum([b.starts[0].shape[1] for b in branches])[:-1], axis=1)
    matrices = [part / size for part, size in zip(parts, rows.sizes, strict=True)]
    return Fitted(matrices, new_bias - bias, ridge, before_it, after)


class _Table:
    """The features of both layers side by side, each in units of its own size, and the sum."""

    def __init__(self, pair: Pair, branches: Sequence[Branch], most: int) -> None:
        self.pair, self.branches = pair, branches
        self.limit = most // len(pair.new.feeds) + 1
        self.sizes = [float(np.sqrt(np.square(part).mean())) or 1.0 for part in self._parts(0)]

    def _parts(self, k: int) -> list[Floats]:
        """Rows of each layer, the same places for all."""
        seed = [self.branches[-1].layer.op.index, k]
        return [
            branch.form.rows(
                self.pair.new.values[branch.layer.op.input(branch.layer.data_slot)][k],
                self.pair.total(branch.layer, k).shape,
                Picks(seed, self.limit),
            )
            for branch in self.branches
        ]

    def of(self, k: int) -> tuple[Floats, Floats]:
        """Features [1, n, F] and targets [1, n, O] of a feed."""
        parts = [part / np.float32(size) for part, size in zip(self._parts(k), self.sizes, strict=True)]
        last = self.branches[-1]
        pick = Picks([last.layer.op.index, k], self.limit)
        return np.concatenate(parts, axis=2), last.form.targets(self.pair.total(last.layer, k), pick)
