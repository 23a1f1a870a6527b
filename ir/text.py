"""The graph as stable text: one operator a line, and no values of weights.

Golden tests and ``--print-after PASS`` read it; nothing parses it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

import onnx
from onnx import AttributeProto, TensorProto

from conet_graph.ir.graph import EDGE_KINDS, Constant, Graph, Operator, Result, Shape
from conet_graph.ir.operators import WEIGHTED

FORMAT = "conet-graph.ir/1"

# Integer constants up to this length are shown where they are used.
INLINE = 16

_PLAIN = re.compile(r"[\w./:\-]+", re.ASCII)
_SHORT = {
    "FLOAT": "f32",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "DOUBLE": "f64",
    **{f"INT{bits}": f"i{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"UINT{bits}": f"u{bits}" for bits in (2, 4, 8, 16, 32, 64)},
}


class AxisLabels(Protocol):
    """What the printer says about channels: ``AXIS_LABELS``, by who solved them."""

    def of(self, value: str, axis: int) -> str:
        """Say what stands behind the size of an axis; '' for nothing."""

    def lines(self) -> Iterable[str]:
        """Give lines for the end of the text."""


AXIS_LABELS: Result[AxisLabels] = Result("axis labels", "tie_channels")


def to_text(graph: Graph) -> str:
    """Print a graph, with what the passes so far have found out.

    That is ``edge_kinds`` (a comment for each operator, by its index) and ``labels``.
    """
    return "\n".join(_Printer(graph).lines()) + "\n"


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.labels = graph.result(AXIS_LABELS) if graph.has(AXIS_LABELS) else None
        self.kinds = graph.result(EDGE_KINDS) if graph.has(EDGE_KINDS) else {}
        self.inline = {n: t for n in graph.constants if (t := self._literal(n)) is not None}

    def lines(self) -> list[str]:
        """All lines, the format's name first."""
        graph = self.graph
        found = [FORMAT]
        found += [f"input {self._declared(name)}" for name in graph.inputs]
        shown = [name for name in graph.constants if name not in self.inline]
        found += [f"weight {self._declared(name)}" for name in shown]
        found += [self._operator(op) for op in graph.operators]
        found += [f"output {_name(name)}" for name in graph.outputs]
        if self.labels is not None:
            found += self.labels.lines()
        return found

    def _literal(self, name: str) -> str | None:
        """A small integer constant as a person would write it; None for one that gets a line."""
        constant = self.graph.constants[name]
        if name in self.graph.outputs or not _is_small_integer(constant):
            return None
        for op, slot in self.graph.consumers.get(name, []):
            known = WEIGHTED.get(op.op_type)
            if known is not None and slot in (known.weight, known.bias):
                return None
        values = self.graph.array(name)
        return str(int(values)) if values.ndim == 0 else _list(values.tolist())

    def _operator(self, op: Operator) -> str:
        outputs = ", ".join(self._declared(name) if name else "_" for name in op.outputs)
        inputs = ", ".join(self.inline.get(name, _name(name)) for name in op.inputs)
        op_type = f"{op.domain}::{op.op_type}" if op.domain else op.op_type
        attributes = ", ".join(
            f"{a.name}={_attribute(a)}" for a in sorted(op.proto.attribute, key=lambda a: a.name)
        )
        braces = f" {{{attributes}}}" if attributes else ""
        kind = self.kinds.get(op.index)
        comment = f"  # {kind}" if kind else ""
        return f"{outputs} = {op_type}({inputs}){braces}{comment}"

    def _declared(self, name: str) -> str:
        """A value with its type and shape, as far as they are known."""
        constant = self.graph.constants.get(name)
        dtype = self.graph.dtypes.get(name) if constant is None else constant.tensor.data_type
        shape = self.graph.shape(name)
        if not dtype and shape is None:
            return _name(name)
        dims = "..." if shape is None else self._dims(name, shape)
        return f"{_name(name)} {_dtype(dtype)}[{dims}]"

    def _dims(self, name: str, shape: Shape) -> str:
        sizes: list[str] = []
        for axis, dim in enumerate(shape):
            size = "?" if dim is None else str(dim) if isinstance(dim, int) else _name(dim)[1:]
            label = "" if self.labels is None else self.labels.of(name, axis)
            sizes.append(f"{size}:{label}" if label else size)
        return ",".join(sizes)


def _is_small_integer(constant: Constant) -> bool:
    tensor = constant.tensor
    return (
        tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
        and len(constant.dims) <= 1
        and constant.size <= INLINE
        and tensor.data_location != TensorProto.EXTERNAL
    )


def _name(name: str) -> str:
    """A value's name; quoted and escaped where it could be mistaken for something else."""
    if not name:
        return "_"
    return f"%{name}" if _PLAIN.fullmatch(name) else f"%{_quoted(name)}"


def _quoted(text: str) -> str:
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def _dtype(number: int | None) -> str:
    if not number or number not in TensorProto.DataType.values():
        return "?"
    name = TensorProto.DataType.Name(TensorProto.DataType.ValueType(number))
    return _SHORT.get(name) or str(name).lower()


def _list(values: Iterable[int]) -> str:
    return "[" + ", ".join(str(v) for v in values) + "]"


def _attribute(attribute: onnx.AttributeProto) -> str:
    """The value of an attribute; floats and tensors are shown by their type only."""
    match attribute.type:
        case AttributeProto.INT:
            return str(attribute.i)
        case AttributeProto.INTS:
            return _list(attribute.ints)
        case AttributeProto.STRING:
            return _quoted(attribute.s.decode("utf-8", "replace"))
        case AttributeProto.FLOAT:
            return "f32"
        case AttributeProto.FLOATS:
            return f"f32[{len(attribute.floats)}]"
        case AttributeProto.TENSOR:
            dims = ",".join(str(d) for d in attribute.t.dims)
            return f"{_dtype(attribute.t.data_type)}[{dims}]"
        case AttributeProto.GRAPH:
            ops = [node.op_type for node in attribute.g.node]
            return f"({'; '.join(ops)})"
    return str(AttributeProto.AttributeType.Name(attribute.type)).lower()
