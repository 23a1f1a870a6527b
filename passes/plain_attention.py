"""ONNX Runtime's Attention, with its projection inside, as MatMul, Add, Split and MultiHeadAttention.

So the projection is a layer like any other. ONNX Runtime has the same kernels for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.graph import Constant, Graph, Operator
from conet_graph.ir.operators import MICROSOFT

# Attributes that mean the same to both operators.
SHARED = ("mask_filter_value", "num_heads", "scale", "unidirectional")
# From this opset on sizes of a Split are an input.
SIZES_AS_INPUT = 13


def take_attention_apart(graph: Graph) -> bool:
    """Write each Attention whose mask and sizes are understood in four operators; whether there was any."""
    apart: dict[int, list[onnx.NodeProto]] = {}
    for op in graph.operators:
        if (op.domain, op.op_type) == (MICROSOFT, "Attention"):
            sizes = _sizes(graph, op)
            if sizes is not None and _is_plain(op) and _mask_is_shared(graph, op):
                apart[op.index] = _written(graph, op, sizes)
    if not apart:
        return False
    graph.keep_nodes([node for op in graph.operators for node in apart.get(op.index, [op.proto])])
    return True


def _is_plain(op: Operator) -> bool:
    """Whether it keeps nothing between runs, and turns no heads."""
    kept = op.input(4) or op.input(6) or any(op.outputs[1:])
    return not (kept or op.attr("do_rotary", 0) or op.attr("past_present_share_buffer", 0))


def _sizes(graph: Graph, op: Operator) -> Sequence[int] | None:
    """How many of the projection's columns make Q, K and V; None where they contradict the weight."""
    weight, given = graph.shape(op.input(1)), op.attr("qkv_hidden_sizes")
    columns = weight[1] if weight is not None and len(weight) == 2 else None
    if not isinstance(columns, int):
        return None
    sizes = [int(n) for n in given] if given else [columns // 3] * 3
    return sizes if len(sizes) == 3 and min(sizes) > 0 and sum(sizes) == columns else None


def _mask_is_shared(graph: Graph, op: Operator) -> bool:
    """Whether MultiHeadAttention takes the mask: [batch], [batch, keys] or [batch, queries, keys]."""
    if not op.input(3):
        return True
    mask, data = graph.shape(op.input(3)), graph.shape(op.input(0))
    if mask is None or data is None or len(data) != 3:
        return False
    if len(mask) == 1:  # as long as twice the batch it would hold ends and starts
        return mask[0] is not None and mask[0] == data[0]
    # A single key would stand for all of them.
    return len(mask) == 3 or (len(mask) == 2 and (mask[1] != 1 or data[1] == 1))


def _written(graph: Graph, op: Operator, sizes: Sequence[int]) -> list[onnx.NodeProto]:
    product, projected, *parts = (graph.fresh_name(f"{op.outputs[0]}_{part}") for part in _PARTS)
    # The layer keeps the name.
    nodes = [helper.make_node("MatMul", op.inputs[:2], [product], name=op.name)]
    if op.input(2):
        nodes.append(helper.make_node("Add", [product, op.input(2)], [projected]))
    split = helper.make_node("Split", [projected if op.input(2) else product], parts, axis=2)
    if graph.opset < SIZES_AS_INPUT:
        split.attribute.append(helper.make_attribute("split", sizes))
    else:
        vector = graph.fresh_name(f"{op.outputs[0]}_sizes")
        graph.constants[vector] = Constant(numpy_helper.from_array(np.array(sizes, np.int64), vector), vector)
        split.input.append(vector)
    inputs = [*parts, "", op.input(3), op.input(5)]
    while not inputs[-1]:
        inputs.pop()
    name = f"{op.name}_heads"
    attended = helper.make_node("MultiHeadAttention", inputs, op.outputs[:1], name=name, domain=MICROSOFT)
    attended.attribute.extend(a for a in op.proto.attribute if a.name in SHARED)
    return [*nodes, split, attended]


_PARTS = ("product", "projected", "queries", "keys", "values")
