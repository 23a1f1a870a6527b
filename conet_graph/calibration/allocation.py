"""Loss curves made comparable by measurement: what a step narrower costs the outputs, where it is taken.

A layer's own loss says little about the outputs' error: what an early layer loses, later ones make up for
when they are refitted, and nothing makes up for the last. So, with all widths as chosen, neighbouring groups
are narrowed by one more step at a time, the network is refitted quickly, and the outputs' error is measured.
Each curve is scaled by what its step really cost, and the widths are chosen again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.output_error import Judge
from conet_graph.calibration.refit import Covariances, Tick, refit
from conet_graph.calibration.side_by_side import Workers, workers
from conet_graph.calibration.stages import Feeds
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.knowledge import Counts, Knowledge

Copies = NDArray[np.int64]
# A step that seems to cost nothing costs this share of the median one: measurements are noisy.
LEAST_SHARE = 0.05
# How far curves follow what was measured: whole, and half of the way (as exponents). Slopes are noisy, and
# hold near the widths at which they were measured.
STRENGTHS = (1.0, 0.5)


@dataclass
class Trials:
    """Networks of chosen channels, refitted quickly, and the errors of their outputs, each measured once.

    ``at_once``: trials whose feature maps memory holds together.
    """

    graph: Graph
    feeds: Feeds
    judge: Judge
    at_once: int = 1
    known: dict[bytes, float] = field(default_factory=dict)
    covariances: Covariances = field(default_factory=dict)

    def error(self, copies: Copies) -> float:
        """The error of the outputs with these copies of each class."""
        key = copies.tobytes()
        if key not in self.known:
            self.measure([copies])
        return self.known[key]

    def measure(self, choices: Iterable[Copies], tick: Tick = lambda share: None) -> None:
        """Measure the errors of all these that are not known, side by side."""
        wanted = {key: copies for copies in choices if (key := copies.tobytes()) not in self.known}
        with workers(min(len(wanted), self.at_once)) as pool:
            errors = pool.map(lambda copies: self._error(copies, pool), list(wanted.values()))
            for done, (key, error) in enumerate(zip(wanted, errors, strict=True), 1):
                self.known[key] = error
                tick(done / len(wanted))

    def _error(self, copies: Copies, pool: Workers) -> float:
        layout = lay_out(self.graph, copies)
        model = rewrite_model(self.graph, layout)
        made = refit(
            self.graph,
            layout,
            model,
            self.feeds,
            lambda share: pool.go_on(),
            quick=True,
            covariances=self.covariances,
        )
        return self.judge.error(made.applied(model))


def sharpened(
    known: Knowledge,
    copies: Copies,
    steps: Counts,
    sets: list[list[int]],
    trials: Trials,
    tick: Tick = lambda share: None,
) -> list[Knowledge]:
    """What is known of the channels, with each loss curve in units of the outputs' error.

    One for each of ``STRENGTHS``; none where nothing could be measured.

    Args:
        known: rankings and curves.
        copies: of each class, in the network around which it is measured.
        steps: how many classes of each group come and go at once.
        sets: numbers of groups that are measured together.
        trials: to measure with.
        tick: called after each measurement, with the share of them that is done.

    """
    moves = {
        number: move
        for number, groups in enumerate(sets)
        if (move := _move(trials.graph, known, copies, steps, groups)) is not None
    }
    trials.measure([copies, *(move.copies for move in moves.values())], tick)
    start = trials.error(copies)
    slopes = {
        number: max(move.sign * (trials.error(move.copies) - start), 0.0) / move.predicted
        for number, move in moves.items()
    }
    positive = [slope for slope in slopes.values() if slope > 0 and np.isfinite(slope)]
    if not positive:
        return []
    middle = float(np.median(positive))
    over = {
        k: min(max(slopes.get(n, middle) / middle, LEAST_SHARE), 1 / LEAST_SHARE)
        for n, numbers in enumerate(sets)
        for k in numbers
    }
    return [
        replace(
            known,
            losses={k: curve * middle * over.get(k, 1.0) ** strength for k, curve in known.losses.items()},
        )
        for strength in STRENGTHS
    ]


def neighbours(numbers: list[int], most: int) -> list[list[int]]:
    """Groups in their order, in so many sets at most."""
    count = min(most, len(numbers))
    return [part.tolist() for part in np.array_split(np.array(numbers, np.int64), count)] if count else []


@dataclass(frozen=True)
class _Move:
    """Copies with some groups a step narrower (``sign`` 1) or wider (-1), and how far losses should move."""

    copies: Copies
    sign: int
    predicted: float


def _move(graph: Graph, known: Knowledge, copies: Copies, steps: Counts, numbers: list[int]) -> _Move | None:
    """Groups a step narrower; wider where they are as narrow as can be; None where neither changes a loss."""
    for sign in (1, -1):
        move = _moved(graph, known, copies, steps, numbers, sign)
        if move.predicted > 0:
            return move
    return None


def _moved(
    graph: Graph, known: Knowledge, copies: Copies, steps: Counts, numbers: list[int], sign: int
) -> _Move:
    """Groups one step narrower (``sign`` 1) or wider (-1), where that can be."""
    made, predicted = copies.copy(), 0.0
    for k in numbers:
        classes = graph.result(CHANNELS).groups[k].classes
        have, step = int((copies[classes] > 0).sum()), int(steps[k])
        want = (-(-have // step) - 1) * step if sign > 0 else min((have // step + 1) * step, len(classes))
        if want == have or want < 1:
            continue
        best = np.argsort(-known.scores[classes], kind="stable")[:want]
        made[classes] = 0
        made[classes[best]] = 1
        gone = len(classes) - want
        predicted += abs(known.loss(k, gone) - known.loss(k, len(classes) - have))
    return _Move(made, sign, predicted)
