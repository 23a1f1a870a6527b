"""Sizes that must agree, checked on the inferred shapes: what the file's own checks cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from conet_graph.ir.check import MOST_AXES
from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.graph import FLOATS, Graph, Operator, Shape
from conet_graph.ir.layer_sizes import check_sizes
from conet_graph.ir.operators import CONVOLUTIONS


@dataclass(frozen=True)
class CheckShapes:
    """Refuse a network whose channel counts contradict each other.

    Such files exist that both onnx's full checker and ONNX Runtime's loader accept.
    """

    name: ClassVar[str] = "check_shapes"

    def run(self, graph: Graph) -> None:
        """Check every convolution, product and BatchNormalization whose shapes are known, and all ranks."""
        for name, shape in graph.shapes.items():
            if len(shape) > MOST_AXES:
                raise InvalidModel(f"Value {shown(name)} has {len(shape)} axes; {MOST_AXES} can be read.")
        for op in graph.operators:
            if op.domain:
                continue
            check_sizes(op, partial(_shape, graph, op))
            record = CONVOLUTIONS.get(op.op_type)
            if record is not None and not record.is_quantised:
                _same_type(graph, op, (record.data, record.weight))


def _shape(graph: Graph, op: Operator, slot: int) -> Shape | None:
    return graph.shape(op.input(slot))


def _same_type(graph: Graph, op: Operator, slots: tuple[int, ...]) -> None:
    kinds = set()
    for slot in slots:
        name = op.input(slot)
        constant = graph.constants.get(name)
        kinds.add(constant.tensor.data_type if constant is not None else graph.dtypes.get(name))
    if len(kinds) > 1 and kinds <= FLOATS:
        raise InvalidModel(f"Node {shown(op.name)} ({op.op_type}) mixes two float types.")
