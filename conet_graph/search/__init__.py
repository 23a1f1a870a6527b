"""The search for channel sizes: CONet's Algorithm 2."""

from __future__ import annotations

from conet_graph.search.algorithm import (
    SearchSettings,
    SizeState,
    finished,
    rounded_width,
    start_state,
    step,
    step_all,
)

__all__ = [
    "SearchSettings",
    "SizeState",
    "finished",
    "rounded_width",
    "start_state",
    "step",
    "step_all",
]
