"""Batch normalisation put back behind convolutions that lost it: the form in which networks train."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from conet_graph.ir.load import LoadedModel
from conet_graph.ir.operators import channels_of_weight
from conet_graph.passes.edits.file_edit import EditedNode, FileEdit
from conet_graph.passes.edits.normless import lost_batchnorm
from conet_graph.passes.fold_batchnorm import require_opset

# PyTorch's and ONNX's own default.
EPSILON = float(np.float32(1e-5))


def insert_batchnorm(model: LoadedModel) -> LoadedModel:
    """Put a BatchNormalization that changes nothing behind each convolution that lost its own.

    Which these are, and which are left out, says ``lost_batchnorm``. Scale 1, mean 0 and a variance of
    1 - epsilon leave every output as it was (in half floats the variance is 1, off by less than their
    last bit). The convolution's bias moves on to be the normalisation's, under its name: behind a
    normalisation by the batch's mean a bias has no effect and no gradient. (In half floats it stays,
    since the sum would be rounded twice.) So ``fold_batchnorm`` gives the same convolution with its bias
    back, trained or not; a bias of zeros is left out then.

    The convolution's output keeps its name as the normalisation's output. New names are made of the
    convolution's: ``NAME.bn``, ``NAME.bn.weight``, ``.bias``, ``.running_mean``, ``.running_var``.

    Args:
        model: the model; left as it is.

    Raises:
        InvalidModel: the model breaks an invariant.
        Refused: its operator set is older than 7.

    """
    edit = FileEdit(model)
    require_opset(edit)
    for made in lost_batchnorm(edit):
        _insert(edit, made)
    return edit.finished()


def was_inserted(before: LoadedModel, after: LoadedModel) -> bool:
    """Whether ``insert_batchnorm`` put any into ``before`` to make ``after``."""
    return _norms(after) > _norms(before)


def _norms(model: LoadedModel) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.proto.graph.node)


def _insert(edit: FileEdit, conv: EditedNode) -> None:
    weight = edit.constant(conv, 1)
    assert weight is not None  # else lost_batchnorm had left it out
    _, channels = channels_of_weight(conv.op, 1, weight.dims)
    assert channels is not None  # a weight of the file has sizes
    dtype = helper.tensor_dtype_to_np_dtype(weight.tensor.data_type)
    name, output = edit.fresh_name(f"{conv.op.name}.bn"), conv.node.output[0]
    ones, zeros = np.ones(channels, dtype), np.zeros(channels, dtype)
    variance = np.full(channels, 1.0 - EPSILON).astype(dtype)
    bias = _taken_bias(edit, conv)
    inputs = [edit.fresh_name(f"{conv.op.name}.conv")]
    for part, value in (
        ("weight", ones),
        ("bias", zeros),
        ("running_mean", zeros),
        ("running_var", variance),
    ):
        if part == "bias" and bias:
            inputs.append(bias)
            continue
        inputs.append(edit.fresh_name(f"{name}.{part}"))
        edit.set_weight(inputs[-1], value)
    edit.add(helper.make_node("BatchNormalization", inputs, [output], name=name, epsilon=EPSILON), conv.node)
    if bias:
        edit.set_input(conv.node, 2, "")
    edit.rename_output(conv, inputs[0])


def _taken_bias(edit: FileEdit, conv: EditedNode) -> str:
    """The name under which a convolution's bias can become a normalisation's; '' where it must stay."""
    bias = edit.constant(conv, 2)
    if bias is None or bias.tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return ""
    name: str = conv.node.input[2]
    if edit.reads[name] == 1:
        return name
    # Equal vectors that an exporter stored once: as a bias to train, each layer needs its own.
    own = edit.fresh_name(f"{conv.op.name}.bias")
    edit.set_weight(own, np.array(edit.array(conv, 2)))
    return own
