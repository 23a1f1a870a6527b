"""What a family file's table of rules holds."""

from __future__ import annotations

from collections.abc import Callable

from conet_graph.ir.graph import Operator
from conet_graph.passes.channels.units import Tracker

Rule = Callable[[Tracker, Operator], None]
Table = dict[tuple[str, str], Rule]
