"""Layers with weights: the sizes and numbers that must agree, as far as the file states them."""

from __future__ import annotations

from functools import partial

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.facts import POOLS, Known, Sizes
from conet_graph.ir.graph import Operator
from conet_graph.ir.layer_sizes import check_sizes, shape_text
from conet_graph.ir.operators import CONVOLUTIONS
from conet_graph.ir.order import called


def check_layers(proto: onnx.ModelProto) -> None:
    """Check convolutions, matrix products and normalisations of the main graph.

    Raises:
        InvalidModel: naming the node and the weight.

    """
    known = Known(proto)
    for op in known.walk():
        check_sizes(op, partial(_sizes, known, op))
        if op.op_type in CONVOLUTIONS:
            weight = known.input(op, CONVOLUTIONS[op.op_type].weight).sizes
            _window(op, None if weight is None else weight[2:])
        elif op.op_type in POOLS:
            _window(op, None)
    for value in proto.graph.output:
        declared, found = value.type.tensor_type.elem_type, known.of(value.name).dtype
        if declared and found and declared != found:
            raise InvalidModel(f"Graph output {shown(value.name)} has another type than its declaration.")


def _sizes(known: Known, op: Operator, slot: int) -> Sizes | None:
    return known.input(op, slot).sizes


def _window(op: Operator, spatial: Sizes | None) -> None:
    """Check the sizes of a window against the space it moves over (None: what kernel_shape says)."""
    kernel = op.attr("kernel_shape")
    spatial = kernel if spatial is None else spatial
    for name in ("strides", "dilations", "kernel_shape"):
        if any(v < 1 for v in op.attr(name, [])):
            raise InvalidModel(f"Node {called(op.proto)} has {name} below 1.")
    if spatial is None:
        return
    if kernel is not None and (
        len(kernel) != len(spatial)
        or any(k != s for k, s in zip(kernel, spatial, strict=True) if s is not None)
    ):
        raise InvalidModel(
            f"Node {called(op.proto)} says kernel_shape {shape_text(kernel)}, but its weight has"
            f" {shape_text(spatial)}."
        )
    rank = len(spatial)
    for name, length in (("pads", 2 * rank), ("strides", rank), ("dilations", rank)):
        given = op.attr(name)
        if given and len(given) != length:
            raise InvalidModel(f"Node {called(op.proto)} has {len(given)} {name}, not {length}.")
