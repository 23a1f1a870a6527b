"""Slices that are assigned to, in plain form.

``x[:, :4] = f(x[:, :4])`` is written by exporters as a Scatter with a table of constant indices, one for each
number. It says what Slice and Concat say; then the table need not be made anew for each width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import drop_unused_constants, live_nodes
from conet_graph.ir.graph import Constant, Graph, Operator
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.shapes.constant_values import value_of

# Places along one axis; a table of indices names them for some axes, the others are whole.
Places = dict[int, NDArray[np.int64]]
# Slice has taken its numbers as inputs since this opset.
NUMBERS_AS_INPUTS = 10


def assign_slices(graph: Graph) -> bool:
    """Write Scatters that assign to one slice as Slice and Concat; whether there were any."""
    if graph.opset < NUMBERS_AS_INPUTS:
        return False
    nodes: list[onnx.NodeProto] = []
    changed = False
    for op in graph.operators:
        made = _assignment(graph, op)
        if made is None:
            nodes.append(op.proto)
            continue
        nodes += made
        changed = True
    if changed:
        graph.keep_nodes(live_nodes(nodes, set(graph.outputs)))
        drop_unused_constants(graph)
    return changed


def _assignment(graph: Graph, op: Operator) -> list[onnx.NodeProto] | None:
    """Nodes that say the same as a Scatter; None where it is no assignment to a slice."""
    if op.domain or op.op_type not in ("ScatterND", "ScatterElements", "Scatter"):
        return None
    if op.attr("reduction", "none") != "none" or op.input(1) not in graph.derived:
        return None
    shape = graph.shape(op.input(0))
    if shape is None or op.outputs[0] in graph.derived:
        return None
    table = value_of(graph, op.input(1))
    if table is None:
        return None
    places = _of_table(table) if op.op_type == "ScatterND" else _of_elements(table, op.attr("axis", 0))
    if places is None or not _fits(places, shape):
        return None
    partial = {k: at for k, at in places.items() if not np.array_equal(at, np.arange(int(shape[k] or 0)))}
    if len(partial) == 0:
        return [helper.make_node("Identity", [op.input(2)], op.outputs[:1], name=op.proto.name)]
    writer = _Writer(graph, op.outputs[0], op.proto.name)
    writer.assign(op.input(0), op.input(2), list(partial.items()), shape, op.outputs[0])
    return writer.nodes


def _of_table(table: NDArray[np.int64]) -> Places | None:
    """The places along each axis that a table of index tuples names as a grid, None where it is no grid."""
    depth = table.shape[-1] if table.ndim else 0
    if depth != table.ndim - 1 or table.size == 0:
        return None
    places: Places = {}
    for axis in range(depth):
        column = np.moveaxis(table[..., axis], axis, 0).reshape(table.shape[axis], -1)
        if (column != column[:, :1]).any():
            return None
        places[axis] = column[:, 0]
    return places


def _of_elements(table: NDArray[np.int64], axis: int) -> Places | None:
    """The places that indices along one axis name, if they are the same all along the others."""
    if table.size == 0 or not -table.ndim <= axis < table.ndim:
        return None
    axis %= table.ndim
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    if (rows != rows[:, :1]).any():
        return None
    places = {k: np.arange(n) for k, n in enumerate(table.shape)}
    return {**places, axis: rows[:, 0]}


def _fits(places: Places, shape: tuple[object, ...]) -> bool:
    """Whether the places along each axis are different ones, in its range, and the axis's length is known."""
    for axis, at in places.items():
        length = shape[axis] if axis < len(shape) else None
        if not isinstance(length, int) or len(distinct(at)) < len(at):
            return False
        if at.min() < 0 or at.max() >= length:
            return False
    return True


@dataclass
class _Writer:
    """Writes the nodes of one assignment; their names begin with the Scatter's output."""

    graph: Graph
    base: str
    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def assign(
        self,
        data: str,
        updates: str,
        partial: list[tuple[int, NDArray[np.int64]]],
        shape: tuple[object, ...],
        output: str,
    ) -> None:
        """Nodes that put ``updates`` at the places of ``data``, one axis inside the other."""
        (axis, at), rest = partial[0], partial[1:]
        if rest:
            inner = self._gather(data, at, axis)
            assigned = self._fresh("part")
            self.assign(inner, updates, rest, shape, assigned)
            updates = assigned
        length = shape[axis]
        assert isinstance(length, int)
        if (np.diff(at) == 1).all():
            parts = [(0, int(at[0])), (int(at[-1]) + 1, length)]
            before, after = (self._slice(data, a, b, axis) if a < b else "" for a, b in parts)
            self._node("Concat", [p for p in (before, updates, after) if p], output, axis=axis)
            return
        whole = self._fresh("both")
        self._node("Concat", [data, updates], whole, axis=axis)
        order = np.arange(length)
        order[at] = length + np.arange(len(at))
        self._node("Gather", [whole, self._numbers(order)], output, axis=axis)

    def _gather(self, data: str, at: NDArray[np.int64], axis: int) -> str:
        if (np.diff(at) == 1).all():
            return self._slice(data, int(at[0]), int(at[-1]) + 1, axis)
        output = self._fresh("picked")
        self._node("Gather", [data, self._numbers(at)], output, axis=axis)
        return output

    def _slice(self, data: str, start: int, end: int, axis: int) -> str:
        output = self._fresh("kept")
        numbers = [self._numbers(np.array([n])) for n in (start, end, axis)]
        self._node("Slice", [data, *numbers], output)
        return output

    def _node(self, kind: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        name = f"{self.name}/{kind}_{len(self.nodes)}" if self.name else ""
        node = helper.make_node(kind, inputs, [output], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def _numbers(self, numbers: NDArray[np.int64]) -> str:
        name = self._fresh("numbers")
        tensor = numpy_helper.from_array(numbers.astype(np.int64), name)
        self.graph.constants[name] = Constant(tensor, name)
        return name

    def _fresh(self, what: str) -> str:
        name = base = f"{self.base}_{what}"
        number = 2
        while name in self.taken or name in self.graph.constants or name in self.graph.producers:
            name, number = f"{base}__{number}", number + 1
        self.taken.add(name)
        return name
