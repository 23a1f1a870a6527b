"""Where a layer's outputs go next: the place that holds its bias, and the sum that it ends in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.calibration.compensation import channel_axes
from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.stages import Array, Stages
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS, PLAIN_PRODUCTS, RECURRENT, WEIGHTED, bias_factor
from conet_graph.passes.classify_edges import Layer

# Of the largest gain of a BatchNorm: channels that it silences more than this are not fitted through it.
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class BiasPlace:
    """A tensor in which a layer's bias stands, or can be put.

    ``kind`` is 'own' (the layer's bias input), 'new' (an input that the layer can get), 'mean' (the mean of
    the BatchNorm behind it) or 'added' (a constant that is added behind it).
    """

    kind: str
    name: str
    node: int
    slot: int
    factor: float = 1.0


@dataclass(frozen=True)
class Meeting:
    """A sum that a layer's output goes into, perhaps through a BatchNorm, and the other summand."""

    total: str
    other: str
    norm: Operator | None


def only_reader(graph: Graph, value: str) -> Operator | None:
    """The one operator that reads a value, if nothing else does."""
    readers = graph.consumers.get(value, [])
    if len(readers) != 1 or value in graph.outputs or value in graph.captured:
        return None
    return readers[0][0]


def bias_place(graph: Graph, layer: Layer, model: onnx.ModelProto, outputs: int) -> BiasPlace | None:
    """Where the bias of a layer with so many outputs is or can be in the rewritten model."""
    op, node = layer.op, model.graph.node[layer.op.index]
    names = {t.name: tuple(t.dims) for t in model.graph.initializer}
    slot = WEIGHTED[op.op_type].bias
    if op.op_type in RECURRENT:
        name = node.input[3] if len(node.input) > 3 else ""
        return BiasPlace("own", name, op.index, 3) if name in names else None
    if slot is not None and op.op_type != "DeformConv":
        name = node.input[slot] if len(node.input) > slot else ""
        factor = bias_factor(op)
        if name and (name not in names or int(np.prod(names[name])) != outputs or not factor):
            return None
        if name:
            return BiasPlace("own", name, op.index, slot, factor)
    reader = only_reader(graph, op.outputs[0])
    rank = len(graph.shape(op.outputs[0]) or ())
    behind = _behind(channel_axes(layer)[1], rank)
    if reader is not None and _is_plain_norm(reader) and behind == rank - 2:
        name = model.graph.node[reader.index].input[3]
        return BiasPlace("mean", name, reader.index, 3, -1.0) if name in names else None
    if reader is not None and reader.op_type == "Add" and not reader.domain:
        k = 1 - reader.inputs.index(op.outputs[0])
        name = model.graph.node[reader.index].input[k]
        if name in names and _along(names[name], behind, outputs):
            return BiasPlace("added", name, reader.index, k)
    if slot is not None and op.op_type in (*CONVOLUTIONS, *PLAIN_PRODUCTS) and not op.domain:
        return BiasPlace("new", "", op.index, slot, bias_factor(op))
    return None


def own_bias(stages: Stages, layer: Layer, start: Doubles) -> Doubles | None:
    """The bias [blocks, outputs] that a layer has and keeps; None where it is not known."""
    op, shape = layer.op, (start.shape[0], start.shape[2])
    slot, node = WEIGHTED[op.op_type].bias, stages.nodes[op.index]
    name = node.input[slot] if slot is not None and len(node.input) > slot else ""
    if not name or op.op_type in RECURRENT:
        return np.zeros(shape)
    stored = stages.weight(name).astype(np.float64) if name in stages.weights else np.zeros(0)
    if stored.size != shape[0] * shape[1]:
        return None
    factor = float(op.attr("beta", 1.0)) if op.op_type == "Gemm" else 1.0
    made: Doubles = stored.reshape(shape) * factor
    return made


def _behind(axis: int, rank: int) -> int:
    """How many axes stand behind one of a value."""
    return -1 - axis if axis < 0 else rank - 1 - axis


def _along(dims: tuple[int, ...], behind: int, outputs: int) -> bool:
    """Whether a constant of these sizes has one entry for each output of a layer, along its channel axis."""
    if int(np.prod(dims)) != outputs or len(dims) <= behind:
        return False
    return dims[len(dims) - 1 - behind] == outputs


def _is_plain_norm(op: Operator) -> bool:
    return (
        op.op_type == "BatchNormalization"
        and not op.domain
        and not op.attr("training_mode", 0)
        and len([o for o in op.outputs if o]) == 1
    )


def meeting(graph: Graph, layer: Layer) -> Meeting | None:
    """The sum that a layer's output alone goes into; None where there is none."""
    value, norm = layer.op.outputs[0], None
    reader = only_reader(graph, value)
    if reader is not None and _is_plain_norm(reader) and set(reader.inputs[1:]) <= graph.constants.keys():
        value, norm = reader.outputs[0], reader
        reader = only_reader(graph, value)
    if reader is None or reader.op_type not in ("Add", "Sum") or reader.domain or len(reader.inputs) != 2:
        return None
    other = reader.inputs[1 - reader.inputs.index(value)]
    if other == value or other in graph.derived or graph.shape(other) != graph.shape(value):
        return None
    return Meeting(reader.outputs[0], other, norm)


def through_norm(target: Array, norm: Operator, stages: Stages, plain: Array) -> Array:
    """What must go into a BatchNorm so that ``target`` comes out; ``plain`` for channels it silences."""
    node = stages.nodes[norm.index]
    scale, shift, mean, var = (stages.weight(node.input[k]).astype(np.float32) for k in range(1, 5))
    gain = scale / np.sqrt(var + np.float32(norm.attr("epsilon", 1e-5)))
    shape = (1, -1, *[1] * (target.ndim - 2))
    usable = np.abs(gain) > LEAST_GAIN * np.abs(gain).max(initial=1e-20)
    safe = np.where(usable, gain, 1)
    back = (target - shift.reshape(shape)) / safe.reshape(shape) + mean.reshape(shape)
    made: NDArray[np.float32] = np.where(usable.reshape(shape), back, plain).astype(np.float32)
    return made
