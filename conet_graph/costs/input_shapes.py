"""Counting a network whose height and width are free: at sizes of its inputs that are named or assumed.

Only what is counted, measured and run changes with them; the file keeps its free sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from conet_graph.costs.cost import Cost, cost
from conet_graph.ir.check import check_model
from conet_graph.ir.errors import BadUsage, InvalidModel, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import STRUCTURE
from conet_graph.passes.base import PassManager

InputShapes = Mapping[str, Sequence[int]]

# Sides to count at where nothing is named: a classifier's, then a detector's, one for small networks, one for
# audio. Multiply-accumulates of a convolutional network grow with the area, so that shares stay the same.
SIDES = (224, 256, 512, 32, 16000)


@dataclass(frozen=True)
class Counting:
    """At what sizes of its free inputs a network is counted; none where no size is free."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    # Whether nobody named them.
    assumed: bool = False

    def said(self) -> str:
        """As in 'x=1,3,224,224'."""
        return " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in self.shapes.items())

    def require_share(self, macs: float | None) -> None:
        """Refuse a number of MACs where the size they are counted at is assumed: only a share holds at any.

        Raises:
            BadUsage: it is a number.

        """
        if self.assumed and macs is not None and macs > 1:
            raise BadUsage(
                f"{macs:.4g} MACs depend on the size of the inputs, which is free: name it by --input-shape,"
                " or ask for a share, as in 0.5."
            )

    def structure(self, loaded: LoadedModel) -> Graph:
        """The network's layers and shapes at these sizes; the model itself keeps its own.

        Raises:
            InvalidModel: it has no such shapes.

        """
        graph = Graph.of(check_model(loaded))
        for value in graph.skeleton.graph.input:
            for dim, size in zip(_dims(value), self.shapes.get(value.name, ()), strict=False):
                dim.dim_value = size
        return PassManager(STRUCTURE).run(graph)

    def cost(self, loaded: LoadedModel) -> Cost:
        """What a model costs at these sizes."""
        return cost(self.structure(loaded))

    def of(self, graph: Graph) -> Graph:
        """An analysed graph with all its shapes at these sizes, for counting alone."""
        if not self.shapes:
            return graph
        sized = copy.copy(graph)
        sized.shapes = {**graph.shapes, **self.structure(graph.loaded).shapes}
        return sized


def named_shapes(entries: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes from texts like 'x=1,3,48,192', or '1,3,48,192' for the only input, whose name is then ''.

    Raises:
        BadUsage: one is no shape, or an input is named twice.

    """
    found: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        name, _, sizes = entry.rpartition("=")
        parts = sizes.replace("x", ",").split(",")
        if not all(part.strip().isdecimal() for part in parts) or name in found:
            raise BadUsage(f"--input-shape {shown(entry)} is not NAME=1,3,48,192, each input once.")
        found[name] = tuple(int(part) for part in parts)
    return found


def fed_shapes(graph: Graph, sizes: InputShapes) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with a free size as they are fed, for one image; none where no size is free."""
    found = {}
    for value in _inputs(graph):
        dims, fed = _dims(value), sizes.get(value.name, ())
        if len(fed) == len(dims) and any(dim.dim_value <= 0 for dim in dims[1:]):
            found[value.name] = (max(dims[0].dim_value, 1), *fed[1:])
    return found


def counting(graph: Graph, named: InputShapes | None = None) -> Counting:
    """At what sizes to count a network.

    Args:
        graph: an analysed graph.
        named: shapes by the name of the input; '' is the only input.

    Raises:
        BadUsage: there is no such input, or its shape contradicts the file's.

    """
    given = _checked(graph, named or {})
    if not cost(graph).uncounted and not given:
        return Counting()
    free = any(not dim.dim_value for v in _inputs(graph) if v.name not in given for dim in list(_dims(v))[1:])
    if not free:
        return Counting(_filled(graph, given, 1))
    best, fewest = Counting(), 1 << 62
    for side in SIDES:
        tried = Counting(_filled(graph, given, side), assumed=True)
        try:
            found = tried.cost(graph.loaded)
        except InvalidModel:
            continue
        # Nothing is left for a layer where a window before it is larger than the image.
        unknown = len(found.uncounted) + sum(layer.macs == 0 for layer in found.layers.values())
        if unknown < fewest:
            best, fewest = tried, unknown
        if not unknown:
            break
    return best


def _inputs(graph: Graph) -> list[onnx.ValueInfoProto]:
    """Inputs that are fed, and whose number of axes is known."""
    return [v for v in graph.skeleton.graph.input if v.name not in graph.constants and _dims(v)]


def _dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _checked(graph: Graph, named: InputShapes) -> dict[str, tuple[int, ...]]:
    """Named shapes, each fitting what the file says of its input."""
    inputs = {v.name: v for v in graph.skeleton.graph.input if v.name not in graph.constants}
    known = ", ".join(shown(name) for name in inputs)
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in named.items():
        name = next(iter(inputs)) if name == "" and len(inputs) == 1 else name
        if name not in inputs:
            raise BadUsage(f"--input-shape names no input {shown(name)}: the network has {known}.")
        dims = _dims(inputs[name])
        own = ",".join(d.dim_param or (str(d.dim_value) if d.dim_value > 0 else "?") for d in dims)
        fits = all(d.dim_value <= 0 or d.dim_value == size for d, size in zip(dims, shape, strict=False))
        if dims and (len(dims) != len(shape) or not fits):
            asked = ",".join(map(str, shape))
            raise BadUsage(f"--input-shape {asked} does not fit input {shown(name)}, which is {own}.")
        if any(size < 1 for size in shape):
            raise BadUsage(f"--input-shape of {shown(name)} has a size under 1.")
        found[name] = tuple(shape)
    return found


def _filled(graph: Graph, given: dict[str, tuple[int, ...]], side: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all inputs with a free size: as given, sizes of one name alike, a batch of 1, or ``side``."""
    sizes = {
        name: size
        for value in _inputs(graph)
        for name, size in zip(_names(value), given.get(value.name, ()), strict=False)
    }
    found = dict(given)
    for value in _inputs(graph):
        dims, names = _dims(value), _names(value)
        if value.name not in given and any(dim.dim_value <= 0 for dim in dims):
            found[value.name] = tuple(
                dim.dim_value
                if dim.dim_value > 0
                else sizes.setdefault(names[axis], 1 if axis == 0 else side)
                for axis, dim in enumerate(dims)
            )
    return found


def _names(value: onnx.ValueInfoProto) -> list[str]:
    """What an input's sizes are called; one that is called as another of the same input ('?') has no name."""
    names = [dim.dim_param for dim in _dims(value)]
    return [
        name if name and names.count(name) == 1 else f"{value.name} {axis}" for axis, name in enumerate(names)
    ]
