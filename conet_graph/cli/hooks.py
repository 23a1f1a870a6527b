"""What ``--print-after``, ``--verify-each`` and ``--debug`` do between two passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from conet_graph.ir.errors import BadUsage, InvalidModel, shown
from conet_graph.ir.graph import Graph
from conet_graph.passes import PIPELINE
from conet_graph.passes.base import Pass


class BetweenPasses:
    """The one hook of the pass manager: times each pass, prints and checks the graph after it."""

    def __init__(self, print_after: Sequence[str], verify_each: bool, debug: bool) -> None:
        """Take the options.

        Raises:
            BadUsage: there is no pass of that name.

        """
        known = [step.name for step in PIPELINE]
        for name in print_after:
            if name not in known:
                raise BadUsage(f"There is no pass {shown(name)}: the passes are {', '.join(known)}.")
        self.print_after = frozenset(print_after)
        self.verify_each = verify_each
        self.debug = debug
        self.started = time.perf_counter()

    def __call__(self, step: Pass, graph: Graph) -> None:
        """Called after each pass."""
        seconds = time.perf_counter() - self.started
        if self.debug:
            print(f"{step.name}: {1000 * seconds:.1f} ms", file=sys.stderr)
        if step.name in self.print_after:
            from conet_graph.ir.text import to_text

            print(f"# after {step.name}\n{to_text(graph)}", file=sys.stderr)
        if self.verify_each:
            verify(graph, step.name)
        self.started = time.perf_counter()


def verify(graph: Graph, after: str) -> None:
    """Check that values are written once, before they are read.

    Raises:
        InvalidModel: they are not; the message names the pass, the node and the value.

    """
    sparse = [s.values.name for s in graph.skeleton.graph.sparse_initializer]
    known = {"", *graph.inputs, *graph.constants, *sparse}
    for op in graph.operators:
        where = f"After pass {after}, {op.op_type} node {shown(op.name)}"
        inputs, outputs = list(op.proto.input), list(op.proto.output)
        for value in inputs:
            if value not in known:
                raise InvalidModel(f"{where} reads {shown(value)}, which nothing before it writes.")
        for value in outputs:
            if value in known and value:
                raise InvalidModel(f"{where} writes {shown(value)}, which exists already.")
        if (inputs, outputs) != (op.inputs, op.outputs):
            raise InvalidModel(f"{where} was changed past its operator, which does not know of it.")
        known.update(outputs)
    for value in graph.outputs:
        if value not in known:
            raise InvalidModel(f"After pass {after}, nothing writes graph output {shown(value)}.")
