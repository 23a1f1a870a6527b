"""The weights of a network's layers as the arrays that indicators measure, straight from the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.analysis.layers import layer_names, layers_of
from conet_graph.indicators import LayerIndicators, layer_indicators
from conet_graph.ir.einsum import axes_of
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS, RECURRENT, WEIGHTED, einsum_layer, weight_axes
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.shapes.constant_values import value_of


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights by the names of their layers.

    Attributes:
        arrays: the two channel axes first, then the kernel's; large ones may be mapped from the file.
        input_first: layers whose weights have the input channels first, then the output channels.

    """

    arrays: dict[str, NDArray[Any]]
    input_first: frozenset[str]


def weights_of_layers(graph: Graph) -> LayerWeights:
    """The weights of all layers of the main graph that change the depth.

    Left out: depthwise convolutions, which have no rank between channels; recurrent layers, whose
    weights stack several matrices; products with a vector; and weights that cannot be known, because
    they depend on the input, on chance or on an operator that is not evaluated here.

    Args:
        graph: a graph whose layers are classified.

    """
    arrays: dict[str, NDArray[Any]] = {}
    input_first: set[str] = set()
    names = layer_names(graph)
    for layer in layers_of(graph):
        if layer.kind != "conv" or layer.op.op_type in RECURRENT:
            continue
        array = _stored(graph, layer)
        if array is None or array.ndim < 2:
            continue
        name = names[layer.op.index]
        if layer.op.op_type in CONVOLUTIONS:
            arrays[name] = array
        elif layer.op.op_type == "Einsum":
            arrays[name] = _by_letters(layer, array)
        else:
            # [..., rows, columns]: what is batched counts as a kernel.
            arrays[name] = np.moveaxis(array, (-2, -1), (0, 1))
        if is_input_first(layer):
            input_first.add(name)
    return LayerWeights(arrays, frozenset(input_first))


def indicators_of_layers(graph: Graph) -> dict[str, LayerIndicators]:
    """Rank, condition and gain of each layer's weight, by the layer's name; see ``layer_indicators``."""
    found = weights_of_layers(graph)
    return layer_indicators(found.arrays, input_first=found.input_first)


def is_input_first(layer: Layer) -> bool:
    """Whether the weight that a layer's operator reads has its input channels before its outputs."""
    if layer.op.op_type == "Einsum":
        return True  # as ``_by_letters`` lays it
    inner, made = weight_axes(layer.op, layer.weight_slot, 2)
    return inner < made


def _by_letters(layer: Layer, array: NDArray[Any]) -> NDArray[Any]:
    """An Einsum's weight as [inputs, outputs, what goes through]."""
    written = einsum_layer(layer.op, layer.weight_slot)
    assert written is not None, "it is a layer"
    summed, made = (axes_of(c, written.weight, array.ndim) for c in (written.summed, written.made))
    others = [axis for axis in range(array.ndim) if axis not in (*summed, *made)]
    inputs, outputs = (math.prod(array.shape[axis] for axis in axes) for axes in (summed, made))
    return array.transpose(*summed, *made, *others).reshape(
        inputs, outputs, *(array.shape[k] for k in others)
    )


def _stored(graph: Graph, layer: Layer) -> NDArray[Any] | None:
    """A layer's weight in numbers that can be compared between its channels."""
    array = value_of(graph, layer.op.input(layer.weight_slot))
    record = WEIGHTED[layer.op.op_type]
    if array is None or record.weight_zero is None or array.ndim < 2:
        return array
    # A missing scale stands behind the operator and is one for the whole weight.
    scales = [slot for slot in record.per_output if slot != record.weight_zero]
    scale = _by_channel(graph, layer.op, scales[0], array.ndim) if scales else None
    zero = _by_channel(graph, layer.op, record.weight_zero, array.ndim)
    whole = array.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
    return whole if scale is None else whole * scale


def _by_channel(graph: Graph, op: Operator, slot: int, rank: int) -> NDArray[Any] | None:
    """A scale or zero point, shaped to broadcast with a weight; None where there is none to be known."""
    value = value_of(graph, op.input(slot)) if op.input(slot) else None
    if value is None or value.size == 1:
        return value
    shape = [1] * rank
    shape[weight_axes(op, WEIGHTED[op.op_type].weight, rank)[1]] = -1
    return value.reshape(shape)
