"""What operators compute from shapes and small constants, number by number.

A result is a list of entries in row-major order, each with the place it comes from, if any: a
number that stands in the file, or a dimension that only the run knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from conet_graph.ir.graph import Dim, Graph, Operator, ShapeNumber, literals
from conet_graph.passes.shapes.size_products import product, quotient

Entries = list[ShapeNumber]
LONGEST = 1024
# No feature map has more axes.
MOST_AXES = 8
INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)


def constant_entries(graph: Graph, name: str) -> Entries | None:
    """The numbers of a value if it is a small constant or a computed shape."""
    if name in graph.known:
        return graph.known[name]
    constant = graph.constants.get(name)
    if constant is None or constant.size > LONGEST or len(constant.dims) > 2:
        return None
    integer = constant.tensor.data_type in INTEGERS
    if not integer and not (constant.is_float and constant.size == 1):
        return None
    graph.known[name] = literals(name, graph.array(name))
    return graph.known[name]


def evaluate(graph: Graph, op: Operator) -> Entries | None:
    """The numbers that an operator computes from shapes and small constants, or None."""
    handler = _EVALUATORS.get(op.op_type) if not op.domain else None
    try:
        return None if handler is None else handler(graph, op)
    except (IndexError, ValueError, TypeError, ArithmeticError):
        return None  # its inputs and attributes contradict each other: nothing can be said of the result


def _shape(graph: Graph, op: Operator) -> Entries | None:
    shape = graph.shape(op.input(0))
    if shape is None:
        return None
    entries = [
        ShapeNumber(d if isinstance(d, int) else None, ("dim", op.input(0), k)) for k, d in enumerate(shape)
    ]
    return entries[op.attr("start", 0) : op.attr("end", len(entries))]


def _gather(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    where = constant_entries(graph, op.input(1))
    if data is None or where is None or not data or any(e.value is None for e in where):
        return None
    places, axis = _places(graph, op.input(0), len(data)), op.attr("axis", 0)
    positions = [int(e.value or 0) for e in where]
    if not all(-places.shape[axis] <= p < places.shape[axis] for p in positions):
        return None
    return [data[k] for k in np.take(places, positions, axis).reshape(-1).tolist()]


def _slice(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None:
        return None
    if len(op.inputs) == 1:
        starts, ends, steps = op.attr("starts", [0]), op.attr("ends", [LONGEST]), None
        axes = op.attr("axes")
    else:
        parts = [constant_entries(graph, op.input(k)) if op.input(k) else [] for k in (1, 2, 3, 4)]
        if any(p is None or any(e.value is None for e in p) for p in parts):
            return None
        starts, ends, axes, steps = ([int(e.value or 0) for e in p or []] for p in parts)
    places = _places(graph, op.input(0), len(data))
    cuts = [slice(None)] * places.ndim
    for k, start in enumerate(starts):
        step = steps[k] if steps else 1
        if step == 0:
            return None
        cuts[axes[k] if axes else k] = slice(start, ends[k], step)
    return [data[k] for k in places[tuple(cuts)].reshape(-1).tolist()]


def _places(graph: Graph, name: str, count: int) -> NDArray[np.int64]:
    """Where each entry of a value stands in it; a value of unknown shape is a vector."""
    shape, places = graph.shape(name), np.arange(count, dtype=np.int64)
    if shape is None or len(shape) < 2 or not all(isinstance(d, int) for d in shape):
        return places
    sizes = [d for d in shape if isinstance(d, int)]
    return places.reshape(sizes) if math.prod(sizes) == count else places


def _transpose(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None:
        return None
    places = _places(graph, op.input(0), len(data))
    order = op.attr("perm")
    if order is not None and len(order) != places.ndim:
        return None
    return [data[k] for k in places.transpose(order).reshape(-1).tolist()]


def _concat(graph: Graph, op: Operator) -> Entries | None:
    """The parts one behind the other; of scales also those of which only the length is known."""
    joined: Entries = []
    scales = _is_scales(graph, op)
    for name in op.inputs:
        part, shape = constant_entries(graph, name), graph.shape(name)
        if part is None and scales:
            part = _scales(graph, name)
        if part is None or (shape is not None and len(shape) > 1):
            return None
        joined += part
    return joined if len(joined) <= LONGEST else None


def scales_slot(op: Operator) -> int:
    """Where a Resize or Upsample has its scales (ONNX operator spec; before opset 11 there is no roi)."""
    return 1 if op.op_type == "Upsample" or len(op.inputs) == 2 else 2


def _is_scales(graph: Graph, op: Operator) -> bool:
    """Whether the result says how much axes of feature maps grow, and nothing else."""
    uses = graph.consumers.get(op.outputs[0], [])
    return bool(uses) and all(use.op_type in ("Resize", "Upsample") and slot in (1, 2) for use, slot in uses)


def _scales(graph: Graph, name: str) -> Entries | None:
    """Some numbers among scales: those of a constant, or of which only the run knows the value."""
    constant, shape = graph.constants.get(name), graph.shape(name)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > MOST_AXES:
        return None
    if constant is None:
        return [ShapeNumber(None)] * shape[0]
    return literals(name, graph.array(name)) if constant.is_float else None


def _equal(graph: Graph, op: Operator) -> Entries | None:
    """Equal, as exporters ask whether a size is -1: one that only the run knows is not."""
    parts = _aligned([constant_entries(graph, n) for n in op.inputs])
    if parts is None:
        return None
    out: Entries = []
    for pair in zip(*parts, strict=True):
        known = [e.value for e in pair if e.value is not None]
        if len(known) == 2:
            out.append(ShapeNumber(int(known[0] == known[1])))
        else:
            sizes = [e for e in pair if e.value is None and e.source and e.source[0] in ("dim", "size")]
            negative = len(known) == 1 and known[0] < 0
            out.append(ShapeNumber(0 if sizes and negative else None))
    return out


def _where(graph: Graph, op: Operator) -> Entries | None:
    parts = _aligned([constant_entries(graph, n) for n in op.inputs])
    if parts is None:
        return None
    chosen = zip(*parts, strict=True)
    return [ShapeNumber(None) if c.value is None else a if c.value else b for c, a, b in chosen]


def _aligned(parts: list[Entries | None]) -> list[Entries] | None:
    """Entries of several values, each as long as the longest; None where they do not fit."""
    found = [p for p in parts if p]
    length = max((len(p) for p in found), default=0)
    if len(found) != len(parts) or any(len(p) not in (1, length) for p in found):
        return None
    return [p * length if len(p) == 1 else p for p in found]


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
        return [e if e.value is None else ShapeNumber(int(e.value), e.source) for e in data]
    return [e if e.value is None else ShapeNumber(float(e.value), e.source) for e in data]


def _cast_like(graph: Graph, op: Operator) -> Entries | None:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return _through(graph, op) if graph.dtypes.get(op.outputs[0]) in floats else None


def _unary(function: Callable[[float], float]) -> Callable[[Graph, Operator], Entries | None]:
    def handler(graph: Graph, op: Operator) -> Entries | None:
        data = constant_entries(graph, op.input(0))
        if data is None:
            return None
        try:
            return [ShapeNumber(None if e.value is None else function(e.value)) for e in data]
        except (ValueError, OverflowError):
            return None

    return handler


def dim_of(graph: Graph, entry: ShapeNumber) -> Dim:
    """The size that an entry of a shape stands for."""
    if entry.value is not None:
        # A number of times that is no whole one, as some images are resized, makes no size.
        return int(entry.value) if entry.value >= 0 and float(entry.value).is_integer() else None
    if entry.source is None:
        return None
    kind, name, axis = entry.source
    if kind == "size":
        return name
    shape = graph.shape(name) if kind == "dim" else None
    return None if shape is None else shape[axis]


def _of_sizes(found: Dim, operands: Iterable[ShapeNumber]) -> ShapeNumber:
    """The entry of a result of arithmetic on sizes; 1 says that a number of the file takes part."""
    if isinstance(found, int):
        return ShapeNumber(found)
    literal = any(
        e.source is None or e.source[0] == "const" or (e.source[0] == "size" and e.source[2])
        for e in operands
    )
    return ShapeNumber(None, ("size", found, int(literal)) if found else None)


def _binary(
    function: Callable[[float, float], float],
    of_sizes: Callable[[Dim, Dim], Dim] = lambda a, b: None,
) -> Callable[[Graph, Operator], Entries | None]:
    def handler(graph: Graph, op: Operator) -> Entries | None:
        parts = _aligned([constant_entries(graph, n) for n in op.inputs])
        if parts is None or len(parts) != 2:
            return None
        out: Entries = []
        for a, b in zip(*parts, strict=True):
            if a.value is None or b.value is None:
                out.append(_of_sizes(of_sizes(dim_of(graph, a), dim_of(graph, b)), (a, b)))
                continue
            try:
                out.append(ShapeNumber(function(a.value, b.value)))
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
    return [ShapeNumber(int(numpy_helper.to_array(value).reshape(-1)[0]))] * count


def _clip(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    bounds = [op.attr("min", -math.inf), op.attr("max", math.inf)]
    for slot in (1, 2):
        if op.input(slot):
            entries = constant_entries(graph, op.input(slot))
            if entries is None or len(entries) != 1 or entries[0].value is None:
                return None
            bounds[slot - 1] = entries[0].value
    if data is None or any(e.value is None for e in data):
        return None
    return [ShapeNumber(min(max(e.value or 0, bounds[0]), bounds[1])) for e in data]


def _range(graph: Graph, op: Operator) -> Entries | None:
    parts = [constant_entries(graph, n) for n in op.inputs]
    if any(p is None or len(p) != 1 or not isinstance(p[0].value, int) for p in parts):
        return None
    start, stop, step = (int(p[0].value or 0) for p in parts if p)
    if step == 0 or len(range(start, stop, step)) > LONGEST:
        return None
    return [ShapeNumber(k) for k in range(start, stop, step)]


def _product(graph: Graph, op: Operator) -> Entries | None:
    data = constant_entries(graph, op.input(0))
    if data is None:
        return None
    if any(e.value is None for e in data):
        return [_of_sizes(product(dim_of(graph, e) for e in data), data)]
    return [ShapeNumber(math.prod(int(e.value or 0) for e in data))]


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
    "Mul": _binary(lambda a, b: a * b, lambda a, b: product((a, b))),
    "Div": _binary(_div, quotient),
    "Mod": _binary(lambda a, b: a % b),
    "Pow": _binary(lambda a, b: a**b),
    "Min": _binary(min),
    "Max": _binary(max),
    "Clip": _clip,
    "Equal": _equal,
    "Where": _where,
    "Transpose": _transpose,
    "ConstantOfShape": _filled,
    "Range": _range,
    "ReduceProd": _product,
}
