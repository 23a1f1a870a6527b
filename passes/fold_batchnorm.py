"""Batch normalisation becomes part of the layer before it: the form in which networks are deployed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Constant, Operator, set_attribute
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.operators import CONVOLUTIONS, WEIGHTED, bias_factor, channels_of_weight, weight_axes
from conet_graph.passes.edits.file_edit import EditedNode, FileEdit

Float64s = NDArray[np.float64]
# What the fold may write: other types are quantised, or too coarse to take a factor.
PLAIN_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16})
# Before, BatchNormalization had other attributes, and averages of its own (ONNX spec, version 7).
FIRST_OPSET = 7


def fold_batchnorm(model: LoadedModel) -> LoadedModel:
    """Fold each BatchNormalization into the weights and bias of the layer before it.

    y = scale (W x + b - mean) / sqrt(var + epsilon) + bias is a layer with the weights W f and the bias
    (b - mean) f + bias, where f = scale / sqrt(var + epsilon); computed in float64, rounded once. Conv,
    ConvTranspose and Gemm take it, where nothing but the normalisation reads their output. A layer
    without a bias gets one only where it is not zero.

    Left as they are: normalisations in training form or with statistics for each position; weights that
    are computed or quantised, or that another operator reads too (a tie would break); sub-graphs; and
    whatever would not be finite. A weight in a Constant node or behind an Identity becomes an
    initializer of the same name.

    Args:
        model: the model; left as it is.

    Raises:
        InvalidModel: the model breaks an invariant.
        Refused: its operator set is older than 7.

    """
    edit = FileEdit(model)
    require_opset(edit)
    for node in edit.nodes:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        norm = edit.made(node.output[0])
        layer = edit.made(node.input[0])
        if norm is not None and layer is not None and edit.reads[node.input[0]] == 1:
            _fold(edit, layer, norm)
    return edit.finished()


def require_opset(edit: FileEdit) -> None:
    """Refuse a model whose BatchNormalization would have another meaning.

    Raises:
        Refused: the model's operator set is older than 7.

    """
    if edit.graph.opset < FIRST_OPSET:
        raise Refused(
            f"The model has opset {edit.graph.opset}, and BatchNormalization means something else before"
            f" {FIRST_OPSET}: convert it to a newer opset first (onnx.version_converter)."
        )


def _fold(edit: FileEdit, layer: EditedNode, norm: EditedNode) -> None:
    affine = _factor_and_shift(edit, norm)
    if affine is None or not _is_layer(layer.op, edit):
        return
    weight = edit.constant(layer, 1)
    if weight is None or not _is_own(edit, layer, weight):
        return
    factor, shift = affine
    bias = _bias(edit, layer, len(factor))
    scaled = _scaled(layer.op, edit.array(layer, 1), factor)
    if scaled is None or bias is None:
        return
    shift = bias * factor + shift
    dtype = scaled.dtype
    with np.errstate(over="ignore"):
        new_bias = shift.astype(dtype)
    if not (np.isfinite(scaled).all() and np.isfinite(new_bias).all()):
        return
    edit.set_weight(layer.node.input[1], scaled)
    if layer.op.input(2) or new_bias.any():
        _set_bias(edit, layer, norm, new_bias)
    edit.rename_output(layer, norm.node.output[0])
    edit.remove(norm)


def _is_layer(op: Operator, edit: FileEdit) -> bool:
    record = WEIGHTED.get(op.op_type)
    # Plain, and with its weight and bias where a Conv and a Gemm have them.
    usual = record is not None and record.plain == op.op_type and (record.weight, record.bias) == (1, 2)
    return usual and not op.domain and op.input(0) not in edit.graph.constants


def _is_own(edit: FileEdit, layer: EditedNode, weight: Constant) -> bool:
    """Whether a weight is a plain one, and nobody else's."""
    return weight.tensor.data_type in PLAIN_FLOATS and edit.reads[layer.node.input[1]] == 1


def _factor_and_shift(edit: FileEdit, norm: EditedNode) -> tuple[Float64s, Float64s] | None:
    """A normalisation as y = factor x + shift; None where it is not one, or its numbers are not fixed."""
    op = norm.op
    if any(norm.node.output[1:]) or op.attr("training_mode", 0) or not op.attr("spatial", 1):
        return None
    parts = []
    for slot in range(1, 5):
        constant = edit.constant(norm, slot)
        if constant is None or not constant.is_float or len(constant.dims) != 1:
            return None
        parts.append(np.asarray(edit.array(norm, slot), np.float64))
    scale, bias, mean, variance = parts
    if not len(scale) == len(bias) == len(mean) == len(variance):
        return None
    spread = variance + float(op.attr("epsilon", 1e-5))
    if not (np.isfinite(parts).all() and (spread > 0).all()):
        return None
    factor = scale / np.sqrt(spread)
    return factor, bias - mean * factor


def _scaled(op: Operator, weight: NDArray[Any], factor: Float64s) -> NDArray[Any] | None:
    """A weight with its output channels multiplied; None where the numbers of channels differ."""
    wide = np.asarray(weight, np.float64)
    if channels_of_weight(op, 1, weight.shape)[1] != len(factor):
        return None
    _, axis = weight_axes(op, 1, weight.ndim)
    if axis == 1 and op.op_type in CONVOLUTIONS:
        # [in, out of one group, *kernel]: the input channels say the group.
        groups = int(op.attr("group", 1))
        parts = wide.reshape(groups, -1, weight.shape[1], *weight.shape[2:])
        by_group = factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        wide = (parts * by_group).reshape(weight.shape)
    else:
        shape = [1] * weight.ndim
        shape[axis] = -1
        wide = wide * factor.reshape(shape)
    with np.errstate(over="ignore"):
        return wide.astype(weight.dtype)


def _bias(edit: FileEdit, layer: EditedNode, channels: int) -> Float64s | None:
    """What a layer adds to each channel; None where that cannot be known."""
    if not layer.op.input(2):
        return np.zeros(channels)
    constant = edit.constant(layer, 2)
    if constant is None or constant.tensor.data_type not in PLAIN_FLOATS:
        return None
    if constant.size not in (1, channels) or (constant.dims and constant.dims[-1] != constant.size):
        return None  # a Gemm may add something else to each row
    bias = np.asarray(edit.array(layer, 2), np.float64).reshape(-1)
    return np.broadcast_to(bias * bias_factor(layer.op), (channels,))


def _set_bias(edit: FileEdit, layer: EditedNode, norm: EditedNode, bias: NDArray[Any]) -> None:
    """Store a layer's new bias: under its old name, else the normalisation's bias', where they are free."""
    node = layer.node
    own = [n for n in (*node.input[2:3], norm.node.input[2]) if n and edit.reads[n] == 1]
    name = own[0] if own else edit.fresh_name(f"{layer.op.name}.bias")
    if not node.input[2:3] or node.input[2] != name:
        edit.set_input(node, 2, name)
    edit.set_weight(name, bias)
    if bias_factor(layer.op) != 1:
        # The bias holds all that is added: beta is in it.
        set_attribute(node, "beta", 1.0)
