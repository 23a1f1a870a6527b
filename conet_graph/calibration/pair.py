"""A network and its narrowed form, run side by side: what reaches each layer, and what it is to put out."""

from __future__ import annotations

import numpy as np
import onnx

from conet_graph.calibration.forms import Form, form_of
from conet_graph.calibration.places import Meeting, meeting, through_norm
from conet_graph.calibration.rectified import Bounds, bounds_behind
from conet_graph.calibration.stages import Array, Feeds, Stages
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import RECURRENT
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.passes.widths.relabel import old_positions
from conet_graph.passes.widths.rewidth import Layout, with_constants


class Pair:
    """The original (``old``) and the narrowed network (``new``), both in stages, on the same inputs."""

    def __init__(self, graph: Graph, layout: Layout, model: onnx.ModelProto, feeds: Feeds) -> None:
        """Cut both at their layers.

        Args:
            graph: the analysed original.
            layout: of the narrowed network.
            model: the narrowed network.
            feeds: inputs, a dict for each run.

        """
        self.graph, self.layout = graph, layout
        layers: list[Layer] = graph.result(LAYERS)
        starts = [layer.op.index for layer in layers]
        self.meetings = {layer.op.index: meeting(graph, layer) for layer in layers}
        wanted = [
            value for layer in layers for value in (layer.op.input(layer.data_slot), layer.op.outputs[0])
        ]
        self.partners = _partners(layers, self.meetings)
        self.paired = {*self.partners, *(first.op.index for first in self.partners.values())}
        sums = {m.total for m in self.meetings.values() if m is not None}
        held = [first.op.input(first.data_slot) for first in self.partners.values()]
        self.old = Stages(with_constants(graph, {}), starts, feeds, graph.folder, [*wanted, *sums])
        self.new = Stages(model, starts, feeds, graph.folder, [*wanted, *held])
        self.known_places: dict[tuple[str, int], Ids | None] = {}

    def form(self, layer: Layer, weight: Array) -> Form | None:
        """The form of a layer of the narrowed network; None where it has none."""
        return form_of(self.graph, layer, weight, self.new.nodes[layer.op.index])

    def weight_as_it_was(self, layer: Layer) -> Array:
        """The weight of a layer of the original, which its file may compute from constants."""
        weight = value_of(self.graph, layer.op.input(layer.weight_slot))
        assert weight is not None, "a layer whose weight has numbers in the narrowed network has them here"
        return weight.astype(np.float32) if weight.dtype.itemsize == 2 else weight

    def untouched(self, layer: Layer) -> bool:
        """Whether the same reaches a layer as in the original, channels and all."""
        value = layer.op.input(layer.data_slot)
        old, new = self.old.values.get(value), self.new.values.get(value)
        if old is None or new is None:
            return False
        return all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))

    def bounds(self, layer: Layer) -> Bounds | None:
        """What a rectifier behind the layer, or behind the sum it ends in, cuts off."""
        met = self.met(layer)
        if met is None:
            return bounds_behind(self.graph, layer.op.outputs[0])
        return None if met.norm is not None else bounds_behind(self.graph, met.total)

    def met(self, layer: Layer) -> Meeting | None:
        """The sum that a layer ends in, where the other summand is there already."""
        met: Meeting | None = self.meetings[layer.op.index]
        if met is None or met.other not in self.new.values or met.total not in self.old.values:
            return None
        return met

    def input(self, layer: Layer, k: int) -> Array:
        """What reaches a layer; as it was in the original where the way there is still to be fitted."""
        value = layer.op.input(layer.data_slot)
        if value in self.new.values:
            return self.new.values[value][k]
        return self.kept(value, self.old.values[value][k])

    def target(self, layer: Layer, k: int) -> Array:
        """What a layer is to put out in the narrowed network, for one feed."""
        op = layer.op
        if op.op_type in RECURRENT:
            return self._recurrent_target(layer, k)
        plain = self.kept(op.outputs[0], self.old.values[op.outputs[0]][k])
        met = self.met(layer)
        if met is None:
            return plain
        rest: Array = self.total(layer, k) - self.new.values[met.other][k]
        return rest if met.norm is None else through_norm(rest, met.norm, self.new, plain)

    def total(self, layer: Layer, k: int) -> Array:
        """The original's sum that a layer ends in, at the channels that stayed."""
        met: Meeting | None = self.meetings[layer.op.index]
        assert met is not None
        return self.kept(met.total, self.old.values[met.total][k])

    def _recurrent_target(self, layer: Layer, k: int) -> Array:
        op = layer.op
        weight = self.weight_as_it_was(layer)
        made: Array = self.old.values[op.input(layer.data_slot)][k] @ weight.reshape(-1, weight.shape[2]).T
        return made

    def kept(self, value: str, array: Array) -> Array:
        """The channels of an original's value that the narrowed network has, in its order."""
        for axis in range(len(self.layout.labels.values.get(value, []))):
            index = self.places_of(value, axis)
            if index is not None:
                array = np.take(array, index, axis=axis)
        return array

    def places_of(self, value: str, axis: int) -> Ids | None:
        """The old position of each new one on an axis of a value; None where all stay."""
        labels, key = self.layout.labels, (value, axis)
        if key not in self.known_places:
            tokens = labels.values[value][axis] if value in labels.values else 0
            self.known_places[key] = None
            if not isinstance(tokens, int) and not isinstance(labels.units.values[value][axis], int):
                old = labels.old_classes(value, axis)
                index = old_positions(old, labels.labels(tokens))
                if len(index) != len(old) or not np.array_equal(index, np.arange(len(index))):
                    self.known_places[key] = index
        return self.known_places[key]


def _partners(layers: list[Layer], meetings: dict[int, Meeting | None]) -> dict[int, Layer]:
    """The earlier layer that the output of a later one, by its operator's number, is added to, alone."""
    found: dict[int, Layer] = {}
    first_of: dict[str, Layer] = {}
    for layer in layers:
        met = meetings[layer.op.index]
        if met is None:
            continue
        first = first_of.setdefault(met.total, layer)
        if first is not layer:
            found[layer.op.index] = first
    return found
