"""The sizes of a layer that must agree, whoever knows them: the file's own words, or shape inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.operators import CONVOLUTIONS, PLAIN_PRODUCTS, PRODUCTS, channels_of_weight, is_turned
from conet_graph.ir.order import called

# Of an input slot, its shape: numbers where they are known; None where its rank is not.
ShapeOf = Callable[[int], Sequence[object] | None]
# Entries of a shape in a message.
MOST_SHOWN = 8


def check_sizes(op: Operator, shape_of: ShapeOf) -> None:
    """Check a convolution, a Gemm, a MatMul or a BatchNormalization; other operators are not looked at.

    Raises:
        InvalidModel: what the layer gets is not what its weight is made for; or the weight is none.

    """
    if op.op_type in CONVOLUTIONS:
        _convolution(op, shape_of)
    elif op.op_type in PLAIN_PRODUCTS:
        _product(op, shape_of)
    elif op.op_type == "BatchNormalization":
        _normalization(op, shape_of)


def _convolution(op: Operator, shape_of: ShapeOf) -> None:
    group, record = op.attr("group", 1), CONVOLUTIONS[op.op_type]
    if group < 1:
        raise InvalidModel(f"Node {called(op.proto)} has {group} groups.")
    weight = shape_of(record.weight)
    if weight is None:
        return
    name = op.input(record.weight)
    if len(weight) < 3 or 0 in weight:
        raise InvalidModel(
            f"The weight {shown(name)} of node {called(op.proto)} has the shape {shape_text(weight)},"
            " which no convolution has."
        )
    if isinstance(weight[0], int) and weight[0] % group:
        raise InvalidModel(f"Node {called(op.proto)}: {group} groups do not divide {weight[0]} channels.")
    reads, makes = channels_of_weight(op, record.weight, weight)
    _gets(op, shape_of(record.data), 1, reads, name)
    if record.bias is not None:
        _vector(op, record.bias, shape_of(record.bias), makes)


def _product(op: Operator, shape_of: ShapeOf) -> None:
    left, right, name = shape_of(0), shape_of(1), op.input(1)
    if right is not None and 0 in right:
        raise InvalidModel(f"The weight {shown(name)} of node {called(op.proto)} is empty.")
    if right is None or len(right) < 2:
        return
    reads, makes = channels_of_weight(op, 1, right)
    if not PRODUCTS[op.op_type].of_two_axes:
        _gets(op, left, -1, reads, name)
        return
    if len(right) != 2 or (left is not None and len(left) != 2):
        raise InvalidModel(f"Node {called(op.proto)} multiplies something that is no matrix.")
    _gets(op, left, 0 if is_turned(op, 0) else 1, reads, name)
    bias = shape_of(2)
    if bias is not None and tuple(bias) != (1,):
        _vector(op, 2, bias, makes)


def _normalization(op: Operator, shape_of: ShapeOf) -> None:
    x = shape_of(0)
    size = x[1] if x is not None and len(x) > 1 and isinstance(x[1], int) else None
    for slot in range(1, 5):
        vector = shape_of(slot)
        if vector is not None and len(vector) == 1 and isinstance(vector[0], int):
            size = vector[0] if size is None else size
            _vector(op, slot, vector, size)


def _vector(op: Operator, slot: int, shape: Sequence[object] | None, wanted: int | None) -> None:
    """Check that an input with one entry for each channel has that many."""
    if shape is None or wanted is None or len(shape) != 1 or shape[0] == wanted:
        return
    if isinstance(shape[0], int):
        raise InvalidModel(
            f"Node {called(op.proto)} has {wanted} channels, but {shown(op.input(slot))} has"
            f" {shape[0]} entries."
        )


def _gets(op: Operator, x: Sequence[object] | None, axis: int, reads: int | None, weight: str) -> None:
    """Check that a layer gets as many channels as its weight is made for."""
    if x is None or reads is None or len(x) <= max(axis, 0) or x[axis] == reads:
        return
    if isinstance(x[axis], int):
        raise InvalidModel(
            f"Node {called(op.proto)} gets {x[axis]} channels, but its weight {shown(weight)} is made for"
            f" {reads}."
        )


def shape_text(shape: Sequence[object]) -> str:
    """A shape in a message, shortened."""
    told = [str(size) if isinstance(size, int) else "?" for size in shape[:MOST_SHOWN]]
    return "[" + ", ".join([*told, "..."] if len(shape) > MOST_SHOWN else told) + "]"
