"""A network as a PyTorch module, and its weights back in the graph."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import fx, nn

from conet_graph.bridge.batch.check import Finding, compare
from conet_graph.bridge.batch.inputs import for_one_image, input_batches
from conet_graph.bridge.batch.report import KEY, Batches, BatchWarning, batches
from conet_graph.bridge.building import built, paths_of, tensors_of
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import structured
from conet_graph.passes.widths.rewidth import with_constants
from conet_graph.rewriting.rewriting import in_place_of


def to_torch(model: LoadedModel, *, check: bool = True) -> fx.GraphModule:
    """Make a PyTorch module of a network.

    It takes the graph's inputs in their order, in float32 where the file has half floats, and gives the
    graph's output, or a tuple where there are several. It takes any batch, also of a file for one image: each
    image comes out as it does alone, and the images lie one after another along the axis of each output that
    counts them. Where that cannot be, a ``BatchWarning`` says why, and the module raises on another batch
    than the file's; ``batches(module)`` tells what it takes.

    Every float constant of more than one number is a Parameter, but for running statistics and what
    prepares the inputs (a mean subtracted from the image), which are buffers; a weight that several
    operators read is one Parameter. Vectors that an exporter stored once for several operators are
    parameters of their own.

    Args:
        model: the network; left as it is.
        check: run the module once on three images beside ONNX Runtime on each of them. Networks of more than
            2e10 multiply-accumulates, and those that draw random numbers, are never run.

    Raises:
        InvalidModel: the model breaks an invariant.
        Refused: operators have no form in PyTorch; all of them are named.

    """
    graph = structured(model)
    held = input_batches(graph)
    module = built(graph, held)
    if not check:
        return module
    found = compare(model, graph, module, held)
    if found.fault and held:
        module = built(graph, held, found.fault)
        only = batches(module).only
        warnings.warn(f"The module takes a batch of {only} only: {found.fault}.", BatchWarning, stacklevel=2)
        found = compare(model, graph, module, held)
    elif found.fault:
        module, found = _for_one_image(model, graph, module, found)
    if found.mixed:
        warnings.warn(MIXED, BatchWarning, stacklevel=2)
    module.meta[KEY] = replace(batches(module), checked=found.checked)
    return module


MIXED = (
    "The file leaves the batch free, but ONNX Runtime gives the images of a batch otherwise than each alone:"
    " the module follows the file."
)


def _for_one_image(
    model: LoadedModel, graph: Graph, module: fx.GraphModule, found: Finding
) -> tuple[fx.GraphModule, Finding]:
    """A file that leaves the batch free and runs with one image only, as a file for one image."""
    single = for_one_image(model)
    inner = structured(single)
    held = input_batches(inner)
    if held is None:
        return module, found
    made = built(inner, held)
    known = paths_of(made)
    if any(n not in graph.constants or graph.constants[n].dims != inner.constants[n].dims for n in known):
        return module, found
    seen = compare(single, inner, made, held)
    return (module, found) if seen.fault else (made, seen)


def trainable(model: LoadedModel) -> fx.GraphModule:
    """Make a module to train, on batches of any size.

    Raises:
        InvalidModel: the model breaks an invariant.
        Refused: operators have no form in PyTorch, or the module takes the file's own batch only.

    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", BatchWarning)
        module = to_torch(model)
    taken: Batches = batches(module)
    if taken.only is not None:
        raise Refused(f"The network cannot be trained in batches, only {taken.only} at a time: {taken.why}.")
    for warning in told:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return module


def weights_by_name(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors by the names that they have in the graph, detached, in the ONNX layout.

    Raises:
        BadUsage: the module was not made by ``to_torch``.

    """
    tensors = tensors_of(module)
    return {name: tensors[path].detach() for name, path in paths_of(module).items()}


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
