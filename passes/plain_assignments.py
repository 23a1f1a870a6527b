"""Slices that are assigned to, in plain form.

``x[:, :4] = f(x[:, :4])`` is written by exporters as a Scatter with a table of indices, one for each number.
It says what Slice and Concat say; then the table need not be made anew for each width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import keep_live
from conet_graph.ir.graph import Constant, Graph, Operator, Shape
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.index_tables import Places, places

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
        keep_live(graph, nodes)
    return changed


def _assignment(graph: Graph, op: Operator) -> list[onnx.NodeProto] | None:
    """Nodes that say the same as a Scatter; None where it is no assignment to a slice."""
    if op.domain or op.op_type not in ("ScatterND", "ScatterElements", "Scatter"):
        return None
    shape = graph.shape(op.input(0))
    if op.attr("reduction", "none") != "none" or shape is None or op.outputs[0] in graph.derived:
        return None
    unchanged = [helper.make_node("Identity", op.inputs[:1], op.outputs[:1], name=op.proto.name)]
    if 0 in (graph.shape(op.input(2)) or ()):
        return unchanged
    found = places(graph, op)
    if found is None or not _fits(found, shape):
        return None
    partial = _partial(found, shape)
    if any(len(at) == 0 for at in partial.values()):
        return unchanged
    updates = (
        op.input(2) if op.input(1) in graph.derived else _as_they_are(graph, op.input(2), shape, partial)
    )
    if not updates:
        return None
    if len(partial) == 0:
        return [helper.make_node("Identity", [updates], op.outputs[:1], name=op.proto.name)]
    writer = _Writer(graph, op.outputs[0], op.proto.name)
    writer.assign(op.input(0), updates, list(partial.items()), shape, op.outputs[0])
    return writer.nodes


def _fits(found: Places, shape: Shape) -> bool:
    """Whether the places along each axis are different ones, in its range, and the axis's length is known."""
    for axis, at in found.items():
        if axis >= len(shape):
            return False
        length = shape[axis]
        if at is None:
            continue
        if not isinstance(length, int) or len(distinct(at)) < len(at):
            return False
        if at.min(initial=0) < 0 or at.max(initial=0) >= length:
            return False
    return True


def _partial(found: Places, shape: Shape) -> dict[int, NDArray[np.int64]]:
    """The axes of which not all places are named, or not in order."""
    return {
        axis: at
        for axis, at in found.items()
        if at is not None and not np.array_equal(at, np.arange(int(shape[axis] or 0)))
    }


def _as_they_are(graph: Graph, updates: str, shape: Shape, partial: dict[int, NDArray[np.int64]]) -> str:
    """What is written, as it was before sizes read off the table shaped it; empty if its shape is another."""
    wanted = tuple(len(partial[k]) if k in partial else n for k, n in enumerate(shape))
    found = ""
    while updates and None not in wanted and graph.shape(updates) == wanted:
        found = updates
        op = graph.producers.get(updates)
        updates = op.input(0) if op is not None and op.op_type in ("Expand", "Reshape", "Identity") else ""
    return found


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
        shape: Shape,
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
