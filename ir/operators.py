"""Facts about ONNX operators: one record for each that has a weight, and where several feature maps meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from conet_graph.ir.einsum import EinsumLayer, axes_of


@dataclass(frozen=True)
class WeightedOperator:
    """One operator that can change the depth; slots are None for what it does not have.

    ``data``, ``weight`` and ``bias`` are input slots, ``data_zero`` and ``weight_zero`` those of zero points,
    ``per_output`` those of scales and zero points that may lie along the output's channels. ``plain`` is the
    operator of plain numbers that it computes, but for being quantised or having something fused to it. A
    ``transposed`` convolution keeps its weight as [in, out / group, ...], others as [out, in / group, ...].
    ``activated``: an activation is applied to what it computes.
    """

    plain: str
    data: int
    weight: int
    bias: int | None
    data_zero: int | None = None
    weight_zero: int | None = None
    per_output: tuple[int, ...] = ()
    transposed: bool = False
    activated: bool = False

    @property
    def of_two_axes(self) -> bool:
        """Whether it multiplies matrices alone, as Gemm does, and not stacks of them."""
        return self.plain == "Gemm"

    @property
    def is_quantised(self) -> bool:
        """Whether its weight is integers."""
        return self.weight_zero is not None


CONVOLUTIONS: dict[str, WeightedOperator] = {
    "Conv": WeightedOperator("Conv", 0, 1, 2),
    "FusedConv": WeightedOperator("Conv", 0, 1, 2, activated=True),
    "ConvTranspose": WeightedOperator("ConvTranspose", 0, 1, 2, transposed=True),
    "ConvInteger": WeightedOperator("Conv", 0, 1, None, data_zero=2, weight_zero=3, per_output=(3,)),
    "QLinearConv": WeightedOperator("Conv", 0, 3, 8, data_zero=2, weight_zero=5, per_output=(4, 5)),
    "DeformConv": WeightedOperator("DeformConv", 0, 1, 3),
}

PRODUCTS: dict[str, WeightedOperator] = {
    "Gemm": WeightedOperator("Gemm", 0, 1, 2),
    "FusedGemm": WeightedOperator("Gemm", 0, 1, 2, activated=True),
    "MatMul": WeightedOperator("MatMul", 0, 1, None),
    "FusedMatMul": WeightedOperator("MatMul", 0, 1, None),
    "MatMulInteger": WeightedOperator("MatMul", 0, 1, None, data_zero=2, weight_zero=3, per_output=(3,)),
    "QLinearMatMul": WeightedOperator("MatMul", 0, 3, None, data_zero=2, weight_zero=5, per_output=(4, 5)),
    "QGemm": WeightedOperator("Gemm", 0, 3, 6, data_zero=2, weight_zero=5, per_output=(4, 5)),
    "DynamicQuantizeMatMul": WeightedOperator("MatMul", 0, 1, 4, weight_zero=3, per_output=(2, 3)),
    "MatMulIntegerToFloat": WeightedOperator(
        "MatMul", 0, 1, 6, data_zero=4, weight_zero=5, per_output=(3, 5)
    ),
}

# Those of ONNX itself, of plain numbers.
PLAIN_PRODUCTS = frozenset(name for name, record in PRODUCTS.items() if record.plain == name)

RECURRENT: dict[str, WeightedOperator] = {
    "GRU": WeightedOperator("GRU", 0, 1, 3),
    "LSTM": WeightedOperator("LSTM", 0, 1, 3),
    "RNN": WeightedOperator("RNN", 0, 1, 3),
}

# Operators of private domains with these names mean what their standard namesakes do.
# An Einsum counts where it sums over channels of a map by a weight that makes others: see ``EinsumLayer``.
WEIGHTED = {
    **CONVOLUTIONS,
    **PRODUCTS,
    **RECURRENT,
    "Einsum": WeightedOperator("Einsum", 0, 1, None),
}
# What a norm's vectors and an activation's slopes are before training, by slot (PyTorch's defaults).
NEUTRAL: dict[str, dict[int, float]] = {
    "BatchNormalization": {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    "InstanceNormalization": {1: 1.0, 2: 0.0},
    "LayerNormalization": {1: 1.0, 2: 0.0},
    "GroupNormalization": {1: 1.0, 2: 0.0},
    "RMSNormalization": {1: 1.0},
    "SimplifiedLayerNormalization": {1: 1.0},
    "SkipLayerNormalization": {2: 1.0, 3: 0.0, 4: 0.0},
    "SkipSimplifiedLayerNormalization": {2: 1.0, 3: 0.0},
    "PRelu": {1: 0.25},
}

MICROSOFT = "com.microsoft"
KNOWN_DOMAINS = ("", MICROSOFT)

# Element-wise: one number in, one number out; further inputs are single numbers that say how.
CURVES = frozenset(
    (
        *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil"),
        *("Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not"),
        *("ParametricSoftplus", "Reciprocal", "Relu", "Round", "ScaledTanh", "Selu", "Shrink", "Sigmoid"),
        *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    )
)
# Element-wise with several inputs that are broadcast together.
BROADCASTING = frozenset(
    (
        *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
        *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow"),
        *("Sub", "Sum", "Where", "Xor"),
    )
)
# Element-wise operators of ONNX Runtime, with the slots of what they compute with (contrib operator docs).
PRIVATE_ELEMENTWISE: dict[str, tuple[int, ...]] = {
    "BiasAdd": (0, 1, 2),
    "BiasGelu": (0, 1),
    "FastGelu": (0, 1),
    "Gelu": (0,),
    "QLinearAdd": (0, 3),
    "QLinearLeakyRelu": (0,),
    "QLinearMul": (0, 3),
    "QLinearSigmoid": (0,),
    "QuickGelu": (0,),
    "Silu": (0,),
}
# Operators that combine feature maps position by position: a summation, in the paper's word.
SUMMATIONS = BROADCASTING | {
    *("QLinearAdd", "QLinearMul", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
}
CONCATENATIONS = frozenset({"Concat", "QLinearConcat"})
# Operators that tell no more of a value than its sizes.
TELLS_SIZES = frozenset({"Shape", "Size"})


class Node(Protocol):
    """The part of an operator that is asked here."""

    @property
    def op_type(self) -> str:
        """Its name in ONNX."""
        raise NotImplementedError

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        raise NotImplementedError


def is_turned(op: Node, slot: int) -> bool:
    """Whether a product reads the matrix at one of its two slots transposed."""
    record = PRODUCTS.get(op.op_type)
    if record is None:
        return False
    return bool(op.attr("transA" if slot == record.data else "transB", 0))


def product_factor(op: Node) -> float:
    """What a product is multiplied by: alpha of a Gemm and of its like."""
    return float(op.attr("alpha", 1.0)) if op.op_type in PRODUCTS else 1.0


def bias_factor(op: Node) -> float:
    """What a layer's bias is multiplied by: beta of a Gemm."""
    record = PRODUCTS.get(op.op_type)
    return float(op.attr("beta", 1.0)) if record is not None and record.of_two_axes else 1.0


def channel_axis(op: Node, rank: int) -> int:
    """The axis of a feature map of this rank that a convolution or a pooling takes for its channels.

    It is the second one; of some of ONNX Runtime's quantised operators the last (contrib operator docs).
    """
    kind = op.op_type
    last = kind == "NhwcMaxPool" or (kind.startswith("QLinear") and op.attr("channels_last", 0))
    return rank - 1 if last else 1


def summed_axis(op: Node, slot: int, rank: int) -> int:
    """The axis of a layer's operand, data or weight, that is summed over.

    Args:
        op: an operator with a record; of an Einsum see ``einsum_layer``.
        slot: where the operand stands; a product's weight may be its first input.
        rank: of the operand.

    """
    kind = op.op_type
    if kind in CONVOLUTIONS:
        if slot == CONVOLUTIONS[kind].weight:
            return 0 if CONVOLUTIONS[kind].transposed else 1
        return channel_axis(op, rank)
    if kind in RECURRENT:
        return 2
    if rank < 2:
        return 0
    left = slot == WEIGHTED[kind].data
    return rank - 1 if left != is_turned(op, slot) else rank - 2


def weight_axes(op: Node, slot: int, rank: int) -> tuple[int, int]:
    """The axes of a layer's weight: the one it sums over, and the one it makes.

    Args:
        op: an operator with a record; of an Einsum see ``einsum_layer``.
        slot: where the weight stands: a product's may be its first input.
        rank: of the weight.

    """
    inner = summed_axis(op, slot, rank)
    if op.op_type in CONVOLUTIONS:
        return inner, 1 - inner
    if op.op_type in RECURRENT:
        return inner, 1
    return inner, max(2 * rank - 3 - inner, 0)


def channels_of_weight(op: Node, slot: int, shape: Sequence[object]) -> tuple[int | None, int | None]:
    """How many channels a layer reads and makes by the shape of its weight; None where that leaves it open.

    Args:
        op: an operator with a record.
        slot: where the weight stands: a product's may be its first input.
        shape: of the weight; what is no number is not known.

    """
    layer = einsum_layer(op, slot)
    if layer is not None:
        if len(layer.weight) != len(shape):
            return None, None
        summed, made = (axes_of(c, layer.weight, len(shape)) for c in (layer.summed, layer.made))
        return _all(shape, summed), _all(shape, made)
    inner, outer = weight_axes(op, slot, len(shape))
    if max(inner, outer) >= len(shape):
        return None, None  # a weight of this rank is none
    if op.op_type in RECURRENT:
        return _number(shape[inner]), op.attr("hidden_size")
    if len(shape) == 1 and op.op_type not in CONVOLUTIONS:
        return _number(shape[0]), 1
    reads, makes = _number(shape[inner]), _number(shape[outer])
    record, groups = CONVOLUTIONS.get(op.op_type), int(op.attr("group", 1))
    if record is None or groups == 1:
        return reads, makes
    if record.transposed:
        return reads, None if makes is None else makes * groups
    return None if reads is None else reads * groups, makes


def einsum_layer(op: Node, slot: int) -> EinsumLayer | None:
    """What an Einsum whose weight stands at a slot does as a layer; None for what is no such layer."""
    return EinsumLayer.of(str(op.attr("equation", "")), slot) if op.op_type == "Einsum" else None


def _all(shape: Sequence[object], axes: Sequence[int]) -> int | None:
    """The lengths of some axes, multiplied; None where one is not known."""
    sizes = [_number(shape[axis]) for axis in axes]
    return None if None in sizes else math.prod(n for n in sizes if n is not None)


def _number(size: object) -> int | None:
    return size if isinstance(size, int) else None


def fan_in(op: Node, slot: int, shape: Sequence[int]) -> int:
    """How many products a layer adds up for each of its outputs, from the shape of its weight.

    A transposed convolution with a stride adds fewer at each position; as everywhere, its stride is not
    counted.
    """
    if op.op_type == "Einsum":
        return max(1, channels_of_weight(op, slot, shape)[0] or 1)
    inner, _ = weight_axes(op, slot, len(shape))
    if op.op_type not in CONVOLUTIONS:
        return max(1, shape[inner])
    groups = int(op.attr("group", 1)) if CONVOLUTIONS[op.op_type].transposed else 1
    return max(1, shape[inner] * math.prod(shape[2:]) // max(groups, 1))
