"""What is multiplied with what where no weight is: in Attention, MultiHeadAttention and Einsum."""

from __future__ import annotations

from conet_graph.ir.einsum import spelled_out
from conet_graph.ir.graph import Dim, Graph, Operator

# An axis of a value.
Place = tuple[str, int]

OPERATORS = frozenset(("Attention", "Einsum", "MultiHeadAttention"))


def multiplied(graph: Graph, op: Operator) -> list[list[Place]] | None:
    """Of each product in one of ``OPERATORS`` the axes whose lengths multiply to its multiply-accumulates.

    None where they are not known: ONNX Runtime's Attention has a projection inside, and may have a past.
    """
    if op.op_type == "Einsum":
        return _letters(graph, op)
    if op.op_type == "MultiHeadAttention":
        return _attention(graph, op, op.input(1) or op.input(0), 1)
    keys = graph.shape(op.input(1))
    return None if op.domain or keys is None else _attention(graph, op, op.input(1), len(keys) - 2)


def _attention(graph: Graph, op: Operator, keys: str, axis: int) -> list[list[Place]] | None:
    """Q with all keys, the scores with all values: each number of Q and of the output once for every key."""
    found: list[list[Place]] = []
    for value in (op.input(0), op.outputs[0]):
        shape = graph.shape(value)
        if shape is None:
            return None
        # Of five axes the fourth one tells Q, K and V apart.
        found.append([*((value, k) for k in range(len(shape)) if len(shape) < 5 or k != 3), (keys, axis)])
    return found


def _letters(graph: Graph, op: Operator) -> list[list[Place]] | None:
    """Of each letter of an Einsum an axis that says how long it is."""
    shapes = [graph.shape(name) or () for name in op.inputs]
    try:
        equation = spelled_out(str(op.attr("equation", "")), [len(shape) for shape in shapes])
    except ValueError:
        return None
    found: dict[str, tuple[Place, Dim]] = {}
    for slot, term in enumerate(equation.partition("->")[0].split(",")):
        for axis, letter in enumerate(term):
            known = found[letter][1] if letter in found else None
            if not isinstance(known, int) or known == 1:
                found[letter] = (op.input(slot), axis), shapes[slot][axis]
    return [[place for place, _ in found.values()]]
