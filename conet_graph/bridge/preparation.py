"""Constants that prepare the inputs, as a mean and a deviation of colours: settings, nothing that learns."""

from __future__ import annotations

from conet_graph.ir.graph import Graph, Operator
from conet_graph.passes.edits.normless import LAYOUT
from conet_graph.passes.unshare import is_vector

ARITHMETIC = frozenset(("Add", "Div", "Mul", "Sub"))
# What may lie between a graph's input and such arithmetic: it moves numbers and has no weights.
MOVING = LAYOUT | {"Clip", "Concat", "Gather", "Pad", "Resize", "Slice", "Split", "Upsample"}


def preparing_constants(graph: Graph) -> set[str]:
    """The constants of one number a channel that are added to, or multiplied with, the bare inputs.

    A value is bare if it is computed from the graph's inputs by such arithmetic and by moving numbers
    alone. A table with more than one axis is none of these: it may be learned, as positions are.
    In a structured graph each use of such a constant has its own copy.
    """
    bare, found = set(graph.inputs), set[str]()
    for op in graph.operators:
        if _leaves_bare(graph, op, bare):
            bare.update(op.outputs)
            if op.op_type in ARITHMETIC:
                found.update(n for n in op.inputs if n in graph.constants and is_vector(graph.constants[n]))
    return found


def _leaves_bare(graph: Graph, op: Operator, bare: set[str]) -> bool:
    computed = [n for n in op.inputs if n and n not in graph.constants]
    known = not op.domain and op.op_type in ARITHMETIC | MOVING
    return known and bool(computed) and bare.issuperset(computed)
