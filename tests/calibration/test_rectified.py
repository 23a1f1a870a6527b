"""Fits behind which something is cut off, and the strengths that are tried for a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conet_graph.calibration import rectified as module
from conet_graph.calibration.gram import RIDGES, Moments, System, chosen
from conet_graph.calibration.rectified import Bounds, Rows, rectified

Array = NDArray[Any]
RELU, CLIP = Bounds(0.0, np.inf), Bounds(0.0, 0.5)
RIDGE = 1e-4


def case(seed: int = 0, count: int = 4000) -> tuple[Array, Array]:
    """Features [1, n, 6] and targets [1, n, 4] that need two more features to be told."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, count, 8)).astype(np.float32)
    y = x @ rng.standard_normal((8, 4)).astype(np.float32) - np.float32(0.5)
    return x[..., :6], y


def fitted(x: Array, y: Array, bounds: Bounds, other: Array | None = None) -> tuple[float, float, int]:
    """The error as far as it counts before the fit is made again, and after; how many rows were kept."""
    moments = Moments()
    moments.add(x, y)
    system: System = moments.system(True)
    start = np.zeros((1, x.shape[2], y.shape[2]))
    rows = Rows([])
    for number in range(4):
        part = slice(1000 * number, 1000 * (number + 1))
        rows.add(x[:, part], y[:, part], None if other is None else other[:, part], 4)
    plain = system.solved(start, RIDGE)
    again = rectified(rows, system, plain, start, RIDGE, bounds)

    def error(matrix: Array, bias: Array) -> float:
        beside = 0 if other is None else other
        have, want = x @ matrix + bias[:, None] + beside, y + beside
        have = np.where(want <= bounds.low, np.maximum(have, bounds.low), have)
        have = np.where(want >= bounds.high, np.minimum(have, bounds.high), have)
        return float(np.square(have - np.clip(want, bounds.low, bounds.high)).mean())

    kept = sum(part[0].shape[1] for part in rows.parts)
    return error(plain, system.intercept(plain)), error(*again), kept


@pytest.mark.parametrize("bounds", [RELU, CLIP])
@pytest.mark.parametrize("summed", [False, True])
def test_what_is_cut_off_is_left_free(bounds: Bounds, summed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = case()
    other = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32) if summed else None
    before, after, _ = fitted(x, y, bounds, other)
    monkeypatch.setattr(module, "ROUNDS", 200)
    _, least, _ = fitted(x, y, bounds, other)
    assert after < 0.95 * before
    assert after - least < 0.4 * (before - least)


def test_a_share_of_the_rows_tells_nearly_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = case()
    _, whole, kept = fitted(x, y, RELU)
    assert kept == 4000
    monkeypatch.setattr(module, "MOST_WORK", 2 * module.ROUNDS * x.size * y.shape[2] / 4)
    before, after, kept = fitted(x, y, RELU)
    assert kept == 1000
    assert after - whole < 0.4 * (before - whole)


def test_bounds_that_cut_nothing_off_change_nothing() -> None:
    before, after, _ = fitted(*case(), Bounds(-np.inf, np.inf))
    assert after == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3, 3.0, 30.0])
def test_the_strength_of_the_pull_is_the_best_of_all(noise: float) -> None:
    # The noisier the few rows, the stronger the pull towards weights that are nearly right.
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((1, 12, 3))
    seen, aside = Moments(), Moments()
    for moments, count in ((seen, 30), (aside, 4000)):
        x = rng.standard_normal((1, count, 12)).astype(np.float32)
        y = x @ matrix + (noise if moments is seen else 0.0) * rng.standard_normal((1, count, 3))
        moments.add(x, y.astype(np.float32))
        moments.settle()
    starts = [matrix + 0.3 * rng.standard_normal(matrix.shape)]
    _, ridge, _, after = chosen(seen, aside, starts, None, True, RIDGES)
    fit, judge = seen.system(True), aside.system(True)
    errors = {}
    for strength in RIDGES:
        made = fit.solved(starts[0], strength)
        errors[strength] = float(judge.error(made, fit.intercept(made)).sum() / judge.spread.sum())
    best = min(errors, key=lambda strength: errors[strength])
    before = float(judge.error(starts[0]).sum() / judge.spread.sum())
    assert after == pytest.approx(min(before, errors[best]), rel=1e-6)
    assert ridge == (best if errors[best] < before else None)
