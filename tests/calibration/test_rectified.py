"""Fits behind which something is cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conet_graph.calibration import rectified as module
from conet_graph.calibration.gram import Moments, System
from conet_graph.calibration.rectified import Bounds, Rows, rectified
from conet_graph.calibration.solving import Solver

Array = NDArray[Any]
RELU, CLIP = Bounds(0.0, np.inf), Bounds(0.0, 0.5)
RIDGE = 1e-4


def case(count: int = 4000) -> tuple[Array, Array]:
    """Features [1, n, 6] and targets [1, n, 4] that need two more features to be told."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, count, 8)).astype(np.float32)
    y = x @ rng.standard_normal((8, 4)).astype(np.float32) - np.float32(0.5)
    return x[..., :6], y


def parted(x: Array, y: Array, other: Array | None) -> tuple[Rows, System]:
    """Rows in four parts, and their system."""
    rows, moments = Rows([]), Moments()
    for part in np.array_split(np.arange(x.shape[1]), 4):
        rows.add(x[:, part], y[:, part], None if other is None else other[:, part])
    moments.add(x, y)
    return rows, moments.system(True)


def fitted(x: Array, y: Array, bounds: Bounds, other: Array | None = None) -> tuple[float, float]:
    """The error as far as it counts: of the plain fit, and of the one that minds what is cut off."""
    rows, system = parted(x, y, other)
    start, solve = np.zeros((1, x.shape[2], y.shape[2])), system.solver(RIDGE)
    plain = system.solved(start, RIDGE)
    again = rectified(rows, system, solve, start, bounds)

    def error(matrix: Array, bias: Array) -> float:
        beside = 0 if other is None else other
        have, want = x @ matrix + bias[:, None] + beside, y + beside
        have = np.where(want <= bounds.low, np.maximum(have, bounds.low), have)
        have = np.where(want >= bounds.high, np.minimum(have, bounds.high), have)
        return float(np.square(have - np.clip(want, bounds.low, bounds.high)).mean())

    return error(plain, system.intercept(plain)), error(*again)


@pytest.mark.parametrize("bounds", [RELU, CLIP])
@pytest.mark.parametrize("summed", [False, True])
def test_what_is_cut_off_is_left_free(bounds: Bounds, summed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = case()
    other = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32) if summed else None
    before, after = fitted(x, y, bounds, other)
    monkeypatch.setattr(module, "ROUNDS", (200, 200))
    _, least = fitted(x, y, bounds, other)
    assert after < 0.95 * before
    assert after - least < 0.4 * (before - least)


def test_a_large_layer_gets_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = case()
    _, many = fitted(x, y, RELU)
    monkeypatch.setattr(module, "MOST_WORK", 5 * 2 * x.size * y.shape[2])
    before, fewer = fitted(x, y, RELU)
    monkeypatch.setattr(module, "MOST_WORK", 0)
    _, least = fitted(x, y, RELU)
    assert many < fewer < least < before


def test_bounds_that_cut_nothing_off_change_nothing() -> None:
    before, after = fitted(*case(), Bounds(-np.inf, np.inf))
    assert after == pytest.approx(before, rel=1e-6)


def test_rounds_that_bring_nothing_nearer_are_not_taken() -> None:
    # A solver that answers with noise but for the first time stands for a system that is all rounding.
    x, y = case()
    rows, system = parted(x, y, None)
    start, solve, calls = np.zeros((1, 6, 4)), system.solver(RIDGE), 0

    def noisy(right: Array) -> Array:
        nonlocal calls
        calls += 1
        return solve(right) if calls == 1 else 1e3 * np.ones_like(right)

    trouble: Solver = noisy
    matrix, bias = rectified(rows, system, trouble, start, RELU)
    plain = system.solved(start, RIDGE)
    np.testing.assert_array_equal(matrix, plain)
    np.testing.assert_array_equal(bias, system.intercept(plain))
    assert calls > 1
