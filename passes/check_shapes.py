"""Sizes that must agree, checked on the inferred shapes: what the file's own checks cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.graph import FLOATS, Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS


@dataclass(frozen=True)
class CheckShapes:
    """Refuse a network whose channel counts contradict each other.

    Such files exist that both onnx's full checker and ONNX Runtime's loader accept.
    """

    name: ClassVar[str] = "check_shapes"

    def run(self, graph: Graph) -> None:
        """Check every convolution, Gemm and BatchNormalization whose shapes are known."""
        for op in graph.operators:
            if op.domain:
                continue
            if op.op_type in CONVOLUTIONS:
                _convolution(graph, op)
            elif op.op_type == "Gemm":
                _gemm(graph, op)
            elif op.op_type == "BatchNormalization":
                _normalization(graph, op)


def _convolution(graph: Graph, op: Operator) -> None:
    facts = CONVOLUTIONS[op.op_type]
    x, w = graph.shape(op.input(facts.data)), graph.shape(op.input(facts.weight))
    group = op.attr("group", 1)
    if x is None or w is None or len(x) < 3 or len(w) < 3:
        return
    per_group = w[0] if op.op_type == "ConvTranspose" else w[1]
    needed = per_group if op.op_type == "ConvTranspose" else _times(per_group, group)
    if isinstance(x[1], int) and isinstance(needed, int) and x[1] != needed:
        raise InvalidModel(
            f"Node {shown(op.name)} ({op.op_type}) gets {x[1]} channels, but its weight"
            f" {shown(op.input(facts.weight))} is made for {needed}."
        )
    if op.op_type in ("Conv", "ConvTranspose"):
        _same_type(graph, op, (0, 1))


def _same_type(graph: Graph, op: Operator, slots: tuple[int, ...]) -> None:
    kinds = set()
    for slot in slots:
        name = op.input(slot)
        constant = graph.constants.get(name)
        kinds.add(constant.tensor.data_type if constant is not None else graph.dtypes.get(name))
    if len(kinds) > 1 and kinds <= FLOATS:
        raise InvalidModel(f"Node {shown(op.name)} ({op.op_type}) mixes two float types.")


def _times(size: object, group: int) -> int | None:
    return size * group if isinstance(size, int) else None


def _gemm(graph: Graph, op: Operator) -> None:
    a, b = graph.shape(op.input(0)), graph.shape(op.input(1))
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return
    left = a[0] if op.attr("transA", 0) else a[1]
    right = b[1] if op.attr("transB", 0) else b[0]
    if isinstance(left, int) and isinstance(right, int) and left != right:
        raise InvalidModel(
            f"Node {shown(op.name)} (Gemm) gets {left} features, but its weight"
            f" {shown(op.input(1))} is made for {right}."
        )


def _normalization(graph: Graph, op: Operator) -> None:
    x = graph.shape(op.input(0))
    if x is None or len(x) < 2 or not isinstance(x[1], int):
        return
    for slot in range(1, 5):
        vector = graph.shape(op.input(slot)) if op.input(slot) else None
        if vector is not None and len(vector) == 1 and isinstance(vector[0], int) and vector[0] != x[1]:
            raise InvalidModel(
                f"Node {shown(op.name)} (BatchNormalization) gets {x[1]} channels, but"
                f" {shown(op.input(slot))} has {vector[0]} entries."
            )
