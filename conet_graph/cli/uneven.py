"""What ``rewrite`` says of widths that are no multiples of what a target's widths are to be."""

from __future__ import annotations

from typing import Any

from conet_graph.cli.common import console
from conet_graph.ir.graph import Graph
from conet_graph.rewriting.alignment import Alignment, uneven
from conet_graph.rewriting.plans import Plan

NAMED = 8  # so many groups are named


def uneven_groups(graph: Graph, made: Plan, alignment: Alignment) -> list[dict[str, Any]]:
    """The new widths that are no such multiples, as ``not_aligned`` of ``rewrite --json``."""
    widths = {group.id: group.new_width for group in made.groups}
    return [
        {"id": group.id, "new_width": widths[group.id], "multiple": multiple}
        for group, multiple in uneven(graph, widths, alignment)
    ]


def show_uneven(groups: list[dict[str, Any]], *, stderr: bool) -> None:
    """One line for each multiple."""
    for multiple in dict.fromkeys(entry["multiple"] for entry in groups):
        names = [entry["id"] for entry in groups if entry["multiple"] == multiple]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        console(stderr=stderr).print(
            f"not multiples of {multiple}, since narrow or the target would be missed:"
            f" {', '.join(names[:NAMED])}{more}"
        )
