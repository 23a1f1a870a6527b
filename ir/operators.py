"""Facts about ONNX operators: which input is the weight, where several feature maps meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightedOperator:
    """Slots of the data input, the weight and the bias of an operator that can change the depth."""

    data: int
    weight: int
    bias: int | None


CONVOLUTIONS: dict[str, WeightedOperator] = {
    "Conv": WeightedOperator(0, 1, 2),
    "FusedConv": WeightedOperator(0, 1, 2),
    "ConvTranspose": WeightedOperator(0, 1, 2),
    "ConvInteger": WeightedOperator(0, 1, None),
    "QLinearConv": WeightedOperator(0, 3, 8),
    "DeformConv": WeightedOperator(0, 1, 3),
}

PRODUCTS: dict[str, WeightedOperator] = {
    "Gemm": WeightedOperator(0, 1, 2),
    "FusedGemm": WeightedOperator(0, 1, 2),
    "MatMul": WeightedOperator(0, 1, None),
    "FusedMatMul": WeightedOperator(0, 1, None),
    "MatMulInteger": WeightedOperator(0, 1, None),
    "QLinearMatMul": WeightedOperator(0, 3, None),
    "QGemm": WeightedOperator(0, 3, 6),
    "DynamicQuantizeMatMul": WeightedOperator(0, 1, 4),
    "MatMulIntegerToFloat": WeightedOperator(0, 1, 6),
}

RECURRENT: dict[str, WeightedOperator] = {
    "GRU": WeightedOperator(0, 1, 3),
    "LSTM": WeightedOperator(0, 1, 3),
    "RNN": WeightedOperator(0, 1, 3),
}

# Operators of private domains with these names mean what their standard namesakes do.
# An Einsum counts where it says what MatMul does: see ``is_matrix_product``.
WEIGHTED = {
    **CONVOLUTIONS,
    **PRODUCTS,
    **RECURRENT,
    "Einsum": WeightedOperator(0, 1, None),
}
MICROSOFT = "com.microsoft"
KNOWN_DOMAINS = ("", MICROSOFT)

# Operators that combine feature maps position by position: a summation, in the paper's word.
SUMMATIONS = frozenset(
    (
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
        *("Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "QLinearAdd", "QLinearMul"),
        *("SkipLayerNormalization", "Sub", "Sum", "Where", "Xor"),
    )
)
CONCATENATIONS = frozenset({"Concat", "QLinearConcat"})


def is_matrix_product(equation: str) -> bool:
    """Whether an Einsum of a map and a matrix is a MatMul, written otherwise.

    >>> is_matrix_product("btc,cd->btd"), is_matrix_product("btc,bsc->bts")
    (True, False)
    >>> is_matrix_product("...c,cd->...d")
    True
    """
    terms, arrow, result = equation.replace(" ", "").replace("...", ".").partition("->")
    data, _, weight = terms.partition(",")
    if not arrow or len(weight) != 2 or len(set(data)) != len(data) or not data:
        return False
    inner, out = weight[0], weight[1]
    return data[-1] == inner and out not in data and result == data[:-1] + out
