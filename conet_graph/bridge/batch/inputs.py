"""Which axis of each graph input counts the images, and how many the file is for."""

from __future__ import annotations

import onnx

from conet_graph.bridge.batch.held import Held
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel

_RECURRENT = frozenset(("GRU", "LSTM", "RNN"))
# Slots of recurrent operators whose second axis is the batch: the sequence and the first states.
_SEQUENCES = (0, 5, 6)


def input_batches(graph: Graph) -> dict[str, Held] | None:
    """The inputs that have images, of a file for a fixed number of them; None where the number is free.

    The first input of two axes or more (or of one, if none has two) says how many images the file is
    for. Others that are as long have images too; the rest is shared by all images.
    """
    ranked = [name for name in graph.inputs if graph.shape(name)]
    leading = next((n for n in ranked if len(graph.shape(n) or ()) > 1), ranked[0] if ranked else None)
    if leading is None:
        return None
    axis = _batch_axis(graph, leading)
    length = (graph.shape(leading) or ())[axis]
    if not isinstance(length, int) or length < 1:
        return None
    found = {leading: Held(axis, length)}
    for name in ranked:
        shape = graph.shape(name) or ()
        usual = _batch_axis(graph, name)
        axes = (usual, *(k for k in (0, 1) if k != usual and k < len(shape)))
        match = next((k for k in axes if shape[k] == length), None)
        if match is not None:
            found.setdefault(name, Held(match, length))
    return {name: found[name] for name in graph.inputs if name in found}


def _batch_axis(graph: Graph, name: str) -> int:
    """Where the batch is: behind the steps in what a recurrent layer reads, else in front."""
    for op, slot in graph.consumers.get(name, []):
        if op.op_type in _RECURRENT and not op.domain and slot in _SEQUENCES:
            return 0 if op.attr("layout", 0) else 1
    return 0


def for_one_image(model: LoadedModel) -> LoadedModel:
    """The model with every free first axis of an input declared as one; what was declared of others goes."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return LoadedModel(proto, model.path, model.external)
