"""Empirical variational Bayesian matrix factorisation at the global minimum of its free energy.

Source: Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14 (2013), "Global analytic solution of
    fully-observed
variational Bayesian matrix factorization". For an L x M matrix, L <= M, with squared singular
values s^2, alpha = L/M, tau = 2.5129 sqrt(alpha), xbar = (1+tau)(1+alpha/tau) and x = s^2/(M v),
the noise variance v minimises

    Omega(v) = sum over x <= xbar of (x - ln x)  +  sum over x > xbar of psi(x)
    psi(x) = x - t + ln((t+1)/x) + alpha ln(t/alpha + 1),   x = t + 1 + alpha + alpha/t

How the global minimum is found. The n singular values with x > xbar are the *head*. As long as n
stays the same, Omega is smooth, and because d psi/dx = alpha/(t+alpha),

    g = v Omega'(v) = (L-n) - (sum of tail x) - alpha sum over head of (1 + 1/t)

is a concave function of y = 1/v. A concave function crosses zero downwards at most once, so every
interval between two breakpoints holds at most one inner minimum, and Newton's method started at its
large end of y falls monotonically onto it. All intervals are looked at together; the lowest of
their inner minima and ends wins. (The rounded 2.5129 makes Omega jump a little at the breakpoints,
hence the ends.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sums = tuple[Floats, Floats, Floats]
Search = Literal["global", "bounded"]

# Candidates times singular values worked on at once: what stays in a core's cache.
CHUNK = 2**16
NEWTON_STEPS = 60


@dataclass(frozen=True, slots=True)
class Evbmf:
    """Solutions for B matrices: arrays of length B, and B x L for ``shrunk``.

    Attributes:
        rank: how many singular values are signal.
        condition: largest over smallest kept shrunken singular value; 1 where the rank is 0 or 1.
        noise_variance: of one entry of the matrix.
        shrunk: the posterior's singular values, largest first, 0 beyond the rank.

    """

    rank: Ints
    condition: Floats
    noise_variance: Floats
    shrunk: Floats


def solve_evbmf(squares: Floats, columns: Ints, search: Search = "global") -> Evbmf:
    """Solve for a batch of matrices with the same number of rows.

    Rank 0 and condition 1 by definition: where no noise can be estimated, because so many singular
    values vanish (to rounding) that the free energy falls without bound as the noise does:
    all-zero, constant and noiseless low-rank matrices, anything of rank under L M / (L + M). The
    noise variance is then the mean square of the matrix. A matrix of one row or column has rank 0
    by the formulas themselves.

    Args:
        squares: B x L squared singular values (eigenvalues of the Gram matrix of the short side),
            finite, not negative, largest first.
        columns: the long side M of each matrix, at least L.
        search: 'global', or 'bounded': one bounded scalar search over the whole range, which is
            what the published CONet code does and which can stop in another minimum. For
            comparisons.

    """
    problem = _Problem.of(squares, columns)
    variance = problem.upper.copy()
    rank = np.zeros(len(squares), np.int64)
    solvable = np.flatnonzero(problem.solvable)
    if len(solvable):
        part = problem.take(solvable)
        variance[solvable], rank[solvable] = _global(part) if search == "global" else _bounded(part)
    return _solution(problem, variance, rank)


@dataclass(frozen=True, slots=True)
class _Problem:
    """A batch in the terms of the formulas; ``values`` are s^2 / M."""

    values: Floats
    columns: Ints
    alpha: Floats
    xbar: Floats
    lower: Floats
    upper: Floats
    solvable: NDArray[np.bool_]

    @classmethod
    def of(cls, squares: Floats, columns: Ints) -> _Problem:
        count, rows = squares.shape
        alpha = rows / columns
        tau = 2.5129 * np.sqrt(alpha)
        xbar = (1 + tau) * (1 + alpha / tau)
        values = squares / columns[:, None]
        # ceil(L / (1 + alpha)) - 1 in integers.
        first = -(-rows * columns // (rows + columns)) - 1
        tail = np.where(np.arange(rows) >= first[:, None], values, 0.0).sum(1) / (rows - first)
        lower = np.maximum(values[np.arange(count), first] / xbar, tail)
        # Rounding leaves eigenvalues that are zero at about this height.
        noise = rows * np.finfo(np.float64).eps * values[:, 0]
        return cls(values, columns, alpha, xbar, lower, values.mean(1), lower > noise)

    def take(self, which: Ints) -> _Problem:
        """The problem of some matrices only, with zeros lifted so that their logarithms exist.

        Lifted values are under every x that matters: they add the same constant to Omega
        everywhere.
        """
        floor = np.finfo(np.float64).eps ** 2 * self.values[which, :1]
        return _Problem(
            np.maximum(self.values[which], floor),
            self.columns[which],
            self.alpha[which],
            self.xbar[which],
            self.lower[which],
            self.upper[which],
            self.solvable[which],
        )


class _Terms(NamedTuple):
    """Omega, g = v Omega'(v), and dg/dy for y = 1/v, at each candidate."""

    energy: Floats
    slope: Floats
    bend: Floats


def _global(problem: _Problem) -> tuple[Floats, Ints]:
    """Noise variance and rank at the lowest minimum of each matrix."""
    count = len(problem.values)
    breaks = problem.values / problem.xbar[:, None]
    edge = np.full((count, 1), np.inf)
    low = np.maximum(np.hstack([breaks, np.zeros((count, 1))]), problem.lower[:, None])
    high = np.minimum(np.hstack([edge, breaks]), problem.upper[:, None])
    # Interval n, with a head of n, is low[:, n] to high[:, n].
    index, head = np.nonzero(low < high)
    low, high = low[index, head], high[index, head]
    at_low, at_high = _terms(problem, index, low, head), _terms(problem, index, high, head)
    inner = np.flatnonzero(_may_turn(at_low, at_high, 1 / low, 1 / high))
    variance, found = _newton(problem, index[inner], head[inner], low[inner], high[inner])
    inner, variance = inner[found], variance[found]
    # The upper bound is always a candidate: a flat spectrum has no interval.
    everyone = np.arange(count)
    all_noise = (breaks > problem.upper[:, None]).sum(1)
    owner = np.concatenate([everyone, index, index, index[inner]])
    rank = np.concatenate([all_noise, head, head, head[inner]])
    point = np.concatenate([problem.upper, low, high, variance])
    energy = np.concatenate(
        [
            _terms(problem, everyone, problem.upper, all_noise).energy,
            at_low.energy,
            at_high.energy,
            _terms(problem, index[inner], variance, head[inner]).energy,
        ]
    )
    order = np.lexsort((rank, energy, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    return point[best], rank[best]


def _may_turn(at_low: _Terms, at_high: _Terms, y_low: Floats, y_high: Floats) -> NDArray[np.bool_]:
    """Whether an interval may hold an inner minimum; ``y_low`` is 1/v at its low end of v.

    Either g changes its sign, or it is negative at both ends and the tangents, which lie above a
    concave function, meet above zero.
    """
    rise, fall = at_high.bend, at_low.bend
    curved = (rise > 0) & (fall < 0)
    steepness = np.where(curved, rise - fall, 1.0)
    run = (at_low.slope - at_high.slope - fall * (y_low - y_high)) / steepness
    peak = at_high.slope + rise * run
    return (at_low.slope < 0) & ((at_high.slope > 0) | (curved & (peak > 0)))


def _newton(
    problem: _Problem, index: Ints, head: Ints, low: Floats, high: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """The inner minimum of each interval, and whether there is one.

    From the large end of y the steps lead down to the last zero of the concave g; if there is none
    they leave the interval, or reach the side where g rises.
    """
    y, floor = 1 / low, 1 / high
    active = np.ones(len(y), np.bool_)
    found = np.ones(len(y), np.bool_)
    for _ in range(NEWTON_STEPS):
        which = np.flatnonzero(active)
        if not len(which):
            break
        terms = _terms(problem, index[which], 1 / y[which], head[which])
        falling = terms.bend < 0
        step = terms.slope / np.where(falling, terms.bend, -1.0)
        after = y[which] - step
        inside = falling & (after >= floor[which])
        found[which] = inside
        y[which] = np.where(inside, after, y[which])
        active[which] = inside & (np.abs(step) > 1e-13 * y[which])
    return 1 / y, found


def _terms(problem: _Problem, index: Ints, variance: Floats, head: Ints) -> _Terms:
    """Omega and its derivatives at candidates: matrix, noise variance and length of the head."""
    values, rows = problem.values, problem.values.shape[1]
    # Sums over the tail from n on, for every n at once.
    tails, logs = _suffix_sums(values)[index, head], _suffix_sums(np.log(values))[index, head]
    rest = rows - head
    psi, inverse, bend = _head_sums(problem, index, variance, head)
    alpha = problem.alpha[index]
    return _Terms(
        tails / variance - logs + rest * np.log(variance) + psi,
        rest - tails / variance - alpha * (head + inverse),
        alpha * bend - tails,
    )


def _suffix_sums(values: Floats) -> Floats:
    """B x (L+1): entry n is the sum of the values from n on."""
    sums = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return np.hstack([sums, np.zeros((len(values), 1))])


def _head_sums(problem: _Problem, index: Ints, variance: Floats, head: Ints) -> Sums:
    """Sums over each candidate's head of psi, of 1/t, and of -d(1/t)/dy."""
    sums = np.zeros((3, len(index)))
    # Longest heads first: each chunk is only as wide as its first candidate.
    order = np.argsort(-head, kind="stable")
    start = 0
    while start < len(order) and head[order[start]] > 0:
        width = int(head[order[start]])
        chunk = order[start : start + max(1, CHUNK // width)]
        start += len(chunk)
        owner = index[chunk]
        inside = np.arange(width) < head[chunk, None]
        alpha = problem.alpha[owner, None]
        values = problem.values[owner, :width]
        # Beyond the head any x with a real t will do; it is not summed.
        x = np.where(inside, values / variance[chunk, None], problem.xbar[owner, None])
        t = _t(x, alpha)
        psi = alpha / t + np.log(t) - (1 - alpha) * np.log(t + alpha)
        psi += 1 + alpha - alpha * np.log(alpha)
        for row, term in enumerate((psi, 1 / t, values / (t * t - alpha))):
            sums[row, chunk] = np.sum(term, axis=1, where=inside)
    return sums[0], sums[1], sums[2]


def _t(x: Floats, alpha: Floats) -> Floats:
    z = x - (1 + alpha)
    root: Floats = np.sqrt(np.maximum(z * z - 4 * alpha, 0.0))
    return (z + root) / 2


def _bounded(problem: _Problem) -> tuple[Floats, Ints]:
    """Noise variance and rank where one bounded search a matrix ends."""
    from scipy.optimize import minimize_scalar  # slow to import, and only comparisons need it

    count = len(problem.values)
    variance, rank = np.empty(count), np.empty(count, np.int64)
    for i in range(count):
        index = np.array([i])

        def head(v: float, i: int = i) -> Ints:
            return np.array([np.count_nonzero(problem.values[i] > v * problem.xbar[i])])

        def energy(v: float, index: Ints = index) -> float:
            return float(_terms(problem, index, np.array([v]), head(v, int(index[0]))).energy[0])

        bounds = (problem.lower[i], problem.upper[i])
        variance[i] = minimize_scalar(energy, bounds=bounds, method="bounded").x
        rank[i] = head(variance[i])[0]
    return variance, rank


def _solution(problem: _Problem, variance: Floats, rank: Ints) -> Evbmf:
    inside = np.arange(problem.values.shape[1]) < rank[:, None]
    safe = np.where(inside, variance[:, None], 1.0)
    alpha = problem.alpha[:, None]
    x = np.where(inside, problem.values / safe, problem.xbar[:, None])
    singular = np.sqrt(problem.values * problem.columns[:, None])
    # The JMLR formula for d, written with t: d = s t / x.
    shrunk = np.where(inside, singular * _t(x, alpha) / x, 0.0)
    last = shrunk[np.arange(len(rank)), np.maximum(rank - 1, 0)]
    condition = np.ones(len(rank))
    kept = rank > 0
    condition[kept] = shrunk[kept, 0] / last[kept]
    return Evbmf(rank, condition, variance, shrunk)
