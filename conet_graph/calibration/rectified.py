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
from conet_graph.calibration.solving import Doubles, Solver
from conet_graph.ir.graph import Graph
from conet_graph.passes.shapes.constant_values import value_of

Floats = NDArray[np.float32]

# Rounds at least and at most, and the multiply-adds that are worth more than the least.
ROUNDS, MOST_WORK = (4, 8), 4e10
# Numbers in the rows that are kept for it; layers with more are fitted without.
MOST_HELD = 4e7


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
    bias = system.intercept(matrix)
    plain = before = ahead = Fit(matrix, bias)
    least = np.inf
    for number in range(table.rounds(system)):
        target, error = table.nearest(ahead)
        least = error if number == 0 else least
        mean = target.mean(1, dtype=np.float64)
        target -= mean[:, None].astype(np.float32)
        xy = (np.swapaxes(table.x, 1, 2) @ target).astype(np.float64) / table.x.shape[1]
        matrix = start + solve(xy - held)
        bias = mean - (system.mean_x[:, None] @ matrix)[:, 0]
        # The next round begins beyond this one's end (Beck and Teboulle's FISTA).
        momentum = number / (number + 3)
        now = Fit(matrix, bias)
        ahead = Fit(matrix + momentum * (matrix - before.matrix), bias + momentum * (bias - before.bias))
        before = now
    helps = table.nearest(before)[1] < least
    return (before.matrix, before.bias) if helps else (plain.matrix, plain.bias)


@dataclass(frozen=True)
class Fit:
    """A matrix [b, F, O] and a bias [b, O]."""

    matrix: Doubles
    bias: Doubles


class _Table:
    """The rows of a fit side by side: features about their mean [b, n, F], and what is wanted behind them."""

    def __init__(self, rows: Rows, system: System, bounds: Bounds) -> None:
        self.mean_x = system.mean_x[:, None]
        self.x = np.concatenate([part[0] for part in rows.parts], axis=1)
        self.x -= self.mean_x.astype(np.float32)
        y = np.concatenate([part[1] for part in rows.parts], axis=1)
        others = [part[2] for part in rows.parts if part[2] is not None]
        self.other = np.concatenate(others, axis=1) if others else np.zeros((1, 1, 1), np.float32)
        self.wanted = y + self.other
        cuts = [
            (self.wanted <= bounds.low, np.minimum, bounds.low),
            (self.wanted >= bounds.high, np.maximum, bounds.high),
        ]
        self.cuts = [cut for cut in cuts if np.isfinite(cut[2])]

    def rounds(self, system: System) -> int:
        """How often the fit is made again: of a large layer less often."""
        one = 2 * self.x.size * system.xy.shape[2]
        return int(np.clip(MOST_WORK // max(one, 1), *ROUNDS))

    def nearest(self, fit: Fit) -> tuple[Floats, float]:
        """The outputs nearest to a fit's that count as right [b, n, O], and their mean square distance."""
        have = self.x @ fit.matrix.astype(np.float32)
        have += (fit.bias[:, None] + self.mean_x @ fit.matrix).astype(np.float32)
        have += self.other
        target = self.wanted.copy()
        for cut, nearer, bound in self.cuts:
            np.copyto(target, nearer(have, np.float32(bound)), where=cut)
        have -= target
        target -= self.other
        return target, float(np.square(have, out=have).mean(dtype=np.float64))
