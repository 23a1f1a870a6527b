"""Where channels are summed over: what arrives there, which weights hear it, where a constant can go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Ids, Numbers
from conet_graph.dead_channels.facts import Along, Facts
from conet_graph.dead_channels.hearing import Hearing
from conet_graph.dead_channels.sums import read_again, signed_sums
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS, WEIGHTED, bias_factor, channel_axis
from conet_graph.passes.shapes.constant_values import value_of


@dataclass(frozen=True)
class Absorber:
    """A vector of the file with a number for each output of a layer, which can take a constant in.

    A constant ``c`` added to the layer's output is ``factor * c`` added to the tensor.
    """

    tensor: str
    factor: float


@dataclass(frozen=True)
class Contraction:
    """One operator that sums over channels.

    ``hears``: which inputs are heard, where a weight is not zero; None where the weights are not known.
    ``outputs``: the classes of the outputs, where they are channels. ``weight``: the constant, and its axis,
    whose slices can be added to others; None where there is none. ``data`` is None where nothing tells the
    positions apart: none is constant, and none a multiple of another.
    """

    op: Operator
    classes: Ids
    data: Along | None
    hears: Hearing | None
    outputs: Ids | None
    absorber: Absorber | None
    weight: tuple[str, int] | None

    def heard(self, gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For each position, whether a weight of an output that stays is not zero."""
        if self.hears is None:
            return np.ones(len(self.classes), np.bool_)
        hears = self.hears if self.outputs is None else self.hears.without(gone[self.outputs])
        return hears.heard()


def contractions(facts: Facts) -> list[Contraction]:
    """All sums over channels of a network whose channels are told apart."""
    found = []
    for op, slot, axis, weight in facts.units.contractions:
        ids, data = facts.ids(op.input(slot), axis), facts.of(op.input(slot)).along.get(axis)
        if ids is None:
            continue
        classes = facts.units.classes[ids]
        hears, partial = facts.hears.get(op.index, (None, True)) if slot == 0 else (None, True)
        if hears is None or len(hears.by_any) != len(ids):
            heard = _hears(facts, weight, len(ids))
            found.append(Contraction(op, classes, data, heard, None, None, None))
            continue
        count = hears.shape[0] * hears.shape[1]
        hears = hears.without(_deaf(facts, op, count))
        absorber = None if partial else _absorber(facts.graph, op, count)
        mergeable = weight if weight is not None and _own_matrix(facts.graph, weight[0], hears) else None
        outputs = _outputs(facts, op, count)
        found.append(Contraction(op, classes, data, hears, outputs, absorber, mergeable))
    return found


def _deaf(facts: Facts, op: Operator, count: int) -> NDArray[np.bool_]:
    """Outputs of a layer that the BatchNorm behind it multiplies with zero: what they are does not matter."""
    reader = _only_reader(facts.graph, op.outputs[0])
    if reader is None or reader[0].op_type != "BatchNormalization" or reader[0].attr("training_mode", 0):
        return np.zeros(count, np.bool_)
    scale = facts.vector(reader[0].input(1), count) if reader[1] == 0 else None
    return np.zeros(count, np.bool_) if scale is None else scale == 0


def _only_reader(graph: Graph, value: str) -> tuple[Operator, int] | None:
    """The one operator that reads a value, and its input slot; None where there are others."""
    readers = graph.consumers.get(value, [])
    if len(readers) != 1 or value in graph.outputs or value in graph.captured:
        return None
    return readers[0]


def _own_matrix(graph: Graph, name: str, hears: Hearing) -> bool:
    """Whether a weight is floats of the file that nothing else reads, and its inputs are one axis of it."""
    constant = graph.constants.get(name)
    alone = len(graph.consumers.get(name, [])) == 1
    return constant is not None and constant.is_float and alone and hears.shape[0] == 1


def _hears(facts: Facts, weight: tuple[str, int] | None, count: int) -> Hearing | None:
    """What a sum that is none of a layer's hears, as of one output."""
    array = None if weight is None else value_of(facts.graph, weight[0])
    if weight is None or array is None or not facts.is_float(weight[0]) or array.shape[weight[1]] != count:
        return None
    others = tuple(k for k in range(array.ndim) if k != weight[1] % array.ndim)
    found = np.asarray((array != 0).any(axis=others)).reshape(1, 1, -1, 1)
    return Hearing.of(found, lambda: found)


def _outputs(facts: Facts, op: Operator, count: int) -> Ids | None:
    """The classes of a layer's outputs; None where they are not told apart."""
    rank = facts.rank(op.outputs[0]) or 1
    ids = facts.ids(op.outputs[0], channel_axis(op, rank) if op.op_type in CONVOLUTIONS else rank - 1)
    if ids is None or len(ids) != count:
        return None
    classes: Ids = facts.units.classes[ids]
    return classes


def _absorber(graph: Graph, op: Operator, count: int) -> Absorber | None:
    """The bias of a layer, or the vector behind it that does the same."""
    slot, beta = WEIGHTED[op.op_type].bias, bias_factor(op)
    if not beta:
        return None
    if slot is not None and op.input(slot):
        return _own_vector(graph, op.input(slot), count, 1 / beta)
    found = _only_reader(graph, op.outputs[0])
    if found is None:
        return None
    reader, slot = found
    if reader.op_type == "BatchNormalization" and slot == 0 and not reader.attr("training_mode", 0):
        return _own_vector(graph, reader.input(3), count, -1.0)
    if WEIGHTED[op.op_type].bias is None and reader.op_type == "Add":
        return _own_vector(graph, reader.input(1 - slot), count, 1.0)
    return None


def _own_vector(graph: Graph, name: str, count: int, factor: float) -> Absorber | None:
    """A float vector that one operator alone reads."""
    constant = graph.constants.get(name)
    if constant is None or not constant.is_float or constant.dims != (count,):
        return None
    alone = len(graph.consumers.get(name, [])) == 1 and name not in graph.outputs + list(graph.captured)
    return Absorber(name, factor) if alone else None


def constant_sum(facts: Facts, place: Contraction, taken: NDArray[np.bool_]) -> Numbers:
    """What the constant channels at the positions ``taken`` add to each of a layer's outputs."""
    layer = read_again(facts, place.op)
    assert place.data is not None, "constant positions are told apart"
    groups, _, inputs, _ = layer.weight.shape
    values = np.where(taken, place.data.low, 0.0).reshape(groups, 1, inputs)
    up, down = signed_sums(layer.weight)
    total: Numbers = ((up.astype(np.float64) + down) * values).sum(axis=2)
    return total.reshape(-1)
