"""Second moments of a layer's inputs and targets, summed up over rows, and their ridge solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.solving import Doubles, Solver, solver_of

Floats = NDArray[np.float32]

# Strengths of the pull towards the weights there are, as shares of the features' mean square.
RIDGES = (1e-7, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Those of a fit that only compares widths.
FEW_RIDGES = (1e-4, 1e-2, 1.0)
# One feed in so many is kept aside from a fit to choose its ridge on.
CHECKED = 4
# Outputs by which a strength is chosen, about: one that is best for so many is best for all.
PROBED = 48
# Rows are held back until there are so many: products of tall tables are fast, of short ones slow.
ROWS_HELD = 4096


@dataclass
class Moments:
    """Sums over rows: of features, of targets, of their products; a block at a time.

    Everything is taken about a fixed point near the mean, so that float32 products lose no digits.
    """

    about_x: Floats | None = None
    about_y: Floats | None = None
    count: float = 0.0
    x: Doubles = field(default_factory=lambda: np.zeros(0))
    y: Doubles = field(default_factory=lambda: np.zeros(0))
    xx: Doubles = field(default_factory=lambda: np.zeros(0))
    xy: Doubles = field(default_factory=lambda: np.zeros(0))
    yy: Doubles = field(default_factory=lambda: np.zeros(0))
    held: list[tuple[Floats, Floats]] = field(default_factory=list)

    def add(self, x: Floats, y: Floats) -> None:
        """Add rows x [blocks, n, F] with their targets y [blocks, n, O]."""
        if x.shape[1]:
            self.held.append((x, y))
        if sum(part.shape[1] for part, _ in self.held) >= ROWS_HELD:
            self.settle()

    def settle(self) -> None:
        """Sum up the rows that are held back."""
        if not self.held:
            return
        x, y = (np.concatenate(part, axis=1) for part in zip(*self.held, strict=True))
        self.held.clear()
        if self.about_x is None or self.about_y is None:
            self.about_x, self.about_y = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
        if not self.count:
            blocks, features, outputs = x.shape[0], x.shape[2], y.shape[2]
            self.x, self.y = np.zeros((blocks, features)), np.zeros((blocks, outputs))
            self.xx = np.zeros((blocks, features, features))
            self.xy, self.yy = np.zeros((blocks, features, outputs)), np.zeros((blocks, outputs))
        x, y = x - self.about_x, y - self.about_y
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.yy += np.square(y).sum(1, dtype=np.float64)
        if len(x) > 1 and x.shape[2] <= _SHORT:
            self.xx += np.einsum("bnf,bng->bfg", x, x, optimize=True)
            self.xy += np.einsum("bnf,bno->bfo", x, y, optimize=True)
            return
        for block in range(len(x)):
            self.xx[block] += x[block].T @ x[block]
            self.xy[block] += x[block].T @ y[block]

    def plus(self, other: Moments) -> Moments:
        """The sums over both, which are about the same point."""
        self.settle()
        other.settle()
        if not other.count:
            return self
        return Moments(
            self.about_x,
            self.about_y,
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def system(self, with_bias: bool) -> System:
        """The least-squares system of these sums."""
        self.settle()
        assert self.about_x is not None
        assert self.about_y is not None
        mean_x, mean_y = self.x / self.count, self.y / self.count
        xx = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]
        xy = self.xy / self.count - mean_x[:, :, None] * mean_y[:, None, :]
        yy = self.yy / self.count - mean_y**2
        whole_x = mean_x + self.about_x[:, 0]
        whole_y = mean_y + self.about_y[:, 0]
        if not with_bias:
            xx = xx + whole_x[:, :, None] * whole_x[:, None, :]
            xy = xy + whole_x[:, :, None] * whole_y[:, None, :]
            yy = yy + whole_y**2
        return System(xx, xy, yy, whole_x, whole_y, with_bias)


# Blocks with fewer features than this (a depthwise convolution's) are multiplied all at once.
_SHORT = 32


@dataclass(frozen=True)
class System:
    """Means of products (about the means where there is a bias): xx [b, F, F], xy [b, F, O], yy [b, O]."""

    xx: Doubles
    xy: Doubles
    yy: Doubles
    mean_x: Doubles
    mean_y: Doubles
    with_bias: bool

    @property
    def spread(self) -> Doubles:
        """Variance of each output [b, O]."""
        made: Doubles = np.maximum(self.yy if self.with_bias else self.yy - self.mean_y**2, 0.0)
        return made

    def solved(self, start: Doubles, ridge: float) -> Doubles:
        """The matrix [b, F, O] of least error, pulled towards ``start`` with a strength of ``ridge``."""
        return start + self.solver(ridge)(self.gap(start))

    def of_outputs(self, some: slice) -> System:
        """The system of some of the outputs."""
        return replace(self, xy=self.xy[:, :, some], yy=self.yy[:, some], mean_y=self.mean_y[:, some])

    def gap(self, start: Doubles) -> Doubles:
        """What the products with the targets lack with a matrix: no fit is needed where it is zero."""
        made: Doubles = self.xy - self.xx @ start
        return made

    def solver(self, ridge: float) -> Solver:
        """What gives the step [b, F, n] that closes gaps [b, F, n], with a pull of such a strength.

        The features' moments are taken apart once, however often it is asked.
        """
        scale = np.trace(self.xx, axis1=1, axis2=2) / max(self.xx.shape[1], 1)
        pull = ridge * scale + 1e-12 * scale.max(initial=0.0) + 1e-30
        left: Doubles = self.xx.copy()
        diagonal = np.arange(left.shape[1])
        left[:, diagonal, diagonal] += pull[:, None]
        return solver_of(left)

    def error(self, matrix: Doubles, bias: Doubles | None = None) -> Doubles:
        """Mean square error of each output [b, O] with a matrix; the best bias where none is given."""
        found = self.yy - 2 * (matrix * self.xy).sum(1) + (matrix * (self.xx @ matrix)).sum(1)
        if bias is not None and self.with_bias:
            found = found + (self.intercept(matrix) - bias) ** 2
        made: Doubles = np.maximum(found, 0.0)
        return made

    def intercept(self, matrix: Doubles) -> Doubles:
        """The best bias [b, O] beside a matrix."""
        made: Doubles = self.mean_y - (self.mean_x[:, None] @ matrix)[:, 0]
        return made


def add_feed(number: int, rows: Floats, targets: Floats, seen: Moments, aside: Moments) -> None:
    """Add a feed, by its number, to the rows that a fit sees or, each fourth one, to those that it does not.

    Both are sums about the same point, so that they can be joined (`Moments.plus`).
    """
    checked = number % CHECKED == CHECKED - 1
    if checked and aside.about_x is None:
        seen.settle()
        aside.about_x, aside.about_y = seen.about_x, seen.about_y
    (aside if checked else seen).add(rows, targets)


def chosen(
    seen: Moments,
    aside: Moments,
    starts: list[Doubles],
    bias: Doubles | None,
    with_bias: bool,
    ridges: Sequence[float],
) -> tuple[Doubles, float | None, float, float]:
    """What does best on rows the fit has not seen: a start, a ridge, and the errors before and after.

    The first start are the weights there are; a ridge of None leaves them. Of many outputs some are looked at
    to choose, and all to say whether what was chosen helps.
    """
    fit = seen.system(with_bias)
    judge = aside.system(with_bias) if aside.count else fit
    whole = float(judge.spread.sum()) or 1.0
    before = float(judge.error(starts[0], bias).sum()) / whole
    outputs = fit.xy.shape[2]
    some = slice(None, None, max(outputs // PROBED, 1))
    fit_some, judge_some = fit.of_outputs(some), judge.of_outputs(some)
    starts_some = [start[:, :, some] for start in starts]
    gaps = np.concatenate([fit_some.gap(start) for start in starts_some], axis=2)
    best: tuple[int, float, float, Solver] | None = None

    def tried(ridge: float) -> float:
        nonlocal best
        solve, least = fit_some.solver(ridge), math.inf
        steps = np.split(solve(gaps), len(starts), axis=2)
        for number, (start, step) in enumerate(zip(starts_some, steps, strict=True)):
            matrix = start + step
            error = float(judge_some.error(matrix, fit_some.intercept(matrix)).sum())
            if math.isfinite(error):
                least = min(least, error)
                best = (number, ridge, error, solve) if best is None or error < best[2] else best
        return least

    _descend(ridges if aside.count else (1e-2,), tried)
    if best is None:
        return starts[0], None, before, before
    start, ridge, solve = starts[best[0]], best[1], best[3]
    matrix = start + solve(fit.gap(start))
    after = float(judge.error(matrix, fit.intercept(matrix)).sum()) / whole
    helps = math.isfinite(after) and after < before
    return (start, ridge, before, after) if helps else (starts[0], None, before, before)


def _descend(strengths: Sequence[float], tried: Callable[[float], float]) -> None:
    """Try strengths from the middle one on, to either side as long as that helps: errors have one valley."""
    here = len(strengths) // 2
    least = tried(strengths[here])
    for step in (-1, 1):
        walked = False
        while 0 <= here + step < len(strengths):
            error = tried(strengths[here + step])
            if error >= least:
                break
            here, least, walked = here + step, error, True
        if walked:
            return


def shrunk(parts: Sequence[Moments], system: System) -> Doubles:
    """The covariances [b, F, F] of all parts together, those of different features nearer to zero.

    Few inputs show correlations that are not there, and rows of one image are no independent ones. How far
    each correlation moves from part to part says how much of all of them is to be believed (Schaefer and
    Strimmer, A shrinkage approach to large-scale covariance matrix estimation, 2005).

    Args:
        parts: sums over a share of the inputs each, about the same point.
        system: of all of them.

    """
    parts = [part for part in parts if part.count]
    if len(parts) < _LEAST_PARTS:
        return system.xx
    size = np.sqrt(np.maximum(np.diagonal(system.xx, axis1=1, axis2=2), 1e-30))
    scale = size[:, :, None] * size[:, None, :]
    noise = np.zeros(len(scale))
    for part in parts:
        mean = system.mean_x - (0.0 if part.about_x is None else part.about_x[:, 0])
        cross = mean[:, :, None] * (part.x / part.count)[:, None, :]
        own = part.xx / part.count - cross - np.swapaxes(cross, 1, 2) + mean[:, :, None] * mean[:, None, :]
        noise += _off_diagonal((own - system.xx) / scale)
    noise /= len(parts) * (len(parts) - 1)
    share = np.clip(noise / np.maximum(_off_diagonal(system.xx / scale), 1e-30), 0.0, 1.0)
    made: Doubles = system.xx * (1 - share)[:, None, None]
    diagonal = np.arange(made.shape[1])
    made[:, diagonal, diagonal] = system.xx[:, diagonal, diagonal]
    return made


# Parts from which the noise of covariances is read.
_LEAST_PARTS = 4


def _off_diagonal(square: Doubles) -> Doubles:
    """The sum of squares off the diagonal of each block [b]."""
    made: Doubles = np.square(square).sum((1, 2)) - np.square(np.diagonal(square, axis1=1, axis2=2)).sum(1)
    return made
