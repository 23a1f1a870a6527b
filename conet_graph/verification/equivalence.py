"""The network that a narrower one must equal: the original with the dropped channels masked.

Wherever an operator sums over channels by weights, a mask is put on its input. The reference is made from
the original file alone, so nothing that the rewrite does can hide in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.ir.graph import FLOATS, Graph, Operator
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.passes.tie_channels import CHANNELS

# Zero point of the data input, by operator, where the data are integers (ONNX operator specs).
_ZERO_POINT = {
    "QLinearConv": 2,
    "QLinearMatMul": 2,
    "ConvInteger": 2,
    "MatMulInteger": 2,
    "QGemm": 2,
}


def masked_reference(graph: Graph, copies: NDArray[np.int64]) -> onnx.ModelProto:
    """The original network with every dropped channel silenced where it would be summed over.

    Args:
        graph: the analysed original.
        copies: how often each class appears; classes with 0 are masked.

    """
    channels = graph.result(CHANNELS)
    units = channels.units
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    for name, constant in graph.constants.items():
        model.graph.initializer.add().CopyFrom(constant.tensor)
        model.graph.initializer[-1].name = name
    model.ir_version = max(model.ir_version, FIRST_FREE_IR)
    before: dict[int, list[onnx.NodeProto]] = {}
    for number, (op, slot, axis, _) in enumerate(units.contractions):
        ids = units.axis(op.input(slot), axis)
        if isinstance(ids, int):
            continue
        kept = copies[units.classes[ids]] > 0
        if kept.all():
            continue
        rank = units.rank(op.input(slot))
        masked = f"conet_graph_masked_{number}"
        shape = [1] * rank
        shape[axis % rank] = len(kept)
        nodes = _mask(graph, model, op, slot, kept.reshape(shape), masked)
        before.setdefault(op.index, []).extend(nodes)
        model.graph.node[op.index].input[slot] = masked
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for index, node in enumerate(nodes):
        model.graph.node.extend(before.get(index, []))
        model.graph.node.append(node)
    return model


def _mask(
    graph: Graph,
    model: onnx.ModelProto,
    op: Operator,
    slot: int,
    kept: NDArray[np.bool_],
    output: str,
) -> list[onnx.NodeProto]:
    """Nodes that put zero (or the zero point) where ``kept`` is false."""
    value = op.input(slot)
    dtype = graph.constants[value].tensor.data_type if value in graph.constants else graph.dtypes.get(value)
    zero_point = op.input(_ZERO_POINT.get(op.op_type, 99))
    if dtype is None or dtype in FLOATS:
        kind = helper.tensor_dtype_to_np_dtype(dtype or onnx.TensorProto.FLOAT)
        return _multiply(model, value, kept.astype(kind), output)
    if not zero_point:
        return _multiply(model, value, kept.astype(helper.tensor_dtype_to_np_dtype(dtype)), output)
    model.graph.initializer.append(numpy_helper.from_array(kept, output + "_mask"))
    return [helper.make_node("Where", [output + "_mask", value, zero_point], [output])]


def _multiply(model: onnx.ModelProto, value: str, mask: NDArray[Any], output: str) -> list[onnx.NodeProto]:
    model.graph.initializer.append(numpy_helper.from_array(mask, output + "_mask"))
    node = helper.make_node("Mul", [value, output + "_mask"], [output])
    if model.opset_import and max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 7:
        # Before opset 7 broadcasting had to be asked for, and took trailing axes only.
        node.attribute.append(helper.make_attribute("broadcast", 1))
    return [node]
