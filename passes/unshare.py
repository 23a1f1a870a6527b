"""Each use of a vector gets its own copy, so that exporters' sharing ties no layers together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conet_graph.ir.graph import Constant, Graph, literals
from conet_graph.passes.shapes.shape_arithmetic import evaluate


@dataclass(frozen=True)
class Unshare:
    """A constant with one long axis at most, read in several places, is given to each as its own.

    The TorchScript-based exporter stores equal vectors once: a bias of zeros would tie the whole
    network. A weight *matrix* read by two operators is a real tie and stays shared. The bytes are not
    copied; a copy that no plan changes is written under its old name again.
    """

    name: ClassVar[str] = "unshare"

    def run(self, graph: Graph) -> None:
        """Give every use after the first its own constant."""
        fixed = graph.captured | set(graph.outputs)
        changed = set[str]()
        for name, uses in list(graph.consumers.items()):
            constant = graph.constants.get(name)
            if constant is None or not is_vector(constant) or len(uses) + (name in fixed) < 2:
                continue
            for op, slot in uses if name in fixed else uses[1:]:
                own = graph.fresh_name(name)
                graph.constants[own] = Constant(constant.tensor, constant.source)
                if name in graph.known:
                    graph.known[own] = literals(own, graph.array(own))
                op.set_input(slot, own)
                changed.update(op.outputs[:1])
        graph.uses_changed()
        _trace_again(graph, changed)


def _trace_again(graph: Graph, changed: set[str]) -> None:
    """Say anew where the numbers of computed shapes stand that are made from constants which got copies."""
    for op in graph.operators:
        output = op.outputs[0]
        if output not in graph.known or not (output in changed or changed.intersection(op.inputs)):
            continue
        entries = evaluate(graph, op)
        if entries is not None:
            graph.known[output] = entries
            changed.add(output)


def is_vector(constant: Constant) -> bool:
    """Whether at most one axis is longer than one, and there is an axis at all."""
    return len(constant.dims) > 0 and sum(d > 1 for d in constant.dims) <= 1
