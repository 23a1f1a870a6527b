"""How much a layer has learned: rank and condition of its weights, and how fast the rank grows."""

from __future__ import annotations

from conet_graph.indicators.evbmf import Evbmf, solve_evbmf
from conet_graph.indicators.measure import LayerIndicators, layer_indicators
from conet_graph.indicators.slope import SizeIndicators, Voice, rank_slope

__all__ = [
    "Evbmf",
    "LayerIndicators",
    "SizeIndicators",
    "Voice",
    "layer_indicators",
    "rank_slope",
    "solve_evbmf",
]
