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

ROUNDS = 4
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
        The matrix and the bias [b, O].

    """
    held = system.xx @ start
    matrix = start + solve(system.xy - held)
    bias = system.intercept(matrix)
    x = np.concatenate([part[0] for part in rows.parts], axis=1)
    y = np.concatenate([part[1] for part in rows.parts], axis=1)
    others = [part[2] for part in rows.parts if part[2] is not None]
    other = np.concatenate(others, axis=1) if others else np.zeros((1, 1, 1), np.float32)
    wanted = y + other
    cuts = [
        (wanted <= bounds.low, np.minimum, bounds.low),
        (wanted >= bounds.high, np.maximum, bounds.high),
    ]
    x = x - system.mean_x[:, None].astype(np.float32)
    for _ in range(ROUNDS):
        centre = bias + (system.mean_x[:, None] @ matrix)[:, 0]
        have = x @ matrix.astype(np.float32)
        have += centre[:, None].astype(np.float32)
        have += other
        target = wanted.copy()
        for cut, nearer, bound in cuts:
            if np.isfinite(bound):
                np.copyto(target, nearer(have, np.float32(bound)), where=cut)
        target -= other
        mean = target.mean(1, dtype=np.float64)
        target -= mean[:, None].astype(np.float32)
        xy = (np.swapaxes(x, 1, 2) @ target).astype(np.float64) / x.shape[1]
        matrix = start + solve(xy - held)
        bias = mean - (system.mean_x[:, None] @ matrix)[:, 0]
    return matrix, bias
