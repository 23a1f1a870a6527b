"""Costs on inputs of the calibration's sizes, where the file leaves sizes free."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS

Sizes = Mapping[str, tuple[int, ...]]


def costs_at(graph: Graph, sizes: Sizes) -> CostModel | None:
    """The costs of a network on inputs of such sizes; None where the file tells them."""
    sized = sized_graph(graph, sizes)
    return None if sized is None else CostModel(sized)


def sized_graph(graph: Graph, sizes: Sizes) -> Graph | None:
    """The network with free sizes filled in; None where none are free, or its groups would be others."""
    model = sized_model(graph.loaded.proto, sizes)
    if model is None:
        return None
    free_kept = graph.result(CHANNELS).units.free_kept
    made = analysed(LoadedModel(model, graph.loaded.path, graph.loaded.external), free_kept=free_kept)
    mine, theirs = graph.result(CHANNELS).groups, made.result(CHANNELS).groups
    same = len(mine) == len(theirs) and all(
        a.width == b.width and a.multiple == b.multiple for a, b in zip(mine, theirs, strict=True)
    )
    return made if same else None


def sized_model(model: onnx.ModelProto, sizes: Sizes) -> onnx.ModelProto | None:
    """A model with the free sizes of its inputs filled in, the batch left as it is; None where none are."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    changed = False
    for value in made.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, size in enumerate(sizes.get(value.name, ())):
            if axis and axis < len(dims) and not dims[axis].dim_value:
                dims[axis].dim_value, changed = size, True
    if not changed:
        return None
    del made.graph.value_info[:]
    for value in made.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_param":
                dim.Clear()
    return made
