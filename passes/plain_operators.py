"""Pairs and generalities that exporters write, as the one plain operator that says the same."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import keep_live
from conet_graph.ir.graph import Constant, Graph, Operator


def gather_rows(graph: Graph) -> bool:
    """Write a GatherND of whole rows as Gather; whether there was any.

    ``x[:, index]`` is exported as such, between two Transposes.
    """
    changed = False
    for op in graph.operators:
        index = graph.constants.get(op.input(1))
        if op.op_type != "GatherND" or op.domain or index is None or op.attr("batch_dims", 0):
            continue
        if len(index.dims) < 1 or index.dims[-1] != 1:
            continue
        name = graph.fresh_name(f"{op.input(1)}_rows")
        rows = numpy_helper.from_array(graph.array(op.input(1))[..., 0].astype(np.int64), name)
        graph.constants[name] = Constant(rows, name)
        node = helper.make_node("Gather", [op.input(0), name], op.outputs[:1], name=op.proto.name, axis=0)
        op.become(node)
        changed = True
    return _settled(graph, changed)


def pad_in_pools(graph: Graph) -> bool:
    """Let an AveragePool pad by itself what a Pad puts around pixels for it; whether there was any.

    A local response normalisation is exported as such: a window over channels, padded by zeros.
    """
    changed = False
    for op in graph.operators:
        pad = graph.producers.get(op.input(0))
        if op.op_type != "AveragePool" or op.domain or pad is None or pad.op_type != "Pad":
            continue
        around = _pixels_padded(graph, pad, op)
        if around is None:
            continue
        op.set_input(0, pad.input(0))
        op.set_attr("pads", around)
        op.set_attr("count_include_pad", 1)
        changed = True
    return _settled(graph, changed)


def _pixels_padded(graph: Graph, pad: Operator, pool: Operator) -> list[int] | None:
    """The zeros before and behind each pixel axis; None where a pool cannot pad so."""
    mode, auto = pad.attr("mode", "constant"), pool.attr("auto_pad", "NOTSET")
    if mode != "constant" or auto != "NOTSET" or any(pool.attr("pads", [])) or pool.attr("ceil_mode", 0):
        return None
    if pad.input(1) not in graph.constants or pad.input(3):
        return None
    if pad.input(2) and (pad.input(2) not in graph.constants or graph.array(pad.input(2)).any()):
        return None
    widths = [int(n) for n in graph.array(pad.input(1)).reshape(-1)]
    kernel = pool.attr("kernel_shape", [])
    rank = len(kernel) + 2
    if len(widths) != 2 * rank or any(widths[k] for k in (0, 1, rank, rank + 1)):
        return None
    around = widths[2:rank] + widths[rank + 2 :]
    return around if all(0 <= n < k for n, k in zip(around, [*kernel, *kernel], strict=True)) else None


def _settled(graph: Graph, changed: bool) -> bool:
    if changed:
        keep_live(graph, [op.proto for op in graph.operators])
    return changed
