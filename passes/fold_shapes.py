"""Shape arithmetic that exporters leave in the graph becomes constants where its result is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import drop_unused_constants, live_nodes
from conet_graph.ir.graph import Constant, Entry, Graph, Operator
from conet_graph.passes.plain_forms import fill_vectors, split_sequences

Entries = list[Entry]
LONGEST = 1024


@dataclass(frozen=True)
class FoldShapes:
    """Evaluate ``Shape -> Gather -> ... -> Concat`` chains; fold what is known, note what is not.

    A Reshape target with numbers that only the run knows becomes a constant with ``0`` and ``-1`` where
    those can say it. What stays computed is left in ``graph.known``, number by number.
    """

    name: ClassVar[str] = "fold_shapes"
    doc: ClassVar[str] = "computed shapes become constants where they are known"

    def run(self, graph: Graph) -> None:
        """Fold in place."""
        graph.known = {}
        split_sequences(graph)
        folded = fill_vectors(graph)
        for op in graph.operators:
            entries = evaluate(graph, op)
            if entries is None:
                continue
            output = op.outputs[0]
            graph.known[output] = entries
            if output not in graph.outputs and _fold(graph, op, entries):
                folded += 1
        for op in graph.operators:
            if op.op_type == "Reshape" and op.input(1) not in graph.constants:
                folded += _fold_target(graph, op)
        if folded:
            kept = [op.proto for op in graph.operators if op.outputs[0] not in graph.constants]
            graph.keep_nodes(live_nodes(kept, set(graph.outputs)))
            drop_unused_constants(graph)


def constant_entries(graph: Graph, name: str) -> Entries | None:
    """The numbers of a value if it is a small constant or a computed shape."""
    if name in graph.known:
        return graph.known[name]
    constant = graph.constants.get(name)
    if constant is None or constant.size > LONGEST or len(constant.dims) > 1:
        return None
    integer = constant.tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    if not integer and not (constant.is_float and constant.size == 1):
        return None
    values = graph.array(name).reshape(-1).tolist()
    entries = [Entry(v, ("const", name, k)) for k, v in enumerate(values)]
    graph.known[name] = entries
    return entries


def evaluate(graph: Graph, op: Operator) -> Entries | None:
    """The numbers that an operator computes from shapes and small constants, or None."""
    handler = _EVALUATORS.get(op.op_type) if not op.domain else None
    return None if handler is None else handler(graph, op)


def _shape(graph: Graph, op: Operator) -> Entries | None:
    shape = graph.shape(op.input(0))
    if shape is None:
        return None
    entries = [Entry(d if isinstance(d, int) else None, ("dim", op.input(0), k)) for k, d in enumerate(shape)]
    return entries[op.attr("start", 0) : op.attr("end", len(entries))]


def _gather(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    where = constant_entries(graph, op.input(1))
    if data is None or where is None or not data or any(e.value is None for e in where):
        return None
    positions = [int(e.value or 0) for e in where]
    return [data[p] for p in positions] if all(-len(data) <= p < len(data) for p in positions) else None


def _slice(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None:
        return None
    if len(op.inputs) == 1:
        starts, ends, steps = op.attr("starts", [0]), op.attr("ends", [LONGEST]), [1]
    else:
        parts = [constant_entries(graph, op.input(k)) if op.input(k) else [Entry(1)] for k in (1, 2, 4)]
        if any(p is None or any(e.value is None for e in p) for p in parts):
            return None
        starts, ends, steps = ([int(e.value or 0) for e in p or []] for p in parts)
    if len(starts) != 1 or steps[0] == 0:
        return None
    return data[starts[0] : ends[0] : steps[0]] if steps[0] > 0 else None


def _concat(graph: Graph, op: Operator) -> Entries | None:
    joined: Entries = []
    for name in op.inputs:
        part = constant_entries(graph, name)
        if part is None:
            return None
        joined += part
    return joined if len(joined) <= LONGEST else None


def _through(graph: Graph, op: Operator) -> Entries | None:
    return constant_entries(graph, op.input(0))


def _cast(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None or op.attr("to") not in (
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT32,
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
    ):
        return None
    if op.attr("to") in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return [e if e.value is None else Entry(int(e.value), e.source) for e in data]
    return [e if e.value is None else Entry(float(e.value), e.source) for e in data]


def _cast_like(graph: Graph, op: Operator) -> Entries | None:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return _through(graph, op) if graph.dtypes.get(op.outputs[0]) in floats else None


def _unary(function: Callable[[float], float]) -> Callable[[Graph, Operator], Entries | None]:
    def handler(graph: Graph, op: Operator) -> Entries | None:
        data = constant_entries(graph, op.input(0))
        if data is None or any(e.value is None for e in data):
            return None
        try:
            return [Entry(function(e.value or 0)) for e in data]
        except (ValueError, OverflowError):
            return None

    return handler


def _binary(function: Callable[[float, float], float]) -> Callable[[Graph, Operator], Entries | None]:
    def handler(graph: Graph, op: Operator) -> Entries | None:
        parts = [constant_entries(graph, n) for n in op.inputs]
        if len(parts) != 2 or not parts[0] or not parts[1]:
            return None
        length = max(len(parts[0]), len(parts[1]))
        if {len(parts[0]), len(parts[1])} - {1, length}:
            return None
        left, right = (p * length if len(p) == 1 else p for p in parts if p)
        out: Entries = []
        for a, b in zip(left, right, strict=True):
            if a.value is None or b.value is None:
                out.append(Entry(None))
                continue
            try:
                out.append(Entry(function(a.value, b.value)))
            except (ZeroDivisionError, ValueError, OverflowError):
                return None
        return out

    return handler


def _div(a: float, b: float) -> float:
    # ONNX divides integers towards zero.
    if isinstance(a, int) and isinstance(b, int):
        return a // b if (a >= 0) == (b > 0) else -(-a // b)
    return a / b


def _filled(graph: Graph, op: Operator) -> Entries | None:
    size = constant_entries(graph, op.input(0))
    value = op.attr("value")
    if size is None or len(size) != 1 or size[0].value is None or value is None:
        return None
    count = int(size[0].value)
    if count > LONGEST or value.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return None
    return [Entry(int(numpy_helper.to_array(value).reshape(-1)[0]))] * count


def _product(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None or any(e.value is None for e in data):
        return None
    return [Entry(math.prod(int(e.value or 0) for e in data))]


_EVALUATORS: dict[str, Callable[[Graph, Operator], Entries | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _through,
    "Squeeze": _through,
    "Reshape": _through,
    "Identity": _through,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Floor": _unary(math.floor),
    "Ceil": _unary(math.ceil),
    "Sqrt": _unary(math.sqrt),
    "Reciprocal": _unary(lambda a: 1.0 / a),
    "Neg": _unary(lambda a: -a),
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(_div),
    "Mod": _binary(lambda a, b: a % b),
    "Pow": _binary(lambda a, b: a**b),
    "Min": _binary(min),
    "Max": _binary(max),
    "ConstantOfShape": _filled,
    "ReduceProd": _product,
}


def _fold(graph: Graph, op: Operator, entries: Entries) -> bool:
    """Turn an operator whose result is known into a constant."""
    if any(e.value is None for e in entries):
        return False
    name, shape = op.outputs[0], graph.shape(op.outputs[0])
    dtype = graph.dtypes.get(name)
    if shape is None or dtype is None or not all(isinstance(d, int) for d in shape):
        return False
    if math.prod(d for d in shape if isinstance(d, int)) != len(entries):
        return False
    array = np.array([e.value for e in entries], helper.tensor_dtype_to_np_dtype(dtype))
    _replace(graph, name, array.reshape([d for d in shape if isinstance(d, int)]))
    return True


def _fold_target(graph: Graph, op: Operator) -> int:
    """Say a partly known Reshape target with 0 and -1; 1 when that was possible."""
    entries = graph.known.get(op.input(1))
    shape = graph.shape(op.input(0))
    if entries is None or shape is None or op.attr("allowzero", 0):
        return 0
    target: list[int] = []
    for axis, entry in enumerate(entries):
        if entry.value is not None:
            target.append(int(entry.value))
        elif axis < len(shape) and _same_dim(graph, entry, op.input(0), axis):
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1:
        return 0
    name = graph.fresh_name(op.input(1))
    _replace(graph, name, np.array(target, np.int64))
    op.proto.input[1] = name
    return 1


def _same_dim(graph: Graph, entry: Entry, value: str, axis: int) -> bool:
    """Whether a run-time dimension is the one of ``value`` at ``axis``."""
    if entry.source is None or entry.source[0] != "dim":
        return False
    _, other, other_axis = entry.source
    if (other, other_axis) == (value, axis):
        return True
    mine, theirs = graph.shape(value), graph.shape(other)
    same = None if mine is None or theirs is None else (mine[axis], theirs[other_axis])
    return same is not None and isinstance(same[0], str) and same[0] == same[1]


def _replace(graph: Graph, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    graph.constants[name] = Constant(numpy_helper.from_array(array, name), name)
    graph.known[name] = [
        Entry(v, ("const", name, k)) for k, v in enumerate(array.reshape(-1).tolist())
    ]
