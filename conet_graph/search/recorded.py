"""A search as plain data: its sizes, trials and comparison, as they stand in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RecordedSize:
    """One channel size of a search; ``layers`` are those that produce it."""

    name: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]
    multiple: int
    original_width: int | None


@dataclass(frozen=True, slots=True)
class Width:
    """What a size was trained with in one trial."""

    width: int
    action: int
    phi: float
    stopped: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial measured of a size, and what Algorithm 2 made of it."""

    slope: float | None
    condition: float | None
    action: int
    new_width: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a trial: the trial's own metrics (accuracies in 0..1) and seconds."""

    number: int
    metrics: Mapping[str, float]
    seconds: float
    indicator_seconds: float


@dataclass(frozen=True)
class RecordedTrial:
    """One trial, its times in seconds; what is not known yet, or could not be counted, is None."""

    number: int
    status: str
    parameters: int | None
    macs: int | None
    seconds: float | None
    graph_seconds: float | None
    indicator_seconds: float | None
    test_accuracy: float | None
    onnx: str | None
    widths: Mapping[str, Width] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    ranks: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """The test accuracy; where a trial is under way, that of its last epoch."""
        if self.test_accuracy is not None:
            return self.test_accuracy
        return self.epochs[-1].metrics.get("test_accuracy") if self.epochs else None

    @property
    def total_seconds(self) -> float:
        """Time spent on it; as long as it is under way, that of its epochs."""
        if self.status == FINISHED and self.seconds is not None:
            return self.seconds
        return sum(epoch.seconds + epoch.indicator_seconds for epoch in self.epochs)

    @property
    def overhead_seconds(self) -> float:
        """Of it, time spent on indicators and on the graph."""
        return sum(epoch.indicator_seconds for epoch in self.epochs) + (self.graph_seconds or 0.0)


@dataclass(frozen=True, slots=True)
class Compared:
    """One network of a comparison, trained with one seed."""

    kind: str
    seed: int
    parameters: int | None
    macs: int | None
    epochs: int
    test_accuracy: float | None
    seconds: float | None


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A search as it stands; sizes in the network's order, trials by number."""

    folder: Path
    about: Mapping[str, str]
    settings: Mapping[str, Any]
    sizes: tuple[RecordedSize, ...]
    trials: tuple[RecordedTrial, ...]
    comparison: tuple[Compared, ...]

    @property
    def status(self) -> str:
        """Of the search: running, finished, failed or interrupted."""
        return self.about.get("status", "unknown")

    @cached_property
    def seconds(self) -> float:
        """Time spent in all trials."""
        return sum(trial.total_seconds for trial in self.trials)

    @cached_property
    def overhead_seconds(self) -> float:
        """Of it, time spent on indicators and on the graph."""
        return sum(trial.overhead_seconds for trial in self.trials)

    @cached_property
    def best(self) -> RecordedTrial | None:
        """The trial of the best test accuracy, the first of several."""
        measured = [trial for trial in self.trials if trial.accuracy is not None]
        return max(measured, key=lambda trial: trial.accuracy or 0.0, default=None)

    @cached_property
    def last_outcomes(self) -> Mapping[str, Outcome]:
        """What the last measured trial led to, by size."""
        return next((t.outcomes for t in reversed(self.trials) if t.outcomes), {})

    def course(self, size: RecordedSize) -> list[tuple[int, int]]:
        """The size's width in each trial, as (trial, width)."""
        return [(t.number, t.widths[size.name].width) for t in self.trials if size.name in t.widths]

    def first_and_last(self, size: RecordedSize) -> tuple[int, int] | None:
        """Width in the first trial and in the last one; None before the first trial."""
        course = self.course(size)
        return (course[0][1], course[-1][1]) if course else None
