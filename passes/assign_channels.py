"""The paper's Algorithm 1 in its terms: the unique channel sizes of every feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conet_graph.ir.graph import Graph, Result
from conet_graph.ir.operators import CONVOLUTIONS, channel_axis
from conet_graph.passes.channels.labels import in_copies, runs
from conet_graph.passes.channels.units import Axis, Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.tie_channels import CHANNELS

# Of each feature map: the names of its channel sizes, in order.
SIZES: Result[dict[str, list[str]]] = Result("sizes", "assign_channels")


@dataclass(frozen=True)
class AssignChannels:
    """Name the channel sizes of every feature map, in ``SIZES``.

    Algorithm 1 of the paper numbers sizes by propagating forward and back over the DAG: a conv
    edge gives its output a new size, a non-conv edge passes its input's size on, a summation makes
    its inbound sizes equal (also those given out before), a concatenation has the sizes of its
    inbound edges in a row. Here the equations are already solved, and this is a view of the
    solution: it cannot disagree with it.

    A size is named ``s0``, ``s1``, ... as its groups are. A feature map that holds each channel of
    a size several times over (a depthwise multiplier, a flattened map) has ``2*s0``, a piece of a
    size ``s0/2``. A fixed depth without a name, such as the network's input, stands as its number.
    """

    name: ClassVar[str] = "assign_channels"

    def run(self, graph: Graph) -> None:
        """Promise ``SIZES``: for each feature map, in order, the list of its sizes."""
        graph.promise(SIZES, lambda: _View(graph).all_sizes())


class _View:
    """Reads the names of sizes off the solved axes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels = graph.result(CHANNELS)
        names = list(dict.fromkeys(group.size for group in self.channels.groups))
        number = {name: k for k, name in enumerate(names)}
        self.names = names
        self.widths = [0] * len(names)
        of_group = np.full(len(self.channels.groups) + 1, -1, np.int64)
        for k, group in enumerate(self.channels.groups):
            of_group[k] = number[group.size]
            self.widths[number[group.size]] += group.width
        # Classes without a group hold -1, which picks the last entry.
        self.of_class: Ids = of_group[self.channels.group_of_class]
        self.depths = self._fixed_depths()
        self._spelled: dict[int, list[str]] = {}

    def all_sizes(self) -> dict[str, list[str]]:
        """The sizes of each feature map."""
        weights = self.graph.derived
        values = self.channels.units.values
        return {name: self.sizes(name, axes) for name, axes in values.items() if name not in weights}

    def _fixed_depths(self) -> dict[str, int]:
        """Depths that carry no units, as the layers on both sides know them."""
        depths: dict[str, int] = {}
        layers: list[Layer] = self.graph.result(LAYERS)
        for layer in layers:
            if layer.op.op_type not in CONVOLUTIONS:
                continue
            for value in (layer.op.input(layer.data_slot), layer.op.outputs[0]):
                shape = self.graph.shape(value)
                depth = shape[channel_axis(layer.op, len(shape))] if shape and len(shape) > 1 else None
                if isinstance(depth, int):
                    depths[value] = depth
        return depths

    def sizes(self, value: str, axes: list[Axis]) -> list[str]:
        """The sizes that make up the depth of a value, in order."""
        for axis in axes:
            if not isinstance(axis, int):
                found = self._names_along(axis)
                if found:
                    return found
        if value not in self.depths or len(axes) < 2:
            return []
        unit = axes[1]
        key = int(self.of_class[self.channels.units.classes[unit]]) if isinstance(unit, int) else -1
        return [self.names[key] if key >= 0 else str(self.depths[value])]

    def _names_along(self, axis: Ids) -> list[str]:
        # Non-conv operators pass the same array on: spell it once.
        if id(axis) not in self._spelled:
            classes = self.channels.units.classes[axis]
            found: list[str] = []
            for run in runs(self.of_class[classes], classes):
                if run.key >= 0:
                    found += in_copies(self.names[run.key], self.widths[run.key], run.classes)
                else:
                    found.append(str(len(run.classes)))
            named = (self.of_class[classes] >= 0).any()
            self._spelled[id(axis)] = found if named else []
        return self._spelled[id(axis)]
