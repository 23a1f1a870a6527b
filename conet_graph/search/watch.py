"""What a search tells while it runs; the command line shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from conet_graph.search.algorithm import SizeState
from conet_graph.search.run_store import TrialRow

States = Mapping[str, SizeState]


class Watch(Protocol):
    """Called by a search as it goes; see `conet_graph.search.live` for one that draws a table."""

    def begins(self, trial: int, states: States, parameters: int, macs: int) -> None:
        """A trial, counted from 0, begins."""
        ...

    def epoch(self, trial: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """An epoch, counted from 1, is over."""
        ...

    def ends(self, trial: TrialRow, before: States, after: States) -> None:
        """A trial is over, and the next states are known."""
        ...

    def say(self, sentence: str) -> None:
        """Something out of the ordinary has happened."""
        ...


class Silent:
    """Shows nothing."""

    def begins(self, trial: int, states: States, parameters: int, macs: int) -> None:
        """Nothing."""

    def epoch(self, trial: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Nothing."""

    def ends(self, trial: TrialRow, before: States, after: States) -> None:
        """Nothing."""

    def say(self, sentence: str) -> None:
        """Nothing."""
