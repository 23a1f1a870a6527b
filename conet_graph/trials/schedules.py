"""Learning rates over the training: step, cosine, one-cycle and constant; AdaS has its own file.

A schedule says which parameters share a rate, and what the rates are at each step. It is a function of
the step alone, but for AdaS, which looks at the weights after each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from conet_graph.trials.adas import AdaS
from conet_graph.trials.settings import TrainSettings

# One-cycle, as Smith & Topin 2019 is usually run: 30 % of the steps upwards from a 25th of the peak,
# then down to a 10,000th of the start.
RISE, START, END = 0.3, 1 / 25, 1 / 250_000


class Schedule(Protocol):
    """Rates of groups of parameters."""

    def groups(self) -> list[list[str]]:
        """Names of the parameters, by group; one rate a group."""
        ...

    def rates(self, step: int) -> list[float]:
        """The rate of each group in a step, counted from 0 over the whole training."""
        ...

    def after_epoch(self, module: nn.Module) -> None:
        """Look at the weights after an epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        ...


@dataclass(frozen=True, slots=True)
class ByStep:
    """One rate for everything, a function of the step."""

    settings: TrainSettings
    names: list[str]
    steps_per_epoch: int
    steps: int

    def groups(self) -> list[list[str]]:
        """All parameters in one group."""
        return [self.names]

    def rates(self, step: int) -> list[float]:
        """The one rate."""
        peak = self.settings.learning_rate
        match self.settings.schedule:
            case "cosine":
                return [peak * half_wave(step / self.steps)]
            case "one-cycle":
                return [peak * one_cycle(step, self.steps)]
            case "step":
                drops = step // self.steps_per_epoch // self.settings.step_epochs
                return [peak * self.settings.step_factor**drops]
        return [peak]

    def after_epoch(self, module: nn.Module) -> None:
        """Nothing to look at."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


def half_wave(progress: float) -> float:
    """Half a cosine wave, from 1 at progress 0 to 0 at progress 1.

    >>> [round(half_wave(p), 3) for p in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak rate in a step: half a wave up, half a wave down.

    >>> [round(one_cycle(step, 101), 3) for step in (0, 30, 100)]
    [0.04, 1.0, 0.0]
    """
    peak_at = max(1.0, RISE * steps - 1)
    if step <= peak_at:
        return 1 + (START - 1) * half_wave(step / peak_at)
    down = (step - peak_at) / max(1.0, steps - 1 - peak_at)
    return END + (1 - END) * half_wave(down)


def make_schedule(settings: TrainSettings, module: nn.Module, epochs: int, steps_per_epoch: int) -> Schedule:
    """The schedule that the settings name, for a module."""
    if settings.schedule == "adas":
        return AdaS.of(module, settings.learning_rate, settings.adas_beta)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    return ByStep(settings, names, steps_per_epoch, epochs * steps_per_epoch)
