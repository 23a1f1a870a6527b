from __future__ import annotations

import pytest
from torch import nn

from conet_graph.trials.schedules import make_schedule
from conet_graph.trials.settings import TrainSettings


def rates(schedule: str, epochs: int, steps_per_epoch: int, **changed: float) -> list[float]:
    settings = TrainSettings(schedule=schedule, learning_rate=0.1, **changed)  # type: ignore[arg-type]
    made = make_schedule(settings, nn.Linear(2, 2), epochs, steps_per_epoch)
    assert made.groups() == [["weight", "bias"]]
    return [made.rates(step)[0] for step in range(epochs * steps_per_epoch)]


def test_constant() -> None:
    assert rates("constant", 2, 2) == [0.1] * 4


def test_step_by_hand() -> None:
    found = rates("step", 5, 2, step_epochs=2, step_factor=0.5)
    assert found == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 2)


def test_cosine_by_hand() -> None:
    # (1 + cos(pi k / 4)) / 2 for k = 0 ... 3
    assert rates("cosine", 2, 2) == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


def test_one_cycle_is_torchs() -> None:
    import torch

    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=20, cycle_momentum=False)
    expected = []
    for _ in range(20):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    # torch rises until step 0.3 * 20 - 1, and so do we with the same place of the peak.
    found = rates("one-cycle", 4, 5)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_single_step_has_a_rate() -> None:
    assert 0 < rates("one-cycle", 1, 1)[0] <= 0.1
