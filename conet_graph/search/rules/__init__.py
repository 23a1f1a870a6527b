"""The rules by which a search makes its next widths, by the name that `search --rule` takes."""

from __future__ import annotations

from collections.abc import Mapping

from conet_graph.search.rules.base import Rule
from conet_graph.search.rules.conet import AlgorithmTwo, BudgetedSlopes
from conet_graph.search.rules.conetv2 import Conetv2
from conet_graph.search.rules.pairs import Pairs
from conet_graph.search.rules.surface import LooseSurface, ResponseSurface
from conet_graph.search.rules.taper import Taper
from conet_graph.search.rules.worth import Worth

BY_NAME: Mapping[str, type[Rule]] = {
    "conet": AlgorithmTwo,
    "slopes": BudgetedSlopes,
    "conetv2": Conetv2,
    "worth": Worth,
    "pairs": Pairs,
    "surface": ResponseSurface,
    "loose": LooseSurface,
    "taper": Taper,
}

__all__ = ["BY_NAME", "Rule"]
