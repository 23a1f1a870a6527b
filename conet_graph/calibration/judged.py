"""The values by which two networks are compared: their outputs, or what lies before what only chooses."""

from __future__ import annotations

from collections.abc import Iterator

from conet_graph.ir.graph import FLOATS, Graph, Operator
from conet_graph.ir.operators import TELLS_SIZES

# What turns a network's last numbers into shares: near 0 and 1 it hides how far they are apart.
_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh"})
# What passes them on, or says only which is the largest.
_PASSING = frozenset({"Identity", "Cast", "ArgMax", "TopK", "Squeeze", "Unsqueeze"})
# What chooses as many as there happen to be: behind it, two networks give other numbers of other things.
_CHOOSING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})


def judged_values(graph: Graph) -> dict[str, int | None]:
    """The values by which two networks are compared: the outputs, before what only squashes or chooses.

    With each the axis along which a constant may be added without a difference, before a Softmax.
    """
    chosen = _chosen(graph)
    found: dict[str, int | None] = {}
    for output in graph.outputs:
        for value in _unchosen(graph, output, chosen) if output in chosen else [output]:
            kept, axis = _unsquashed(graph, value)
            kept = kept if kept in graph.producers else value
            if graph.dtypes.get(kept, 1) in FLOATS:
                found.setdefault(kept, axis)
    return found


def _unsquashed(graph: Graph, value: str) -> tuple[str, int | None]:
    """What a value is before what squashes it or passes it on, and an axis as in ``judged_values``."""
    for _ in range(len(_PASSING)):
        maker = graph.producers.get(value)
        if maker is None or maker.domain:
            break
        if maker.op_type in _SQUASHING:
            softmax = maker.op_type.endswith("Softmax")
            axis = int(maker.attr("axis", 1 if graph.opset < 13 else -1)) if softmax else None
            return maker.input(0), axis
        if maker.op_type not in _PASSING:
            break
        value = maker.input(0)
    return value, None


def _chosen(graph: Graph) -> set[str]:
    """All values that depend on how many were chosen."""
    chosen = set[str]()
    for op in graph.operators:
        if _chooses(op) or (op.op_type not in TELLS_SIZES and not chosen.isdisjoint(op.inputs)):
            chosen.update(name for name in op.outputs if name)
    return chosen


def _chooses(op: Operator) -> bool:
    return not op.domain and op.op_type in _CHOOSING


def _unchosen(graph: Graph, output: str, chosen: set[str]) -> Iterator[str]:
    """The float values that an output is chosen from, and by which: the last ones before any choice."""
    pending, seen = [output], {output}
    while pending:
        name = pending.pop()
        op = graph.producers.get(name)
        if op is None or op.op_type in TELLS_SIZES or name in graph.derived:
            continue
        if name not in chosen and graph.dtypes.get(name, 1) in FLOATS:
            yield name
            continue
        fresh = [each for each in op.inputs if each and each not in seen]
        seen.update(fresh)
        pending += fresh[::-1]
