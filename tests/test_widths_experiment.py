"""The widths experiment: its statistics, its trainings and its random cells."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in (
        "widths_table",
        "widths_training",
        "widths_steps",
        "widths_searches",
        "experiment_widths",
        "experiment_rank",
    ):
        sys.modules.pop(name, None)


def test_paired_differences_are_those_of_the_t_test() -> None:
    from widths_table import paired

    rng = np.random.default_rng(3)
    one, other = rng.normal(0.6, 0.01, 8).tolist(), rng.normal(0.59, 0.01, 8).tolist()
    mean, half, p = paired(one, other)
    expected = stats.ttest_rel(one, other)
    assert (mean, p) == pytest.approx((np.mean(one) - np.mean(other), expected.pvalue))
    low, high = expected.confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_holm_corrects_step_by_step() -> None:
    from widths_table import holm

    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.6]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []


def row(kind: str, seed: int, accuracy: float, base: int = 8) -> dict[str, Any]:
    costs = {"parameters": 100, "macs": 2_000_000, "ms": 0.5, "minutes": 1.0}
    return {
        "network": "n",
        "base": base,
        "match": "both",
        "kind": kind,
        "seed": seed,
        "accuracy": accuracy,
        **costs,
    }


def test_the_table_compares_seed_by_seed_and_each_budget_alone() -> None:
    from widths_table import tables

    rows = [row("compound", 0, 0.5), row("found", 1, 0.7), row("found", 0, 0.52), row("compound", 1, 0.66)]
    rows += [row("compound", 0, 0.9, base=12)]
    found = [{"network": "n", "base": 8, "match": "both", "kind": "found", "draw": 0, "minutes": 3.0}]
    first, second = tables(rows, found).split("\n\nn, base width 12")
    line = next(line for line in first.splitlines() if line.startswith("| found"))
    assert "found (2) | 61.00" in line
    assert "+3.00" in line
    assert "2.00 M" in line
    assert "| 3.0 |" in line
    assert "90.00 %" in second
    assert "found" not in second


def test_compound_scaling_is_the_same_whichever_budgets_hold() -> None:
    from widths_table import tables

    rows = [row("compound", seed, 0.5 + seed / 10) for seed in (0, 1)]
    rows += [{**row("flat", seed, 0.6 + seed / 8), "match": "params"} for seed in (0, 1)]
    _, second = tables(rows, []).split("\n\nn, base width 8, at equal parameters:")
    assert "compound (2) | 55.00" in second
    assert "| flat (2) | 66.25" in second
    assert "+11.25" in second


def images(tmp_path: Path) -> Path:
    from widths_training import sample

    rng = np.random.default_rng(0)
    data = {
        "x_train": rng.integers(0, 256, (300, 8, 8, 3), np.uint8),
        "y_train": rng.integers(0, 10, 300),
        "x_test": rng.integers(0, 256, (40, 8, 8, 3), np.uint8),
        "y_test": rng.integers(0, 10, 40),
    }
    np.savez(tmp_path / "all.npz", **data)
    final, search = sample(tmp_path / "all.npz", tmp_path / "work", side=4, train=200, searched=200)
    with np.load(final) as one, np.load(search) as other:
        assert (one["x_train"] == other["x_train"]).all()
        assert one["x_train"].shape == (200, 4, 4, 3)
        assert one["x_test"].shape == (40, 4, 4, 3)
        means = data["x_test"].reshape(40, 4, 2, 4, 2, 3).mean((2, 4))
        assert np.abs(one["x_test"] - means).max() <= 0.5
        assert len(other["x_test"]) == 30
        seen = {image.tobytes() for image in other["x_train"]}
        assert not any(image.tobytes() in seen for image in other["x_test"])
    return final


def test_trainings_of_one_seed_are_equal_and_of_another_are_not(tmp_path: Path) -> None:
    from widths_training import read_images, trained_accuracies

    found = read_images(images(tmp_path), "cpu")

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        )
        (accuracy,), _ = trained_accuracies([module], found, epochs=1, batch=32, seed=seed)
        assert 0 <= accuracy <= 1
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_random_cells_hear_their_input_and_cost_what_they_say() -> None:
    from experiment_rank import EDGES, drawn, measured, network

    cells = [drawn(k) for k in range(40)]
    assert len(set(cells)) > 35
    for cell in cells[:5]:
        module = network(cell, 4)
        module(torch.randn(2, 3, 8, 8)).sum().backward()
        assert module[0].weight.grad.abs().sum() > 0
    only = ["none", "none", "none", "conv3", "none", "none"]
    assert EDGES[3] == (0, 3)
    found = measured(network(only, 4), 8)
    convolutions = [(3, 4, 9, 8), (4, 4, 9, 8), (4, 8, 9, 4), (8, 8, 9, 4), (8, 16, 9, 2), (16, 16, 9, 2)]
    assert found["macs"] == sum(i * o * k * side**2 for i, o, k, side in convolutions)
