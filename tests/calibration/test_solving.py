"""Systems taken apart once, and the strengths that are tried for a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conet_graph.calibration import gram
from conet_graph.calibration.gram import RIDGES, Moments, chosen
from conet_graph.calibration.solving import solver_of

Array = NDArray[Any]


def test_a_system_is_solved_for_every_right_side() -> None:
    rng = np.random.default_rng(0)
    for blocks in (1, 3):
        table = rng.standard_normal((blocks, 20, 6))
        left = np.swapaxes(table, 1, 2) @ table
        solve = solver_of(left)
        for outputs in (1, 4):
            right = rng.standard_normal((blocks, 6, outputs))
            np.testing.assert_allclose(left @ solve(right), right, atol=1e-9)


def test_a_system_that_is_indefinite_by_rounding_is_solved_all_the_same() -> None:
    left = np.diag([1.0, 1e-3, -1e-9])[None]
    right = np.array([[[2.0], [3.0], [4e-9]]])
    np.testing.assert_allclose(solver_of(left)(right), [[[2.0], [3e3], [-4.0]]])


def fitted_on_noise(noise: float, outputs: int) -> tuple[Moments, Moments, Array]:
    """Few noisy rows to fit on, many exact ones to judge on, and weights that are nearly right."""
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((1, 12, outputs))
    seen, aside = Moments(), Moments()
    for moments, count in ((seen, 30), (aside, 4000)):
        x = rng.standard_normal((1, count, 12)).astype(np.float32)
        y = x @ matrix + (noise if moments is seen else 0.0) * rng.standard_normal((1, count, outputs))
        moments.add(x, y.astype(np.float32))
        moments.settle()
    return seen, aside, matrix + 0.3 * rng.standard_normal(matrix.shape)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3, 3.0, 30.0])
@pytest.mark.parametrize(("outputs", "slack"), [(3, 1e-6), (4 * gram.PROBED, 0.02)])
def test_the_strength_of_the_pull_is_the_best_of_all(noise: float, outputs: int, slack: float) -> None:
    # The noisier the few rows, the stronger the pull towards weights that are nearly right. Of many outputs
    # some say which strength is best, and a near tie may go the other way.
    seen, aside, start = fitted_on_noise(noise, outputs)
    _, ridge, before, after = chosen(seen, aside, [start], None, True, RIDGES)
    fit, judge = seen.system(True), aside.system(True)
    errors = {}
    for strength in RIDGES:
        made = fit.solved(start, strength)
        errors[strength] = float(judge.error(made, fit.intercept(made)).sum() / judge.spread.sum())
    least = min(errors.values())
    assert before == pytest.approx(float(judge.error(start).sum() / judge.spread.sum()))
    assert after == pytest.approx(min(before, least), rel=slack)
    assert (ridge is not None) == (least < before)
    assert ridge is None or errors[ridge] == pytest.approx(after)


def test_a_fit_that_helps_nothing_is_not_taken() -> None:
    seen, aside, start = fitted_on_noise(1e4, 4 * gram.PROBED)
    matrix, ridge, before, after = chosen(seen, aside, [start], None, True, RIDGES[:3])
    assert ridge is None
    assert after == before
    assert matrix is start
