"""Noise variances against the free energy as it is printed, evaluated everywhere."""

import numpy as np
import pytest
from numpy.typing import NDArray

from conet_graph.indicators import Evbmf, solve_evbmf

Floats = NDArray[np.float64]


def squares_of(matrix: Floats) -> Floats:
    return np.linalg.svd(matrix, compute_uv=False)[None] ** 2


def solved(matrix: Floats) -> Evbmf:
    return solve_evbmf(squares_of(matrix), np.array([max(matrix.shape)]))


def energies(squares: Floats, m: int, points: Floats | None = None) -> Floats:
    """The free energy, term by term as published; over the whole range if no points are given."""
    rows = len(squares)
    alpha = rows / m
    tau = 2.5129 * np.sqrt(alpha)
    xbar = (1 + tau) * (1 + alpha / tau)
    first = min(int(np.ceil(rows / (1 + alpha))) - 1, rows)
    lower = max(squares[first] / (m * xbar), np.mean(squares[first:]) / m)
    if points is None:
        points = np.linspace(lower, squares.sum() / (rows * m), 40_001)
    x = squares[:, None] / (m * points)
    z = np.where(x > xbar, x, xbar) - (1 + alpha)
    t = (z + np.sqrt(z * z - 4 * alpha)) / 2
    head = x - t + np.log((t + 1) / x) + alpha * np.log(t / alpha + 1)
    total: Floats = np.where(x > xbar, head, x - np.log(x)).sum(0)
    return total


def is_lowest(squares: Floats, m: int, variance: float) -> bool:
    everywhere = energies(squares, m)
    # The lowest point may be the limit at a jump, reached from one side only.
    near = np.array([variance * (1 - 1e-9), variance, variance * (1 + 1e-9)])
    here = energies(squares, m, near)
    return bool(here.min() <= everywhere.min() + 1e-6)


def noisy(seed: int) -> Floats:
    random = np.random.default_rng(seed)
    rows = int(random.integers(2, 40))
    columns = rows + int(random.integers(0, 120))
    rank = int(random.integers(0, rows))
    signal = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
    matrix: Floats = random.standard_normal((rows, columns)) + random.uniform(0, 1) * signal
    # Correlated noise, which spreads the spectrum and makes several minima.
    return matrix * random.uniform(0.2, 2, (rows, 1))


@pytest.mark.parametrize("seed", range(60))
def test_no_noise_variance_has_a_lower_free_energy(seed: int) -> None:
    matrix = noisy(seed)
    squares, m = squares_of(matrix), matrix.shape[1]
    assert is_lowest(squares[0], m, float(solved(matrix).noise_variance[0]))


def test_the_check_fails_where_one_search_is_caught_in_another_minimum() -> None:
    caught = 0
    for seed in range(60):
        matrix = noisy(seed)
        squares, m = squares_of(matrix), matrix.shape[1]
        variance = float(solve_evbmf(squares, np.array([m]), "bounded").noise_variance[0])
        caught += not is_lowest(squares[0], m, variance)
    assert caught > 0


def test_kept_values_are_those_over_the_threshold() -> None:
    matrix = noisy(3)
    found = solved(matrix)
    rows, m = matrix.shape
    alpha = rows / m
    tau = 2.5129 * np.sqrt(alpha)
    threshold = np.sqrt(m * found.noise_variance[0] * (1 + tau) * (1 + alpha / tau))
    singular = np.sqrt(squares_of(matrix)[0])
    assert 0 < found.rank[0] < rows
    assert found.rank[0] == np.count_nonzero(singular > threshold)


def test_shrunken_values_follow_the_published_formula() -> None:
    matrix = noisy(3)
    found = solved(matrix)
    rows, m = matrix.shape
    v, kept = found.noise_variance[0], int(found.rank[0])
    s = np.sqrt(squares_of(matrix)[0])[:kept]
    share = 1 - (rows + m) * v / s**2
    wanted = s / 2 * (share + np.sqrt(share**2 - 4 * rows * m * v**2 / s**4))
    np.testing.assert_allclose(found.shrunk[0, :kept], wanted, rtol=1e-10)
    assert not found.shrunk[0, kept:].any()
    assert found.condition[0] == pytest.approx(wanted[0] / wanted[-1])


def test_a_batch_answers_as_its_members_do_alone() -> None:
    random = np.random.default_rng(5)
    columns = np.array([12, 40, 300, 12, 12])
    uneven = np.linspace(0.1, 3, 12)[:, None]
    matrices = [random.standard_normal((12, m)) * uneven for m in columns]
    squares = np.concatenate([squares_of(matrix) for matrix in matrices])
    squares[3] = 0
    together = solve_evbmf(squares, columns)
    for i, m in enumerate(columns):
        alone = solve_evbmf(squares[i : i + 1], np.array([m]))
        assert together.rank[i] == alone.rank[0]
        assert together.noise_variance[i] == alone.noise_variance[0]
        np.testing.assert_array_equal(together.shrunk[i], alone.shrunk[0])


@pytest.mark.parametrize("search", ["global", "bounded"])
def test_without_a_noise_floor_the_rank_is_zero_by_definition(search: str) -> None:
    low = np.zeros((1, 8))
    low[0, :3] = [9.0, 4.0, 1.0]
    found = solve_evbmf(low, np.array([8]), "bounded" if search == "bounded" else "global")
    assert (found.rank[0], found.condition[0]) == (0, 1.0)
    assert found.noise_variance[0] == pytest.approx(14 / 64)


def test_a_few_dead_channels_leave_the_noise_floor() -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_normal((64, 100))
    matrix += 2 * random.standard_normal((64, 2)) @ random.standard_normal((2, 100))
    matrix[60:] = 0
    assert solved(matrix).rank[0] == 2


@pytest.mark.parametrize("columns", [8, 9, 1000])
def test_a_flat_spectrum_is_all_noise(columns: int) -> None:
    found = solve_evbmf(np.full((1, 8), 2.0), np.array([columns]))
    assert found.rank[0] == 0
    assert found.noise_variance[0] == pytest.approx(2 / columns)
