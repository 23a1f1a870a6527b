"""A network as a PyTorch module, and its weights back in the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from conet_graph.bridge.builder import Builder
from conet_graph.bridge.converters import CONVERTERS
from conet_graph.bridge.placement import place_values
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.bridge.upstream import convert_upstream
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import structured
from conet_graph.passes.widths.rewidth import with_constants
from conet_graph.rewriting.rewriting import in_place_of

# Where a module keeps which of its tensors holds which constant of the graph.
_PATHS = "conet_graph.paths"
# Operators named in a refusal.
SHOWN = 5


def to_torch(model: LoadedModel) -> fx.GraphModule:
    """Make a PyTorch module of a network.

    It takes the graph's inputs in their order, in float32 where the file has half floats, for any
    batch size, and gives the graph's output, or a tuple where there are several. Every float constant
    of more than one number is a Parameter, but for running statistics and what prepares the inputs
    (a mean subtracted from the image), which are buffers; a weight that several operators read is one
    Parameter. Vectors that an exporter stored once for several operators are parameters of their own.

    Raises:
        InvalidModel: the model breaks an invariant.
        Refused: operators have no form in PyTorch; all of them are named.

    """
    graph = structured(model)
    builder = Builder(graph)
    for number, name in enumerate(graph.inputs, 1):
        builder.values[name] = builder.code.placeholder(f"input_{number}")
    refusals: list[str] = []
    for op in graph.operators:
        try:
            _convert(builder, op)
        except NotConverted as reason:
            refusals.append(f"{op.op_type}-{op.version} (node {shown(op.name)}) {reason}")
            # The rest is looked at too: one answer names all that is missing.
            builder.values.update((name, builder.code.placeholder("missing")) for name in op.outputs if name)
    if refusals:
        more = f" and {len(refusals) - SHOWN} more" if len(refusals) > SHOWN else ""
        raise Refused(f"The network has no form in PyTorch: {'; '.join(refusals[:SHOWN])}{more}.")
    outputs = tuple(builder.value(name) for name in graph.outputs)
    builder.code.output(outputs[0] if len(outputs) == 1 else outputs)
    place_values(builder.root, builder.code)
    # Statistics that a BatchNorm takes of its own input are computed in the file nevertheless.
    builder.code.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    module = fx.GraphModule(builder.root, builder.code)
    held = _tensors(module)
    module.meta[_PATHS] = {name: path for name, path in builder.paths.items() if path in held}
    return module


def _convert(builder: Builder, op: Operator) -> None:
    """Enter an operator's outputs into the code."""
    if op.subgraphs():
        raise NotConverted("runs a sub-graph")
    convert = CONVERTERS.get((op.domain, op.op_type), convert_upstream)
    made = convert(Site(builder, op))
    parts = made if isinstance(made, tuple) else (made,)
    for name, part in zip(op.outputs, parts, strict=False):
        if name and part is not None:
            builder.values[name] = part


def weights_by_name(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors by the names that they have in the graph, detached, in the ONNX layout.

    Raises:
        BadUsage: the module was not made by ``to_torch``.

    """
    meta = getattr(module, "meta", None)
    if not isinstance(meta, dict) or _PATHS not in meta:
        raise BadUsage("This module was not made by to_torch: its weights have no places in a graph.")
    tensors = _tensors(module)
    return {name: tensors[path].detach() for name, path in meta[_PATHS].items()}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their paths."""
    tensors: dict[str, torch.Tensor] = dict(module.named_buffers(remove_duplicate=False))
    tensors.update(module.named_parameters(remove_duplicate=False))
    return tensors


def from_torch(module: nn.Module, model: LoadedModel) -> LoadedModel:
    """Write a module's weights into the graph's own initializers; everything else stays as it was.

    Args:
        module: made by ``to_torch`` from this model (not compiled, not wrapped).
        model: the model; it is not changed.

    Raises:
        BadUsage: the module belongs to another model.

    """
    graph = structured(model)
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for name, tensor in weights_by_name(module).items():
        constant = graph.constants.get(name)
        if constant is None or constant.dims != tuple(tensor.shape):
            raise BadUsage(f"The module's tensor {shown(name)} has no place in this model: it is another's.")
        old = graph.array(name)
        new = tensor.cpu().numpy().astype(old.dtype)
        if not np.array_equal(new, old, equal_nan=True):
            arrays[name] = new
    return in_place_of(model, with_constants(graph, arrays))
