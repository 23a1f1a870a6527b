"""A network of two free widths, and a table in which its layers' times are known."""

from __future__ import annotations

import itertools

import numpy as np
from rewidth_case import graph_of

from conet_graph.costs.operator_widths import Widths
from conet_graph.ir.graph import Graph
from conet_graph.latency.prediction import shapes_of
from conet_graph.latency.table import Row, Table
from conet_graph.passes.tie_channels import CHANNELS
from tests.graphs import GraphBuilder


def chain() -> Graph:
    """3 -> 64 -> 96 -> 64 -> 10 channels, with a depthwise convolution on the 96 and a sum of the two 64."""
    b = GraphBuilder()
    first = b.conv(b.input("x", ["N", 3, 8, 8]), 64, 3, name="a")
    x = b.conv(b.conv(first, 96, name="b"), 96, 3, group=96, name="d")
    x = b.add(b.conv(x, 64, name="c"), first)
    b.output(b.conv(x, 10, name="last"))
    return graph_of(b.build())


def table_of(graph: Graph) -> Table:
    """Every weight takes a microsecond, every channel of a sum ten."""
    widths = Widths(graph)
    table = Table(between_ms=0.5)
    grid = [float(n) for n in (3, 8, 16, 24, 40, 64, 96)]
    for op, shape in zip(widths.operators, shapes_of(graph, widths.operators), strict=True):
        each = 1e-2 if op.op_type == "Add" else 1e-3
        ones = op.op_type == "Add" or "depthwise" in shape
        points = [(a, b, each * a * b) for a, b in itertools.product(grid, [1.0] if ones else grid)]
        table.rows[shape] = Row(shape, [], points)
    return table


def milliseconds(s: int, w: int) -> float:
    """Of the chain with s channels in the sum and w between."""
    return 0.5 + 1e-3 * (3 * s + s * w + w + w * s + s * 10) + 1e-2 * s


def counts_of(graph: Graph, s: int, w: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    wanted = {64: s, 96: w}
    sizes = [len(g.classes) for g in graph.result(CHANNELS).groups]
    free = [g.free for g in graph.result(CHANNELS).groups]
    return np.array([wanted[n] if f else n for n, f in zip(sizes, free, strict=True)], np.int64)
