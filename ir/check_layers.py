"""Layers with weights: the sizes and numbers that must agree, as far as the file states them."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.facts import POOLS, Known, Sizes
from conet_graph.ir.operators import CONVOLUTIONS
from conet_graph.ir.order import called

# Entries of a shape in a message.
MOST_SHOWN = 8


def check_layers(proto: onnx.ModelProto) -> None:
    """Check convolutions, matrix products and normalisations of the main graph.

    Raises:
        InvalidModel: naming the node and the weight.

    """
    known = Known(proto)
    for node in known.walk():
        if node.op_type in CONVOLUTIONS:
            _convolution(node, known)
        elif node.op_type in ("Gemm", "MatMul"):
            _product(node, known)
        elif node.op_type == "BatchNormalization":
            _normalization(node, known)
        elif node.op_type in POOLS:
            _window(node, _numbers(node), None)
    for value in proto.graph.output:
        declared, found = value.type.tensor_type.elem_type, known.of(value.name).dtype
        if declared and found and declared != found:
            raise InvalidModel(f"Graph output {shown(value.name)} has another type than its declaration.")


def _numbers(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _convolution(node: onnx.NodeProto, known: Known) -> None:
    attributes = _numbers(node)
    group = attributes.get("group", 1)
    if group < 1:
        raise InvalidModel(f"Node {called(node)} has {group} groups.")
    facts = CONVOLUTIONS[node.op_type]
    sizes = known.input(node, facts.weight).sizes
    if sizes is None:
        _window(node, attributes, None)
        return
    name = node.input[facts.weight]
    if len(sizes) < 3 or 0 in sizes:
        raise InvalidModel(
            f"The weight {shown(name)} of node {called(node)} has the shape {_shape(sizes)},"
            " which no convolution has."
        )
    _window(node, attributes, sizes[2:])
    if sizes[0] is not None and sizes[0] % group:
        raise InvalidModel(f"Node {called(node)}: {group} groups do not divide {sizes[0]} channels.")
    turned = node.op_type == "ConvTranspose"
    outer, inner = sizes[0], None if sizes[1] is None else sizes[1] * group
    fed, made = (outer, inner) if turned else (inner, outer)
    _fed(node, known.input(node, facts.data).sizes, 1, fed, name)
    if facts.bias is not None:
        _vector(node, known, facts.bias, made)


def _window(node: onnx.NodeProto, attributes: dict[str, Any], spatial: Sizes | None) -> None:
    """Check the sizes of a window against the space it moves over (None: what kernel_shape says)."""
    kernel = attributes.get("kernel_shape")
    spatial = kernel if spatial is None else spatial
    for name in ("strides", "dilations", "kernel_shape"):
        if any(v < 1 for v in attributes.get(name, [])):
            raise InvalidModel(f"Node {called(node)} has {name} below 1.")
    if spatial is None:
        return
    if kernel is not None and (
        len(kernel) != len(spatial)
        or any(k != s for k, s in zip(kernel, spatial, strict=True) if s is not None)
    ):
        raise InvalidModel(
            f"Node {called(node)} says kernel_shape {_shape(kernel)}, but its weight has {_shape(spatial)}."
        )
    rank = len(spatial)
    for name, length in (("pads", 2 * rank), ("strides", rank), ("dilations", rank)):
        if attributes.get(name) and len(attributes[name]) != length:
            raise InvalidModel(f"Node {called(node)} has {len(attributes[name])} {name}, not {length}.")


def _product(node: onnx.NodeProto, known: Known) -> None:
    a, b = known.input(node, 0).sizes, known.input(node, 1).sizes
    if b is not None and 0 in b:
        raise InvalidModel(f"The weight {shown(node.input[1])} of node {called(node)} is empty.")
    attributes = _numbers(node)
    if b is None or len(b) < 2:
        return
    if node.op_type == "MatMul":
        _fed(node, a, -1, b[-2], node.input[1])
        return
    if len(b) != 2 or (a is not None and len(a) != 2):
        raise InvalidModel(f"Node {called(node)} multiplies something that is no matrix.")
    inner, made = b[::-1] if attributes.get("transB", 0) else b
    _fed(node, a, 0 if attributes.get("transA", 0) else 1, inner, node.input[1])
    bias = known.input(node, 2).sizes
    if bias is not None and len(bias) == 1 and bias[0] != 1:
        _vector(node, known, 2, made)


def _normalization(node: onnx.NodeProto, known: Known) -> None:
    x = known.input(node, 0).sizes
    size = x[1] if x is not None and len(x) > 1 else None
    for slot in range(1, 5):
        vector = known.input(node, slot).sizes
        if vector is not None and len(vector) == 1 and vector[0] is not None:
            size = vector[0] if size is None else size
            _vector(node, known, slot, size)


def _vector(node: onnx.NodeProto, known: Known, slot: int, wanted: int | None) -> None:
    """Check that an input with one entry for each channel has that many."""
    sizes = known.input(node, slot).sizes
    if sizes is None or wanted is None or len(sizes) != 1 or sizes[0] in (None, wanted):
        return
    raise InvalidModel(
        f"Node {called(node)} has {wanted} channels, but {shown(node.input[slot])} has {sizes[0]} entries."
    )


def _fed(node: onnx.NodeProto, x: Sizes | None, axis: int, wanted: int | None, weight: str) -> None:
    """Check that a layer gets as many channels as its weight is made for."""
    if x is None or wanted is None or len(x) <= max(axis, 0) or x[axis] in (None, wanted):
        return
    raise InvalidModel(
        f"Node {called(node)} gets {x[axis]} channels, but its weight {shown(weight)} is made for {wanted}."
    )


def _shape(sizes: Any) -> str:
    told = ["?" if size is None else str(size) for size in sizes[:MOST_SHOWN]]
    return "[" + ", ".join([*told, "..."] if len(sizes) > MOST_SHOWN else told) + "]"
