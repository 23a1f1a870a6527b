"""Second moments of a layer's inputs and targets, summed up over streams of rows, and their ridge solution."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Strengths of the pull towards the weights there are, as shares of the features' mean square.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass
class Moments:
    """Sums over rows: of features, of targets, of their products; a block at a time.

    Everything is taken about a fixed point near the mean, so that float32 products lose no digits.
    """

    count: float = 0.0
    about_x: Floats | None = None
    about_y: Floats | None = None
    x: Doubles = field(default_factory=lambda: np.zeros(0))
    y: Doubles = field(default_factory=lambda: np.zeros(0))
    xx: Doubles = field(default_factory=lambda: np.zeros(0))
    xy: Doubles = field(default_factory=lambda: np.zeros(0))
    yy: Doubles = field(default_factory=lambda: np.zeros(0))

    def add(self, x: Floats, y: Floats) -> None:
        """Add rows x [blocks, n, F] with their targets y [blocks, n, O]."""
        if not x.shape[1]:
            return
        if self.about_x is None or self.about_y is None:
            self.about_x, self.about_y = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
            blocks, features, outputs = x.shape[0], x.shape[2], y.shape[2]
            self.x, self.y = np.zeros((blocks, features)), np.zeros((blocks, outputs))
            self.xx = np.zeros((blocks, features, features))
            self.xy, self.yy = np.zeros((blocks, features, outputs)), np.zeros((blocks, outputs))
        x, y = x - self.about_x, y - self.about_y
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.yy += np.einsum("bno,bno->bo", y, y)
        for block in range(len(x)):
            self.xx[block] += x[block].T @ x[block]
            self.xy[block] += x[block].T @ y[block]

    def like(self) -> Moments:
        """Empty sums about the same point."""
        made = Moments(0.0, self.about_x, self.about_y)
        made.x, made.y, made.xx = np.zeros_like(self.x), np.zeros_like(self.y), np.zeros_like(self.xx)
        made.xy, made.yy = np.zeros_like(self.xy), np.zeros_like(self.yy)
        return made

    def plus(self, other: Moments) -> Moments:
        """The sums over both."""
        if not other.count:
            return self
        return Moments(
            self.count + other.count,
            self.about_x,
            self.about_y,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def system(self, with_bias: bool) -> System:
        """The least-squares system of these sums."""
        assert self.about_x is not None and self.about_y is not None
        count = max(self.count, 1.0)
        mean_x, mean_y = self.x / count, self.y / count
        xx = self.xx / count - mean_x[:, :, None] * mean_x[:, None, :]
        xy = self.xy / count - mean_x[:, :, None] * mean_y[:, None, :]
        yy = self.yy / count - mean_y**2
        whole_x = mean_x + self.about_x[:, 0]
        whole_y = mean_y + self.about_y[:, 0]
        if not with_bias:
            xx = xx + whole_x[:, :, None] * whole_x[:, None, :]
            xy = xy + whole_x[:, :, None] * whole_y[:, None, :]
            yy = yy + whole_y**2
        return System(xx, xy, yy, whole_x, whole_y, with_bias)


@dataclass(frozen=True)
class System:
    """Means of products (about the means where there is a bias): xx [b, F, F], xy [b, F, O], yy [b, O]."""

    xx: Doubles
    xy: Doubles
    yy: Doubles
    mean_x: Doubles
    mean_y: Doubles
    with_bias: bool

    def solved(self, start: Doubles, ridge: float) -> Doubles:
        """The matrix [b, F, O] of least error, pulled towards ``start`` with a strength of ``ridge``."""
        scale = np.trace(self.xx, axis1=1, axis2=2) / max(self.xx.shape[1], 1)
        pull = ridge * scale + 1e-12 * scale.max(initial=0.0) + 1e-30
        left = self.xx + pull[:, None, None] * np.eye(self.xx.shape[1])
        made: Doubles = start + np.linalg.solve(left, self.xy - self.xx @ start)
        return made

    def error(self, matrix: Doubles, bias: Doubles | None = None) -> Doubles:
        """Mean square error of each output [b, O] with a matrix; the bias is the best one where it is None."""
        found = self.yy - 2 * (matrix * self.xy).sum(1) + (matrix * (self.xx @ matrix)).sum(1)
        if bias is not None and self.with_bias:
            found = found + (self.mean_y - (self.mean_x[:, None] @ matrix)[:, 0] - bias) ** 2
        return np.maximum(found, 0.0)

    def intercept(self, matrix: Doubles) -> Doubles:
        """The best bias [b, O] beside a matrix."""
        made: Doubles = self.mean_y - (self.mean_x[:, None] @ matrix)[:, 0]
        return made
