"""The network that a rewritten one must equal: the user's file, its dropped channels silenced.

Where an operator sums over channels by weights, the dropped ones are set to zero before it. Where it looks
across channels without weights (a softmax, a norm, a maximum), it gets those that are left, as often as they
are there, and its result is put back into full width. All else is the file as it was read. What
does all this are inputs with a value: given others, the same network is the file as it was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.dead_channels.stand_ins import StandIn, SumPlace
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import FLOATS, Graph, Operator, inlined
from conet_graph.ir.operators import WEIGHTED
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.save import EXTERNAL_FROM, copy_light, save_scratch
from conet_graph.ir.tensors import nbytes
from conet_graph.passes.channels.units import Ids, Units
from conet_graph.passes.infer_shapes import drop_false
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.across_copies import SUMS, in_any_order
from conet_graph.passes.widths.evaluated import evaluated_uses
from conet_graph.passes.widths.rewidth import lay_out, with_constants

# How the names of values begin that stand in the reference alone.
PREFIX = "conet_graph_reference_"
# Types of weights that ONNX Runtime takes from memory.
_HELD = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
) | {onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}


@dataclass
class Reference:
    """The model to compare with.

    ``is_the_file`` says that it was made from the file itself; else it was made from the analysed graph's
    form of it, which then has to be compared with the file. ``unequal_because`` names operators after which
    copies of one channel differ, so that no network of the old width says what the wider one does. Fed with
    ``undone``, the model computes what it did before any channel was silenced.

    ``held`` are weights of the original that the model only refers to (empty where it holds all itself).
    """

    model: onnx.ModelProto
    is_the_file: bool
    unequal_because: list[str]
    undone: dict[str, NDArray[Any]]
    held: dict[str, onnx.TensorProto]

    def save(self, path: Path, folder: Path | None) -> None:
        """Write the model with its weights as a file that is soon thrown away."""
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        for tensor in whole.graph.initializer:
            if tensor.name in self.held:
                tensor.CopyFrom(self.held[tensor.name])
        save_scratch(whole, path, folder)


@dataclass
class _Change:
    """What happens at one operator: masks by (slot, axis), indices to gather by the axis's classes.

    ``instead``: what is put in a mask's place.
    """

    op: Operator
    masks: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)
    instead: dict[tuple[int, int], StandIn] = field(default_factory=dict)
    left: list[tuple[Ids, Ids]] = field(default_factory=list)

    def index(self, classes: Ids | None) -> Ids | None:
        """The positions that an axis of these classes keeps; None where all stay as they are."""
        for mine, index in self.left:
            if classes is not None and np.array_equal(mine, classes):
                return index
        return None


def reference(
    graph: Graph, copies: NDArray[np.int64], instead: Mapping[SumPlace, StandIn] | None = None
) -> Reference:
    """The user's network, computing what it should with other channel counts.

    Args:
        graph: the analysed original.
        copies: how often each class of channels appears; those with 0 are silenced.
        instead: what stands for dropped channels where they left something behind in other weights.

    """
    channels = graph.result(CHANNELS)
    changes, unequal = _changes(graph, channels.units, copies, instead or {})
    model, held = _the_file_without_weights(graph)
    drop_false(graph, model.graph)
    is_the_file = _has(model, changes)
    if not is_the_file:
        model, held = own_form(graph), {}
    model.ir_version = max(model.ir_version, FIRST_FREE_IR)
    editor = _Editor(graph, channels.units, model)
    editor.apply(changes)
    return Reference(model, is_the_file, unequal, editor.undone, held)


def the_file(graph: Graph) -> onnx.ModelProto:
    """A copy of the model that was read; only calls of its own functions are written out."""
    if graph.loaded.proto.functions:
        return inlined(graph.loaded.proto)
    model = onnx.ModelProto()
    model.CopyFrom(graph.loaded.proto)
    return model


def _the_file_without_weights(graph: Graph) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """The same with larger weights referred to, as if they lay outside; and those weights."""
    proto = graph.loaded.proto
    if proto.functions:
        return the_file(graph), {}
    model = onnx.ModelProto()
    copy_light(proto, model)
    overridable = {value.name for value in proto.graph.input}
    held: dict[str, onnx.TensorProto] = {}
    for tensor, light in zip(proto.graph.initializer, model.graph.initializer, strict=True):
        if tensor.name in overridable or tensor.data_type not in _HELD or nbytes(tensor) < EXTERNAL_FROM:
            light.CopyFrom(tensor)
            continue
        held[tensor.name] = tensor
        light.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", PREFIX), ("offset", 0), ("length", nbytes(tensor))):
            light.external_data.add(key=key, value=str(value))
    return model, held


def own_form(graph: Graph) -> onnx.ModelProto:
    """The network as the passes left it, at its old widths."""
    return with_constants(graph, {})


def _first_output(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _has(model: onnx.ModelProto, changes: Iterable[_Change]) -> bool:
    """Whether every operator that is changed stands in a model as it does in the analysed graph."""
    nodes = {_first_output(node): node for node in model.graph.node}
    for change in changes:
        mine = change.op.proto
        found = nodes.get(_first_output(mine))
        if found is None or (found.op_type, found.domain) != (mine.op_type, mine.domain):
            return False
        if len(found.input) != len(mine.input) or list(found.output) != list(mine.output):
            return False
        if _attributes(found) != _attributes(mine):
            return False
    return True


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in node.attribute}


def _changes(
    graph: Graph, units: Units, copies: Ids, instead: Mapping[SumPlace, StandIn]
) -> tuple[list[_Change], list[str]]:
    """What happens where, and the operators behind which copies differ."""
    changes: dict[int, _Change] = {}
    unequal: dict[str, None] = {}
    summed = _summed(units)
    alone = _unshared(graph, units, copies)
    # What is made of constants alone is held as the numbers that it was.
    across = [(op, units.classes[axis]) for op, axis in units.mixes if not evaluated_uses(graph, op)]
    across += [(op, classes) for op, _, _, classes in summed if op.index in alone]
    shared = {(op.index, classes.tobytes()) for op, _, _, classes in summed if op.index not in alone}
    # A sum over the channels of a weight itself, as a norm of it takes.
    shared |= {(op.index, c.tobytes()) for op, c in across if op.op_type in SUMS and op.index not in alone}
    for op, classes in across:
        times = copies[classes]
        if (times == 1).all():
            continue
        if (op.index, classes.tobytes()) in shared:
            times = np.minimum(times, 1)  # its weights are shared out among the copies
        elif (times > 1).any() and op.index not in alone and not in_any_order(op.op_type):
            unequal[f"{op.op_type} {shown(op.name)}"] = None
        change = changes.setdefault(op.index, _Change(op))
        if change.index(classes) is None:
            change.left.append((classes, np.repeat(np.arange(len(classes)), times)))
    for op, slot, k, classes in summed:
        kept = copies[classes] > 0
        if kept.all():
            continue
        change = changes.setdefault(op.index, _Change(op))
        if change.index(classes) is None:
            change.masks[slot, k] = kept
            stand_in = instead.get((op.index, classes.tobytes()))
            if stand_in is not None:
                change.instead[slot, k] = stand_in
    return list(changes.values()), list(unequal)


def _summed(units: Units) -> list[tuple[Operator, int, int, Ids]]:
    """The sums over channels by weights: operator, slot, axis (from the left), the axis's classes."""
    found: list[tuple[Operator, int, int, Ids]] = []
    for op, slot, k, _ in units.contractions:
        axis = units.axis(op.input(slot), k)
        if not isinstance(axis, int):
            found.append((op, slot, k % units.rank(op.input(slot)), units.classes[axis]))
    return found


def _unshared(graph: Graph, units: Units, copies: Ids) -> set[int]:
    """Operators that sum over copied channels, and have no weights that could be shared out."""
    if not (copies > 1).any():
        return set()
    return lay_out(graph, copies, keeps_function=False).labels.unshared


class _Editor:
    """Puts nodes before and after those of a model."""

    def __init__(self, graph: Graph, units: Units, model: onnx.ModelProto) -> None:
        self.graph, self.units, self.model = graph, units, model
        self.count = 0
        self.undone: dict[str, NDArray[Any]] = {}

    def apply(self, changes: Iterable[_Change]) -> None:
        """Make all changes."""
        wanted = {_first_output(change.op.proto): change for change in changes}
        nodes = list(self.model.graph.node)
        del self.model.graph.node[:]
        for node in nodes:
            change = wanted.get(_first_output(node))
            before, after = ([], []) if change is None else self._around(node, change)
            self.model.graph.node.extend([*before, node, *after])

    def _around(
        self, node: onnx.NodeProto, change: _Change
    ) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """Change a node's inputs and outputs; what goes before it, and what behind."""
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        for slot, name in enumerate(change.op.inputs):
            for k, classes in enumerate(self._axes(name)):
                kept, index = change.masks.get((slot, k)), change.index(classes)
                if classes is None or (kept is None and index is None):
                    continue
                value, out = node.input[slot], self._fresh()
                if index is not None:
                    place, whole = (change.op.inputs[slot], k), len(classes)
                    before += self._gather(place, value, (whole, whole), index, out)
                elif (slot, k) in change.instead:
                    before += self._stand_in(change.op.inputs[slot], k, change.instead[slot, k], value, out)
                elif kept is not None:
                    before.append(self._mask(node, change.op, slot, (k, kept), out))
                node.input[slot] = out
        for slot, name in enumerate(change.op.outputs):
            for k, classes in enumerate(self._axes(name)):
                index = change.index(classes)
                if index is None or classes is None:
                    continue
                back = np.zeros(len(classes), np.int64)  # what was dropped gets any value: nothing reads it
                back[index[::-1]] = np.arange(len(index))[::-1]
                narrow = self._fresh()
                lengths = len(index), len(classes)
                after[:0] = self._gather((name, k), narrow, lengths, back, node.output[slot])
                node.output[slot] = narrow
        return before, after

    def _axes(self, name: str) -> list[Ids | None]:
        """The classes on each axis of a value; None where it carries no channels."""
        if name in self.graph.constants:
            found = [self.units.stored.get((name, k), 0) for k in range(len(self.graph.constants[name].dims))]
        else:
            found = self.units.values.get(name, [])
        packed = [self.units.packed.get((name, k)) for k in range(len(found))]
        axes = [axis if p is None else p.units for axis, p in zip(found, packed, strict=True)]
        return [None if isinstance(axis, int) else self.units.classes[axis] for axis in axes]

    def _fresh(self) -> str:
        self.count += 1
        return f"{PREFIX}{self.count}"

    def _gather(
        self, place: tuple[str, int], value: str, lengths: tuple[int, int], index: Ids, output: str
    ) -> list[onnx.NodeProto]:
        """Nodes that gather along an axis, the one at ``place`` of the file.

        It has as many channels as ``lengths`` says, first as things are, then with nothing silenced.
        """
        axis = place[1]
        numbers = self._numbers(index, np.arange(lengths[1]))
        if place not in self.units.packed:
            return [helper.make_node("Gather", [value, numbers], [output], axis=axis)]
        # Each channel stands for as many pixels as the run has: they are split off, and merged again.
        behind = [d if isinstance(d, int) else -1 for d in (self.graph.shape(place[0]) or ())[axis + 1 :]]
        apart, left = self._fresh(), self._fresh()
        splits = [np.array([*[0] * axis, length, -1, *behind]) for length in lengths]
        split, merged = self._numbers(*splits), self._numbers(*[np.array([*[0] * axis, -1, *behind])] * 2)
        return [
            helper.make_node("Reshape", [value, split], [apart]),
            helper.make_node("Gather", [apart, numbers], [left], axis=axis),
            helper.make_node("Reshape", [left, merged], [output]),
        ]

    def _numbers(self, numbers: Ids, undone: Ids) -> str:
        return self._overridable(self._fresh(), numbers.astype(np.int64), undone.astype(np.int64))

    def _overridable(self, name: str, array: NDArray[Any], undone: NDArray[Any]) -> str:
        """An initializer that a run can give another value."""
        tensor = numpy_helper.from_array(array, name)
        dims = [a if a == b else None for a, b in zip(array.shape, undone.shape, strict=True)]
        self.model.graph.initializer.append(tensor)
        self.model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, dims))
        self.undone[name] = undone
        return name

    def _mask(
        self,
        node: onnx.NodeProto,
        op: Operator,
        slot: int,
        where: tuple[int, NDArray[np.bool_]],
        output: str,
    ) -> onnx.NodeProto:
        """A node that puts zero (or the zero point) where channels are not kept."""
        axis, kept = where
        name, value = op.input(slot), node.input[slot]
        shape = [1] * self.units.rank(name)
        shape[axis] = len(kept)
        kept = kept.reshape(shape)
        constant = self.graph.constants.get(name)
        dtype = self.graph.dtypes.get(name) if constant is None else constant.tensor.data_type
        record = WEIGHTED.get(op.op_type)
        zero = None if record is None else record.data_zero
        if dtype is None or dtype in FLOATS or zero is None or not op.input(zero):
            kind = helper.tensor_dtype_to_np_dtype(dtype or onnx.TensorProto.FLOAT)
            return self._multiply(value, kept.astype(kind), output)
        mask = self._overridable(output + "_mask", kept, np.ones_like(kept))
        return helper.make_node("Where", [mask, value, node.input[zero]], [output])

    def _stand_in(
        self, name: str, axis: int, instead: StandIn, value: str, output: str
    ) -> list[onnx.NodeProto]:
        """Nodes that give channels that stay as they are, and what stands for the others."""
        count, shape = len(instead.index), [1] * self.units.rank(name)
        shape[axis] = count
        kind = helper.tensor_dtype_to_np_dtype(self.graph.dtypes.get(name, onnx.TensorProto.FLOAT))
        chosen, scaled = self._fresh(), self._fresh()
        index = self._numbers(instead.index, np.arange(count))
        factor, shift = instead.factor.reshape(shape).astype(kind), instead.shift.reshape(shape).astype(kind)
        shifts = self._overridable(output + "_shift", shift, np.zeros_like(shift))
        return [
            helper.make_node("Gather", [value, index], [chosen], axis=axis),
            self._multiply(chosen, factor, scaled),
            self._broadcast("Add", [scaled, shifts], output),
        ]

    def _multiply(self, value: str, mask: NDArray[Any], output: str) -> onnx.NodeProto:
        name = self._overridable(output + "_mask", mask, np.ones_like(mask))
        return self._broadcast("Mul", [value, name], output)

    def _broadcast(self, kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
        node = helper.make_node(kind, inputs, [output])
        if self.graph.opset < 7:
            # Before opset 7 broadcasting had to be asked for, and took trailing axes only.
            node.attribute.append(helper.make_attribute("broadcast", 1))
        return node
