"""Values that a file computes from its constants: weights that are decoded, transposed, standardised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from conet_graph.ir.graph import Graph, Operator

# Making a weight ready takes a few operators, never this many.
MOST_OPERATORS = 64
# Elements of one value on the way: nothing in a file stands for those that it computes.
LARGEST = 2**28
# Operators whose cost is that of writing their output, and whose output is the same in every run.
PLAIN = frozenset(
    (
        *("Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape"),
        *("DequantizeLinear", "Div", "Exp", "Expand", "EyeLike", "Flatten", "Gather", "Identity"),
        *("InstanceNormalization", "LpNormalization", "Max", "Min", "Mul", "Neg", "Pow"),
        *("QuantizeLinear", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"),
        *("Reshape", "Shape", "Sigmoid", "Sign", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tanh"),
        *("Tile", "Transpose", "Unsqueeze", "Where"),
    )
)


def value_of(graph: Graph, name: str) -> NDArray[Any] | None:
    """The value of a constant, or of what plain operators compute from constants.

    Evaluated by ONNX's reference implementation in numpy. None where it depends on the network's
    input, on chance or on an operator that is not plain, or where its size is not known or too large.
    """
    if name in graph.constants:
        return graph.array(name)
    operators = _upstream(graph, name)
    if operators is None:
        return None
    values: dict[str, NDArray[Any]] = {}
    try:
        for op in operators:
            for value in op.inputs:
                if value in graph.constants:
                    values[value] = graph.array(value)
            values.update(evaluated(op, {value: values[value] for value in op.inputs if value}))
    except Exception:
        # A file may hold any nonsense that is no one's weight; whoever asked can do without.
        return None
    return values.get(name)


def computable(graph: Graph, name: str) -> bool:
    """Whether ``value_of`` can be asked for a value: it is a constant, or plain operators make it of some."""
    return name in graph.constants or _upstream(graph, name) is not None


def _upstream(graph: Graph, name: str) -> list[Operator] | None:
    """The operators that a value is computed by, in order; None where it cannot be computed here."""
    found: dict[int, Operator] = {}
    pending = [name]
    while pending:
        value = pending.pop()
        if not value or value in graph.constants:
            continue
        op = graph.producers.get(value)
        if op is None or op.domain or op.op_type not in PLAIN or len(found) > MOST_OPERATORS:
            return None
        if not _is_small(graph, value):
            return None
        if op.index not in found:
            found[op.index] = op
            pending.extend(op.inputs)
    return [found[index] for index in sorted(found)]


def _is_small(graph: Graph, value: str) -> bool:
    shape = graph.shape(value)
    if shape is None:
        return False
    size = 1
    for dim in shape:
        if not isinstance(dim, int):
            return False
        size *= dim
    return size <= LARGEST


def evaluated(op: Operator, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs of one operator."""
    from onnx.reference import ReferenceEvaluator

    def infos(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n]

    body = helper.make_graph([op.proto], "constants", infos(given), infos(op.outputs))
    # Of these the evaluator knows the newer forms only, which contain the older ones.
    newer = op.op_type in ("DequantizeLinear", "QuantizeLinear")
    opset = max(op.version, 19) if newer else op.version
    with np.errstate(all="ignore"):
        made = ReferenceEvaluator(body, opsets={"": opset}).run(None, given)
    outputs = [name for name in op.outputs if name]
    return dict(zip(outputs, made, strict=True))
