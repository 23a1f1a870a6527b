"""From layers to sizes: mean rank and condition of what speaks for a size, and the rank's slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from conet_graph.indicators.measure import LayerIndicators


@dataclass(frozen=True, slots=True)
class Voice:
    """What one or more layers say about a size, as one entry of its mean.

    Attributes:
        side: 'out' for layers that produce the size, 'in' for one that consumes it and nothing
            else.
        layers: usually one; the two halves of a concatenation that forms the size speak as one.

    """

    side: Literal["out", "in"]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SizeIndicators:
    """What Algorithm 2 reads of one size after a trial.

    Attributes:
        ranks: Rbar after each epoch.
        condition: kappabar after the last epoch.
        slope: S = (Rbar(t*) - Rbar(0)) / t*, 0 when t* = 0.
        peak: t*, the first epoch of the largest Rbar.

    """

    ranks: tuple[float, ...]
    condition: float
    slope: float
    peak: int


def rank_slope(ranks: Sequence[float]) -> tuple[float, int]:
    """The slope S and the epoch t* of the (first) largest rank; at least one epoch.

    >>> rank_slope([0.1, 0.2, 0.5, 0.4])
    (0.2, 2)
    """
    peak = max(range(len(ranks)), key=lambda epoch: ranks[epoch])
    return ((ranks[peak] - ranks[0]) / peak if peak else 0.0), peak


def mean_rank(voices: Sequence[Voice], layers: Mapping[str, LayerIndicators]) -> float:
    """Rbar of a size: the mean over its voices, each the mean over its layers."""
    return _mean([_mean([_rank(layers[n], voice) for n in voice.layers]) for voice in voices])


def mean_condition(voices: Sequence[Voice], layers: Mapping[str, LayerIndicators]) -> float:
    """The condition kappabar of a size, averaged as `mean_rank` averages."""
    return _mean([_mean([_condition(layers[n], voice) for n in voice.layers]) for voice in voices])


def _rank(layer: LayerIndicators, voice: Voice) -> float:
    return layer.out_rank if voice.side == "out" else layer.in_rank


def _condition(layer: LayerIndicators, voice: Voice) -> float:
    return layer.out_condition if voice.side == "out" else layer.in_condition


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
