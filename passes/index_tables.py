"""The places that a Scatter's table of indices names, as one list for each axis.

The table is a constant, or is computed at run time: with a free batch, exporters write ``x[:, :4] = y`` as
``Range(0, Shape(x)[0])`` and the constant places of the other axes, each turned along an axis of its own,
expanded against each other and joined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.graph import Graph, Operator
from conet_graph.passes.shapes.constant_values import value_of

# The places along each axis that the table names, None for all of it; axes that it leaves out are whole.
Places = dict[int, NDArray[np.int64] | None]
# Where a column's list lies, when that is not known, or when it is a single place.
UNKNOWN, ANYWHERE = 0, 1
# What changes a list of places in its shape alone.
TURNING = frozenset({"Cast", "Expand", "Identity", "Reshape", "Unsqueeze"})


def places(graph: Graph, op: Operator) -> Places | None:
    """The places along each axis that a ScatterND, ScatterElements or Scatter writes to; None if no grid."""
    table = value_of(graph, op.input(1)) if op.input(1) in graph.derived else None
    if table is None:
        return _of_columns(graph, op) if op.op_type == "ScatterND" else None
    if op.op_type == "ScatterND":
        return _of_table(table)
    return _of_elements(table, op.attr("axis", 0))


def _of_table(table: NDArray[np.int64]) -> Places | None:
    """The places along each axis that a table of index tuples names as a grid, None where it is no grid."""
    depth = table.shape[-1] if table.ndim else 0
    if depth != table.ndim - 1 or table.size == 0:
        return None
    found: Places = {}
    for axis in range(depth):
        column = np.moveaxis(table[..., axis], axis, 0).reshape(table.shape[axis], -1)
        if (column != column[:, :1]).any():
            return None
        found[axis] = column[:, 0]
    return found


def _of_elements(table: NDArray[np.int64], axis: int) -> Places | None:
    """The places that indices along one axis name, if they are the same all along the others."""
    if table.size == 0 or not -table.ndim <= axis < table.ndim:
        return None
    axis %= table.ndim
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    if (rows != rows[:, :1]).any():
        return None
    found: Places = {k: np.arange(n) for k, n in enumerate(table.shape)}
    return {**found, axis: rows[:, 0]}


def _of_columns(graph: Graph, op: Operator) -> Places | None:
    """The places of a table that is joined from one column an axis, each made along that axis."""
    join = graph.producers.get(op.input(1))
    rank = len(graph.shape(op.input(1)) or ())
    if join is None or join.op_type != "Concat" or join.attr("axis", 0) not in (-1, rank - 1):
        return None
    depth = len(join.inputs)
    if depth != rank - 1:
        return None
    found: Places = {}
    for axis, name in enumerate(join.inputs):
        if graph.shape(name) is None or (graph.shape(name) or ())[-1] != 1:
            return None
        source, along = _source(graph, name)
        if along not in (axis - depth - 1, ANYWHERE):
            return None
        if _counts_all(graph, source, op.input(0), axis):
            found[axis] = None
            continue
        column = value_of(graph, source) if source in graph.derived else None
        if column is None or column.dtype.kind != "i":
            return None
        found[axis] = column.reshape(-1)
    return found


def _source(graph: Graph, name: str) -> tuple[str, int]:
    """The list of places behind a column, and the column's axis, from the end, along which it lies."""
    path: list[Operator] = []
    while name in graph.producers and graph.producers[name].op_type in TURNING:
        path.append(graph.producers[name])
        name = path[-1].input(0)
    shape = graph.shape(name)
    if shape is None:
        return name, UNKNOWN
    longer = [k - len(shape) for k, n in enumerate(shape) if n != 1]
    if len(longer) != 1:
        return name, UNKNOWN if longer else ANYWHERE
    along = longer[0]
    for op in reversed(path):
        along = _moved(graph, op, along)
    return name, along


def _moved(graph: Graph, op: Operator, along: int) -> int:
    """Where the one long axis of a list lies behind an operator that turns it."""
    if along == UNKNOWN or op.op_type in ("Cast", "Identity", "Expand"):
        return along
    before, after = graph.shape(op.input(0)), graph.shape(op.outputs[0])
    if before is None or after is None:
        return UNKNOWN
    if op.op_type == "Unsqueeze":
        axes = {int(a) % len(after) for a in op.attr("axes") or _numbers(graph, op.input(1))}
        kept = [k for k in range(len(after)) if k not in axes]
        return kept[along] - len(after)
    longer = [k for k, n in enumerate(after) if n != 1]
    return longer[0] - len(after) if len(longer) == 1 else UNKNOWN


def _numbers(graph: Graph, name: str) -> list[int]:
    return [int(n) for n in graph.array(name).reshape(-1)] if name in graph.constants else []


def _counts_all(graph: Graph, name: str, data: str, axis: int) -> bool:
    """Whether a value is 0, 1, ... up to the length of an axis."""
    op = graph.producers.get(name)
    shape = graph.shape(data)
    if op is None or op.op_type != "Range" or op.domain or shape is None or axis >= len(shape):
        return False
    start, step = value_of(graph, op.input(0)), value_of(graph, op.input(2))
    entries = graph.known.get(op.input(1))
    if start is None or step is None or (start.item(), step.item()) != (0, 1) or not entries:
        return False
    source = entries[0].source
    if source is None or source[0] != "dim":
        return False
    counted = graph.shape(source[1])
    same = counted is not None and counted[source[2]] is not None and counted[source[2]] == shape[axis]
    return same or source[1:] == (data, axis)
