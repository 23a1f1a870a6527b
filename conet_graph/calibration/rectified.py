"""Fits of layers behind which a ReLU stands: what it cuts off need not be met, only stay cut off.

Where the original's value is below zero any value below zero will do. So such targets are let go down to
where the layer puts them, and the fit is made again, a few times: each time the error behind the ReLU falls
(it is minimised by majorisation). After Zhang, Zou, He and Sun, Accelerating very deep convolutional
networks (2016), who solve the same problem by alternation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.gram import System
from conet_graph.calibration.side_by_side import Workers, workers
from conet_graph.calibration.solving import Doubles, Solver
from conet_graph.ir.graph import Graph
from conet_graph.passes.shapes.constant_values import value_of

Floats = NDArray[np.float32]

# Rounds at least and at most, and the multiply-adds that are worth more than the least.
ROUNDS, MOST_WORK = (4, 8), 4e10
# Numbers in the rows that are kept for it; layers with more are fitted without.
MOST_HELD = 4e7
# Rows that are gone through at once.
AT_ONCE = 1024


@dataclass(frozen=True)
class Bounds:
    """What a rectifier cuts off: everything below ``low`` and, if there is one, above ``high``."""

    low: float
    high: float


def bounds_behind(graph: Graph, value: str) -> Bounds | None:
    """The bounds of the rectifiers that alone read a value; None where others do, or they differ."""
    readers = [op for op, _ in graph.consumers.get(value, [])]
    if not readers or value in graph.outputs or value in graph.captured:
        return None
    found: set[Bounds] = set()
    for op in readers:
        if op.domain:
            return None
        if op.op_type == "Relu":
            found.add(Bounds(0.0, np.inf))
        elif op.op_type == "Clip":
            low, high = (_bound(graph, op.input(k)) if op.input(k) else None for k in (1, 2))
            low = op.attr("min", -np.inf) if not op.input(1) else low
            high = op.attr("max", np.inf) if not op.input(2) else high
            if low is None or high is None:
                return None
            found.add(Bounds(float(low), float(high)))
        else:
            return None
    return found.pop() if len(found) == 1 else None


def _bound(graph: Graph, name: str) -> float | None:
    value = value_of(graph, name)
    return None if value is None or value.size != 1 else float(value.reshape(()))


@dataclass
class Rows:
    """The rows of a fit, kept: features [b, n, F], targets [b, n, O], and what is added behind the layer."""

    parts: list[tuple[Floats, Floats, Floats | None]]

    def add(self, x: Floats, y: Floats, other: Floats | None) -> None:
        """Keep some rows."""
        self.parts.append((x, y, other))


def rectified(
    rows: Rows, system: System, solve: Solver, start: Doubles, bounds: Bounds
) -> tuple[Doubles, Doubles]:
    """Fit towards targets that are free where they are cut off.

    Args:
        rows: those of the system.
        system: the fit's.
        solve: its solver, with the strength of the pull.
        start: the matrix it is pulled towards.
        bounds: what is cut off.

    Returns:
        The matrix and the bias [b, O]; those of the plain fit where the rounds bring nothing nearer.

    """
    table = _Table(rows, system, bounds)
    held = system.xx @ start
    matrix = start + solve(system.xy - held)
    plain = before = ahead = Fit(matrix, system.intercept(matrix))
    least = np.inf
    with workers(table.x.shape[1] // AT_ONCE) as pool:
        for number in range(table.rounds(system)):
            nearest = table.nearest(ahead, pool)
            least = nearest.error if number == 0 else least
            matrix = start + solve(nearest.xy - held)
            bias = nearest.mean - (system.mean_x[:, None] @ matrix)[:, 0]
            # The next round begins beyond this one's end (Beck and Teboulle's FISTA).
            momentum = number / (number + 3)
            now = Fit(matrix, bias)
            ahead = Fit(matrix + momentum * (matrix - before.matrix), bias + momentum * (bias - before.bias))
            before = now
        helps = table.nearest(before, pool).error < least
    return (before.matrix, before.bias) if helps else (plain.matrix, plain.bias)


@dataclass(frozen=True)
class Fit:
    """A matrix [b, F, O] and a bias [b, O]."""

    matrix: Doubles
    bias: Doubles


@dataclass(frozen=True)
class Nearest:
    """The outputs nearest to a fit's that count as right, summed up over the rows.

    Attributes:
        xy: mean products [b, F, O] of the features with them, both about their means.
        mean: their mean [b, O].
        error: their mean square distance from the fit's.

    """

    xy: Doubles
    mean: Doubles
    error: float


class _Table:
    """The rows of a fit: features about their mean [b, n, F], and what is wanted behind them [b, n, O].

    They are gone through a thousand at a time: so what is computed for a few stays in the cache.
    """

    def __init__(self, rows: Rows, system: System, bounds: Bounds) -> None:
        self.mean_x = system.mean_x[:, None]
        self.x = np.concatenate([part[0] for part in rows.parts], axis=1)
        self.x -= self.mean_x.astype(np.float32)
        self.sum_x = self.x.sum(1, dtype=np.float64)
        y = np.concatenate([part[1] for part in rows.parts], axis=1)
        self.about = y.mean(1, keepdims=True)  # sums about it lose no digits
        others = [part[2] for part in rows.parts if part[2] is not None]
        self.other = np.concatenate(others, axis=1) if others else None
        self.wanted = y if self.other is None else y + self.other
        self.bounds = bounds

    def rounds(self, system: System) -> int:
        """How often the fit is made again: of a large layer less often."""
        one = 2 * self.x.size * system.xy.shape[2]
        return int(np.clip(MOST_WORK // max(one, 1), *ROUNDS))

    def nearest(self, fit: Fit, pool: Workers) -> Nearest:
        """The outputs nearest to a fit's that count as right: what is cut off anyhow is free."""
        matrix = fit.matrix.astype(np.float32)
        bias = (fit.bias[:, None] + self.mean_x @ fit.matrix).astype(np.float32)
        count = self.x.shape[1]
        xy, y, error = np.zeros(fit.matrix.shape), np.zeros(fit.bias.shape), 0.0
        starts = range(0, count, AT_ONCE)
        shares = [starts[k :: pool.count] for k in range(pool.count)]
        for part in pool.map(lambda share: self._summed(share, matrix, bias), shares):
            xy, y, error = xy + part[0], y + part[1], error + part[2]
        mean = y / count
        xy = (xy - self.sum_x[:, :, None] * mean[:, None]) / count
        return Nearest(xy, mean + self.about[:, 0], error / (count * bias.size))

    def _summed(self, starts: range, matrix: Floats, bias: Floats) -> tuple[Doubles, Doubles, float]:
        """Over some of the rows: the products of features and nearest outputs, these, and their distances."""
        xy, y, error = np.zeros(matrix.shape), np.zeros(bias[:, 0].shape), 0.0
        for first in starts:
            here = np.s_[:, first : first + AT_ONCE]
            x, target, low, high = self.x[here], self.wanted[here].copy(), self.bounds.low, self.bounds.high
            other = 0.0 if self.other is None else self.other[here]
            have = x @ matrix
            have += bias
            have += other
            if np.isfinite(low):
                np.minimum(have, low, out=target, where=target <= low)
            if np.isfinite(high):
                np.maximum(have, high, out=target, where=target >= high)
            have -= target
            error += float(np.vdot(have, have))
            target -= other
            target -= self.about
            y += target.sum(1, dtype=np.float64)
            xy += np.swapaxes(x, 1, 2) @ target
        return xy, y, error
