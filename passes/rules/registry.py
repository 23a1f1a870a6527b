"""How a family file declares its rules."""

from __future__ import annotations

from collections.abc import Callable

from conet_graph.ir.graph import Operator
from conet_graph.passes.units import Tracker

Rule = Callable[[Tracker, Operator], None]
Table = dict[tuple[str, str], Rule]

MICROSOFT = "com.microsoft"


def rule(table: Table, *op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter a rule into a family's table; a second rule for one operator is an error."""

    def enter(function: Rule) -> Rule:
        for op_type in op_types:
            if (domain, op_type) in table:
                raise ValueError(f"two rules for {op_type}")
            table[domain, op_type] = function
        return function

    return enter
