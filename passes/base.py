"""A pass, and the manager that runs a list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from conet_graph.ir.graph import Graph


class Pass(Protocol):
    """One step over the graph: a name, a docstring, and ``run``."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> None:
        """Change or annotate the graph; it is valid before and after."""


Hook = Callable[[Pass, Graph], None]


@dataclass
class PassManager:
    """Runs passes in order, and calls one hook after each (to verify, print or time)."""

    passes: Sequence[Pass]
    after: Hook | None = None

    def run(self, graph: Graph) -> Graph:
        """Run all passes over ``graph`` and return it."""
        for step in self.passes:
            step.run(graph)
            if self.after is not None:
                self.after(step, graph)
        return graph


@dataclass(frozen=True)
class UntilSettled:
    """Run passes again and again while they leave the shapes stale (one round a computed Reshape)."""

    steps: tuple[Pass, ...]
    name: ClassVar[str] = "settle_shapes"
    rounds: int = 64

    def run(self, graph: Graph) -> None:
        """Run until nothing changes."""
        for _ in range(self.rounds):
            for step in self.steps:
                step.run(graph)
            if not graph.shapes_stale:
                return
        for step in self.steps[:1]:
            step.run(graph)
