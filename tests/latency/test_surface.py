"""Time over two widths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from conet_graph.latency.surface import Surface

GRID = list(itertools.product(range(8, 129, 8), repeat=2))


def blocks(width: float, block: int) -> float:
    return float(np.ceil(width / block) * block)


def fitted(time: object, points: list[tuple[int, int]]) -> Surface:
    assert callable(time)
    return Surface.fitted([(float(a), float(b), float(time(a, b))) for a, b in points])


@pytest.mark.parametrize(
    "time",
    [
        lambda a, b: 2.0,
        lambda a, b: 0.5 + 1e-3 * a * b,
        lambda a, b: 0.1 + 2e-3 * blocks(a, 16) * b + 1e-2 * a,
        lambda a, b: 0.1 + 1e-2 * a + (0.3 if b > 500 else 0.0),
        lambda a, b: 0.2 + 1e-2 * a + 3e-2 * (a if a % 16 else 0),  # 24 takes longer than 32
    ],
)
def test_a_time_in_blocks_is_found_from_a_few_points(time: object) -> None:
    rng = np.random.default_rng(0)
    surface = fitted(time, [GRID[k] for k in rng.choice(len(GRID), 24, replace=False)])
    assert callable(time)
    for a, b in GRID:
        assert float(surface(np.array(float(a)), np.array(float(b)))) == pytest.approx(time(a, b), rel=0.02)


def test_noise_makes_no_wider_layer_faster() -> None:
    rng = np.random.default_rng(1)
    surface = fitted(lambda a, b: (1 + 1e-3 * a * b) * rng.uniform(0.7, 1.3), GRID[::7])
    wide = np.arange(16.0, 257.0, 16.0)
    times = surface(wide[:, None] + 0 * wide, wide + 0 * wide[:, None])
    assert (np.diff(times, axis=0) >= 0).all()
    assert (np.diff(times, axis=1) >= 0).all()


def test_nothing_measured_takes_no_time() -> None:
    for points in ([], [(8.0, 8.0, 0.0), (16.0, 8.0, 0.0)]):
        assert float(Surface.fitted(points)(np.array(8.0), np.array(8.0))) == 0
