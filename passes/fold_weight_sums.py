"""Sums over weights that are computed from constants alone become constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import numpy_helper

from conet_graph.ir.dead_code import keep_live
from conet_graph.ir.graph import Constant, Graph, Operator
from conet_graph.ir.operators import PLAIN_PRODUCTS
from conet_graph.passes.shapes.constant_values import evaluated, value_of

# Operators that sum over their inputs; what normalises (a mean of weights) stays a part of the network.
SUMS = PLAIN_PRODUCTS | {"Einsum", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}
# Elements of an input, and of the result, beyond which the sum stays in the graph.
LARGEST_INPUT = 2**24
LARGEST_RESULT = 2**16


@dataclass(frozen=True)
class FoldWeightSums:
    """Evaluate a sum over weights that leaves a number or a vector: spectral norms, weight norms.

    Such a number belongs to the trained weights as they are: it must not change when rows of a weight
    are cut, and its own rows are no channels. A product of two matrices that leaves a matrix (a low-rank
    weight) stays: its rows and columns are those of its factors.
    """

    name: ClassVar[str] = "fold_weight_sums"

    def run(self, graph: Graph) -> None:
        """Fold in place; shapes stay as they are."""
        folded = False
        for op in graph.operators:
            if op.op_type not in SUMS or op.domain or op.outputs[0] in graph.outputs:
                continue
            if op.outputs[0] not in graph.derived or not _is_small(graph, op):
                continue
            array = _value(graph, op)
            if array is not None:
                name = op.outputs[0]
                graph.constants[name] = Constant(numpy_helper.from_array(array, name), name)
                folded = True
        if folded:
            kept = [op.proto for op in graph.operators if op.outputs[0] not in graph.constants]
            keep_live(graph, kept)
            graph.shapes_stale = False


def _is_small(graph: Graph, op: Operator) -> bool:
    """Whether no input is too large to be summed here, and the result has one axis longer than 1 at most."""
    result = graph.shape(op.outputs[0])
    for shape in [result, *(graph.shape(name) for name in op.inputs if name)]:
        if shape is None or not all(isinstance(d, int) for d in shape):
            return False
        if math.prod(d for d in shape if isinstance(d, int)) > LARGEST_INPUT:
            return False
    sizes = [d for d in result or () if isinstance(d, int)]
    return sum(d > 1 for d in sizes) <= 1 and math.prod(sizes) <= LARGEST_RESULT


def _value(graph: Graph, op: Operator) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """What the operator computes; None where that is not known here."""
    given = {name: value_of(graph, name) for name in op.inputs if name}
    known = {name: value for name, value in given.items() if value is not None}
    if len(known) < len(given):
        return None
    try:
        return np.asarray(evaluated(op, known)[op.outputs[0]])
    except Exception:  # the reference implementation may lack a form of the operator
        return None
