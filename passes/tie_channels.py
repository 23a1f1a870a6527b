"""The constraint pass: run every rule once, solve the equations once, read off the channel groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx

from conet_graph.ir.einsum import axes_of
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph, Operator, Result
from conet_graph.ir.operators import (
    CONVOLUTIONS,
    RECURRENT,
    channel_axis,
    channels_of_weight,
    einsum_layer,
    summed_axis,
)
from conet_graph.ir.text import AXIS_LABELS
from conet_graph.passes.channels.components import components
from conet_graph.passes.channels.distinct import is_rising
from conet_graph.passes.channels.labels import ChannelLabels
from conet_graph.passes.channels.units import Axis, Ids, Tracker, Units, beside
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.rules import apply_rule


@dataclass
class Group:
    """Units that must appear or vanish together: one free channel size, or a frozen one."""

    id: str
    classes: Ids
    width: int
    multiple: int
    free: bool
    reason: str | None
    places: list[tuple[str, int, int]] = field(default_factory=list)
    producers: list[Layer] = field(default_factory=list)
    consumers: list[Layer] = field(default_factory=list)
    size: str = ""


@dataclass
class Channels:
    """The solved channels of a network: what ``tie_channels`` leaves in ``CHANNELS``.

    ``fixed`` has the ids of sizes on the sides of layers that never carried channels, such as the network's
    input, by why they are frozen and how wide they are; they go on where the groups' end.
    """

    units: Units
    groups: list[Group]
    group_of_class: Ids
    layer_axes: dict[int, tuple[Ids | None, Ids | None]]
    fixed: dict[tuple[str, int], str] = field(default_factory=dict)

    def groups_on(self, classes: Ids | None) -> list[Group]:
        """The groups on an axis, in order of appearance."""
        if classes is None:
            return []
        numbers = self.group_of_class[classes]
        order = dict.fromkeys(numbers[numbers >= 0].tolist())
        return [self.groups[k] for k in order]


CHANNELS: Result[Channels] = Result("channels", "tie_channels")


# What quantised weights are stored as.
_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
# Channels that only the file or a shape gives, such as an alphabet that symbols are compared with.
UNPRODUCED = "no layer produces them: they are positions of a constant (kept by default)"


@dataclass(frozen=True)
class TieChannels:
    """Find the channel groups of a network: type inference for channels.

    ``free_kept`` frees what is kept by default: channels that a Softmax, ArgMax or TopK selects among, and
    those that no layer produces.
    """

    free_kept: bool = False

    name: ClassVar[str] = "tie_channels"

    def run(self, graph: Graph) -> None:
        """Solve, and leave a ``Channels`` in ``CHANNELS``."""
        units = Units(graph, self.free_kept)
        walk(units)
        units.solve()
        carried = _Carried(units)
        if not self.free_kept and _keep_unproduced(units, graph.result(LAYERS), carried):
            units.solve()
            carried = _Carried(units)
        channels = _channels(graph, units, carried)
        graph.keep(CHANNELS, channels)
        graph.keep(AXIS_LABELS, ChannelLabels(channels))


def _keep_unproduced(units: Units, layers: list[Layer], carried: _Carried) -> bool:
    """Keep the channels that layers read and none gives out; whether there are any."""
    settled = units.frozen_class.copy()
    tables = _looked_up(units.graph)
    for (name, place), looked_up in units.stored.items():
        if name in tables and place and not isinstance(looked_up, int):
            settled[carried.by(looked_up)] = True
    for layer in layers:
        axis = out_axis(units, layer)
        if not isinstance(axis, int):
            settled[carried.by(axis)] = True
    found = False
    for layer in layers:
        axis = in_axis(units, layer)
        if not isinstance(axis, int) and not (known := settled[carried.by(axis)]).all():
            units.keep(layer.op, axis[~known], UNPRODUCED)
            found = True
    return found


def _looked_up(graph: Graph) -> set[str]:
    """Tables of weights of which the network's data pick rows: an embedding is a layer, and gives them out.

    Those of floats, and of bytes: floats that were quantised. Longer whole numbers say where something is.
    """
    picked = [
        op.input(0)
        for op in graph.operators
        if op.op_type == "Gather" and not op.attr("axis", 0) and op.input(1) not in graph.derived
    ]
    tables = {name: graph.constants[name] for name in picked if name in graph.constants}
    return {name for name, table in tables.items() if table.is_float or table.tensor.data_type in _BYTES}


def walk(tracker: Tracker) -> None:
    """Apply the rules to all operators, from the graph's inputs to its outputs."""
    graph = tracker.graph
    for name in graph.inputs:
        shape = graph.shape(name)
        if shape is not None:
            tracker.values[name] = [tracker.frozen(f"graph input {shown(name)}")] * len(shape)
    for sparse in graph.skeleton.graph.sparse_initializer:
        stop = tracker.frozen(f"sparse initializer {shown(sparse.values.name)}")
        tracker.values[sparse.values.name] = [stop] * len(sparse.dims)
    for op in graph.operators:
        apply_rule(tracker, op)
    last = graph.operators[-1] if graph.operators else None
    if last is None:
        return
    for name in graph.outputs:
        _keep(tracker, last, name, f"graph output {shown(name)}")
    for name in sorted(graph.captured):
        _keep(tracker, last, name, f"value {shown(name)} is read inside a sub-graph")


def _keep(tracker: Tracker, op: Operator, name: str, reason: str) -> None:
    if not (tracker.is_constant(name) or name in tracker.values):
        return
    stop = tracker.frozen(reason)
    for axis in range(tracker.rank(name)):
        tracker.stop(op, name, axis, stop)


def out_axis(tracker: Tracker, layer: Layer) -> Axis:
    """The output channels of a layer."""
    op = layer.op
    # A recurrent layer may leave its first output out; all of them end in the hidden size.
    first = next((name for name in op.outputs if name), "")
    axes = tracker.values.get(first, [])
    if not axes:
        return 0
    if op.op_type in RECURRENT:
        return axes[-1]
    if op.op_type in CONVOLUTIONS:
        return axes[channel_axis(op, len(axes))] if len(axes) > 1 else 0
    if op.op_type == "Einsum":
        return _behind_one_another(made_axes(tracker, layer))
    if layer.weight_slot > layer.data_slot:
        return axes[-1]
    return axes[-2] if len(axes) > 1 else axes[-1]


def in_axis(tracker: Tracker, layer: Layer) -> Axis:
    """The input channels of a layer."""
    op, name = layer.op, layer.op.input(layer.data_slot)
    axes = tracker.values.get(name, [])
    if not axes:
        return 0
    written = einsum_layer(op, layer.weight_slot)
    if written is not None:
        return _behind_one_another(_of_letters(axes, written.summed, written.data))
    summed = summed_axis(op, layer.data_slot, len(axes))
    return axes[summed] if summed < len(axes) else 0


def made_axes(tracker: Tracker, layer: Layer) -> list[Axis]:
    """The axes of a layer's output that it makes: one, but for an Einsum whose weight has several."""
    written = einsum_layer(layer.op, layer.weight_slot)
    if written is None:
        return [out_axis(tracker, layer)]
    return _of_letters(tracker.values.get(layer.op.outputs[0], []), written.made, written.result)


def _of_letters(axes: list[Axis], letters: str, term: str) -> list[Axis]:
    """The axes that carry some letters of an Einsum; those of an equation that does not fit carry none."""
    try:
        return [axes[k] for k in axes_of(letters, term, len(axes))]
    except ValueError:
        return [0]


def _behind_one_another(axes: list[Axis]) -> Axis:
    """The channels of several axes in one; a single unit where none of them carries any."""
    units = [axis for axis in axes if not isinstance(axis, int)]
    return np.concatenate(units) if units else axes[0]


def _channels(graph: Graph, units: Units, carried: _Carried) -> Channels:
    count = len(units.frozen_class)
    touched = [(p, carried.by(axis)) for p, axis in units.stored.items() if not isinstance(axis, int)]
    signature = signatures((classes for _, classes in touched), count)
    layers: list[Layer] = graph.result(LAYERS)
    sides = {layer.op.index: (in_axis(units, layer), out_axis(units, layer)) for layer in layers}
    axes = {index: (carried.on(given), carried.on(made)) for index, (given, made) in sides.items()}
    channels = Channels(units, [], np.full(count, -1, np.int64), axes)
    _number_groups(channels, layers, signature)
    times_on = _Occurrences(channels.group_of_class)
    _fill_groups(channels, layers, touched, times_on)
    _join_sizes(channels, layers, carried, times_on)
    _name_fixed_sizes(channels, layers, sides)
    return channels


class _Carried:
    """The classes that axes carry: one array for all axes with the same channels, as most have."""

    def __init__(self, units: Units) -> None:
        self.classes = units.classes
        self.known: dict[int, tuple[Ids, Ids]] = {}  # by the identity of an axis, which is held
        self.alike: dict[bytes, Ids] = {}

    def by(self, axis: Ids) -> Ids:
        """The classes on an axis of units."""
        if id(axis) not in self.known:
            found = self.classes[axis]
            self.known[id(axis)] = axis, self.alike.setdefault(found.tobytes(), found)
        return self.known[id(axis)][1]

    def on(self, axis: Axis) -> Ids | None:
        """The same; None for an axis that carries no channels."""
        return None if isinstance(axis, int) else self.by(axis)


def _name_fixed_sizes(channels: Channels, layers: list[Layer], sides: dict[int, tuple[Axis, Axis]]) -> None:
    units = channels.units
    for layer in layers:
        axes = sides[layer.op.index]
        if not any(isinstance(axis, int) for axis in axes):
            continue
        shape = units.graph.shape(layer.op.input(layer.weight_slot))
        widths = (None, None) if shape is None else channels_of_weight(layer.op, layer.weight_slot, shape)
        for axis, width in zip(axes, widths, strict=True):
            if isinstance(axis, int):
                number = len(channels.groups) + len(channels.fixed)
                channels.fixed.setdefault((units.reasons[axis], width or 0), f"g{number}")


def signatures(axes: Iterable[Ids], count: int) -> Ids:
    """A number for each of ``count`` classes: equal for those that occur equally often on the same axes.

    Args:
        axes: the classes on each; one array that comes several times is looked at once.
        count: how many classes there are.

    """
    signature = np.zeros(count, np.int64)
    mark = 1
    for classes in {id(axis): axis for axis in axes}.values():
        found, times = (classes, 1) if is_rising(classes) else np.unique(classes, return_counts=True)
        # One number stands for the pair (signature so far, times): sorting pairs is many times slower.
        pairs = signature[found] * (len(classes) + 1) + times
        if (pairs == pairs[:1]).all():  # as on most axes
            signature[found] = mark
            mark += 1
            continue
        _, number = np.unique(pairs, return_inverse=True)
        signature[found] = number + mark
        mark += int(number.max(initial=0)) + 1
    return signature


def _number_groups(channels: Channels, layers: list[Layer], signature: Ids) -> None:
    """Make the groups, in the order in which the layers' outputs, then their inputs, show them."""
    order = _by_appearance(channels, layers, len(signature))
    reasons = channels.units.class_reasons()
    told = [None, *dict.fromkeys(reasons.values())]
    place = {why: number for number, why in enumerate(told)}
    reason = np.zeros(len(signature), np.int64)  # of a free class: None
    reason[list(reasons)] = [place[why] for why in reasons.values()]
    keys = signature[order] * len(told) + reason[order]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]
    channels.group_of_class[order] = number
    together = np.split(order[np.argsort(number, kind="stable")], np.cumsum(np.bincount(number))[:-1])
    for classes in together if len(order) else ():
        why = told[reason[classes[0]]]
        channels.groups.append(Group(f"g{len(channels.groups)}", classes, 0, 1, why is None, why))


def _by_appearance(channels: Channels, layers: list[Layer], count: int) -> Ids:
    """The classes on the layers' outputs, then those on their inputs, each where it is first seen."""
    sides = [channels.layer_axes[layer.op.index][side] for side in (1, 0) for layer in layers]
    shown = np.concatenate(
        [np.zeros(0, np.int64), *{id(side): side for side in sides if side is not None}.values()]
    )
    place, first = np.arange(len(shown)), np.empty(count, np.int64)
    first[shown[::-1]] = place[::-1]  # of several assignments the last one holds
    order: Ids = shown[first[shown] == place]
    return order


def _fill_groups(
    channels: Channels,
    layers: list[Layer],
    touched: list[tuple[tuple[str, int], Ids]],
    times_on: _Occurrences,
) -> None:
    groups = channels.groups
    for (tensor, axis), classes in touched:
        for number, times in times_on(classes):
            groups[number].places.append((tensor, axis if axis >= 0 else beside(axis), times))
    for side in (1, 0):
        for layer in layers:
            found = channels.layer_axes[layer.op.index][side]
            if found is None:
                continue
            for number, times in times_on(found):
                group = groups[number]
                if layer.kind == "conv":
                    (group.producers if side else group.consumers).append(layer)
                if side and (layer.kind == "conv" or not group.producers):
                    group.width = max(group.width, times)
                elif not side and not group.producers and group.width == 0:
                    group.width = times
    for group in groups:
        frozen_together = not group.free
        group.multiple = 1 if frozen_together else max(1, group.width // len(group.classes))


class _Occurrences:
    """How often each group occurs on an axis, group by group; one array of classes is counted once."""

    def __init__(self, group_of_class: Ids) -> None:
        self.group_of_class = group_of_class
        self.known: dict[
            int, tuple[Ids, list[tuple[int, int]]]
        ] = {}  # by the array's identity, which is held

    def __call__(self, classes: Ids) -> list[tuple[int, int]]:
        if id(classes) not in self.known:
            self.known[id(classes)] = classes, self._counted(self.group_of_class[classes])
        return self.known[id(classes)][1]

    @staticmethod
    def _counted(numbers: Ids) -> list[tuple[int, int]]:
        if (numbers == numbers[:1]).all():  # as on most axes
            return [(number, len(numbers)) for number in numbers[:1].tolist() if number >= 0]
        found, times = np.unique(numbers[numbers >= 0], return_counts=True)
        return list(zip(found.tolist(), times.tolist(), strict=True))


def _join_sizes(channels: Channels, layers: list[Layer], carried: _Carried, times_on: _Occurrences) -> None:
    """Groups that make up an output axis of one layer are one size."""
    left, right = list[int](), list[int]()
    for layer in layers:
        for axis in made_axes(channels.units, layer) if layer.kind == "conv" else ():
            classes = carried.on(axis)
            found = [] if classes is None else times_on(classes)
            free = [number for number, _ in found if channels.groups[number].free]
            left += free[:-1]
            right += free[1:]
    _, sizes = components(np.array(left, np.int64), np.array(right, np.int64), len(channels.groups))
    for group, size in zip(channels.groups, sizes.tolist(), strict=True):
        group.size = f"s{size}"
