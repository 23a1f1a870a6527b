"""What copies of channels are to operators that look across channels without weights of their own."""

from __future__ import annotations

from conet_graph.ir.operators import PRODUCTS

# Operators that copies of their channels change beyond repair: they sum, multiply or choose among them.
COUNTING = frozenset(
    (
        *("Softmax", "LogSoftmax", "Hardmax", "QLinearSoftmax", "LpNormalization", "CumSum", "CumProd"),
        *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd"),
    )
)
# Operators that give the same where every channel has as many copies as every other.
AVERAGING = frozenset(
    (
        *("InstanceNormalization", "LayerNormalization", "RMSNormalization", "SkipLayerNormalization"),
        *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "GroupNormalization"),
        "MeanVarianceNormalization",
        *("ReduceMean", "ReduceMax", "ReduceMin"),
    )
)

# Operators that sum over channels.
SUMS = {name for name, record in PRODUCTS.items() if not record.is_quantised} | {"Einsum", "ReduceSum"}
# Names' beginnings and ends of others that treat all channels alike, wherever their copies lie.
ALIKE = ("Reduce", "Global", "Dynamic"), ("Normalization", "Softmax")


def in_any_order(op_type: str) -> bool:
    """Whether equal copies of a channel come out equal, wherever among the channels they lie.

    >>> in_any_order("LayerNormalization"), in_any_order("LRN")
    (True, False)
    """
    begins, ends = ALIKE
    return op_type in SUMS or op_type.startswith(begins) or op_type.endswith(ends)
