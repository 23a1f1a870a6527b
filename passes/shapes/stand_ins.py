"""Standard operators that stand in for private ones during shape inference.

ONNX shape inference stops at operators of private domains; ONNX Runtime's quantisers and optimisers write
many of them. Each entry names standard operators with the same output shape; only shapes are read off.
"""

from __future__ import annotations

import onnx
from onnx import helper

from conet_graph.ir.graph import Operator
from conet_graph.ir.operators import (
    MICROSOFT,
    PRIVATE_ELEMENTWISE,
    WEIGHTED,
    WeightedOperator,
    channel_axis,
    is_turned,
)
from conet_graph.ir.schemas import EARLY, STILL_RUN

# Operators whose output has the shape of the inputs at these slots, broadcast together.
_SAME_SHAPE = {
    **PRIVATE_ELEMENTWISE,
    "QLinearSoftmax": (0,),
    "BiasSoftmax": (0,),
    "Quant": (0,),
    "BipolarQuant": (0,),
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    "SkipLayerNormalization": (0,),
    "SkipSimplifiedLayerNormalization": (0,),
}

# Standard operators that give out their first input's shape, and of which inference says nothing.
_UNKNOWN_TO_INFERENCE = frozenset(
    (
        *("Affine", "GroupNormalization", "ImageScaler", "MeanVarianceNormalization"),
        "SimplifiedLayerNormalization",
    )
)


def stand_in(op: Operator) -> list[onnx.NodeProto] | None:
    """Standard nodes with the output shape of a private operator; None when there are none."""
    if not op.domain:
        return _old_standard(op)
    ins, out = op.inputs, op.outputs[:1]
    slots = _SAME_SHAPE.get(op.op_type)
    if slots is not None:
        if len(slots) == 1:
            # The fourth output of a skip's norm is the sum.
            return [helper.make_node("Identity", [ins[slots[0]]], [o]) for o in (*out, *op.outputs[3:4]) if o]
        return [helper.make_node("Sum", [ins[s] for s in slots if op.input(s)], out)]
    record = WEIGHTED.get(op.op_type)
    if record is not None and op.domain == MICROSOFT:
        return _channels_second(op, _plain_layer(op, record))
    attention = _ATTENTION.get(op.op_type)
    if attention is not None and op.domain == MICROSOFT:
        return attention(op)
    if op.op_type == "QLinearConcat":
        data = [ins[k] for k in range(2, len(ins), 3)]
        return [helper.make_node("Concat", data, out, axis=op.attr("axis", 1))]
    pooling = _POOLINGS.get(op.op_type)
    return None if pooling is None else _channels_second(op, [_plain(op, pooling, ins[:1])])


def _channels_second(op: Operator, nodes: list[onnx.NodeProto] | None) -> list[onnx.NodeProto] | None:
    """A plain operator on feature maps, between transpositions where the private one has channels last."""
    kernel = op.attr("kernel_shape", [0, 0])  # a global pooling does not say how many axes there are
    rank = len(kernel) + 2
    if nodes is None or channel_axis(op, rank) == 1:
        return nodes
    (node,) = nodes
    before, after = f"{op.outputs[0]}/channels second/in", f"{op.outputs[0]}/channels second/out"
    last, second = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    turned = helper.make_node("Transpose", [node.input[0]], [before], perm=last)
    node.input[0], node.output[0] = before, after
    return [turned, node, helper.make_node("Transpose", [after], op.outputs[:1], perm=second)]


def _plain_layer(op: Operator, record: WeightedOperator) -> list[onnx.NodeProto] | None:
    """The plain operator of a quantised or fused layer, without its bias, which no shape depends on."""
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        return None
    if record.plain == "MatMul" and (is_turned(op, record.data) or is_turned(op, record.weight)):
        left = "...ji" if is_turned(op, record.data) else "...ij"
        right = "...kj" if is_turned(op, record.weight) else "...jk"
        operands = [op.input(record.data), op.input(record.weight)]
        return [helper.make_node("Einsum", operands, op.outputs[:1], equation=f"{left},{right}->...ik")]
    return [_plain(op, record.plain, [op.input(record.data), op.input(record.weight)])]


def _fused_attention(op: Operator) -> list[onnx.NodeProto]:
    """V's part of the projection: the last of three sizes, or a third."""
    out = op.outputs[0]
    product, first, second, third = (f"{out}/{part}" for part in ("product", "first", "second", "third"))
    nodes, sizes = [helper.make_node("MatMul", op.inputs[:2], [product])], op.attr("qkv_hidden_sizes")
    if sizes:
        nodes += [
            helper.make_node("Constant", [], [first], value_ints=[0]),
            helper.make_node("Constant", [], [second], value_ints=[int(sizes[-1])]),
            helper.make_node("Constant", [], [third], value_ints=[2]),
            helper.make_node("Slice", [product, first, second, third], [out]),
        ]
        return nodes
    return [
        *nodes,
        helper.make_node("Constant", [], [first], value_ints=[0, 0, 3, -1]),
        helper.make_node("Reshape", [product, first], [second]),
        helper.make_node("Constant", [], [third], value_int=0),
        helper.make_node("Gather", [second, third], [out], axis=2),
    ]


def _attention(op: Operator) -> list[onnx.NodeProto]:
    """[batch, queries, sizes of all of V's heads], of V alone, beside K or beside Q and K."""
    query, key, value = (op.input(slot) for slot in range(3))
    if value:
        return [helper.make_node("Einsum", [query, value], op.outputs[:1], equation="bqi,bko->bqo")]
    operands, equation = ([query, key], "bqi,bkhjo->bqho") if key else ([query], "bqhjo->bqho")
    apart, merged = f"{op.outputs[0]}/heads apart", f"{op.outputs[0]}/heads merged"
    return [
        helper.make_node("Einsum", operands, [apart], equation=equation),
        helper.make_node("Constant", [], [merged], value_ints=[0, 0, -1]),
        helper.make_node("Reshape", [apart, merged], op.outputs[:1]),
    ]


_ATTENTION = {"Attention": _fused_attention, "MultiHeadAttention": _attention}

_POOLINGS = {
    "NhwcMaxPool": "MaxPool",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
}

_KEPT_ATTRS = {
    "Conv": ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    "Gemm": ("alpha", "beta", "transA", "transB"),
    "AveragePool": (
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "kernel_shape",
        "pads",
        "strides",
    ),
    "MaxPool": ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"),
}


def _plain(op: Operator, op_type: str, inputs: list[str]) -> onnx.NodeProto:
    node = helper.make_node(op_type, inputs, op.outputs[:1])
    node.attribute.extend(a for a in op.proto.attribute if a.name in _KEPT_ATTRS.get(op_type, ()))
    return node


def _old_standard(op: Operator) -> list[onnx.NodeProto] | None:
    """Operators of the opset's past or future, which inference does not know at this one."""
    early = op.version < EARLY.get(op.op_type, 0)
    late = op.op_type in STILL_RUN and op.version < 21  # what the newest opset's form replaced
    if early or late or op.op_type in _UNKNOWN_TO_INFERENCE:
        return [helper.make_node("Identity", op.inputs[:1], op.outputs[:1])]
    if op.op_type == "Crop" and op.attr("scale") is None:
        border = op.attr("border", [0, 0, 0, 0])
        pads = [0, 0, -border[1], -border[0], 0, 0, -border[3], -border[2]]
        return [helper.make_node("Pad", op.inputs[:1], op.outputs[:1], pads=pads)]
    return None
