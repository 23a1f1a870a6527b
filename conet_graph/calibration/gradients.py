"""How far the outputs move without a channel, by gradients; no labels are needed, PyTorch is.

The distance between the outputs and the original's own is zero at the original, and so is its gradient: it is
the curvature that tells channels apart. With signs v drawn for the outputs, gradients of v * outputs give it:

    taylor:  E[(sum of weight * gradient over a channel's weights)^2], the squared change of the outputs to
             first order when the channel goes (after Molchanov et al., Importance estimation, 2019);
    hessian: the sum of E[(weight * gradient)^2], the diagonal of the Gauss-Newton matrix (after LeCun et al.,
             Optimal brain damage, 1990).

A channel's weights are those that read it. Scores are in units of the outputs' variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.forms import form_of
from conet_graph.calibration.judged import judged_values
from conet_graph.calibration.output_error import asked
from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.stages import Feeds, plain
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import with_constants

GRADIENTS = ("taylor", "hessian")
# Draws of signs for each run; signs of different samples are independent, so that they need no runs apart.
DRAWS = 4
# Runs that are looked at.
MOST_FEEDS = 16


def sensitivities(graph: Graph, feeds: Feeds, how: str) -> Doubles:
    """A score for each class of channels: how far the outputs move without it.

    Args:
        graph: analysed.
        feeds: calibration inputs.
        how: one of ``GRADIENTS``.

    Raises:
        Refused: an operator of the network has no form in PyTorch.

    """
    import torch

    from conet_graph.bridge import to_torch
    from conet_graph.bridge.building import paths_of, tensors_of

    axes = judged_values(graph)
    model = asked(with_constants(graph, {}), list(axes))
    module = to_torch(LoadedModel(model, graph.loaded.path, graph.loaded.external), check=False).eval()
    names, tensors = paths_of(module), tensors_of(module)
    layers = [
        (layer, tensors[names[name]])
        for layer in graph.result(LAYERS)
        if layer.kind == "conv" and (name := layer.op.input(layer.weight_slot)) in names
    ]
    weights = [tensor for _, tensor in layers if tensor.requires_grad]
    read = [layer for layer, tensor in layers if tensor.requires_grad]
    scores = np.zeros(len(graph.result(CHANNELS).units.frozen_class))
    feeds, draws = feeds[:MOST_FEEDS], torch.Generator().manual_seed(0)
    order = [v.name for v in graph.skeleton.graph.input if v.name in feeds[0]]
    held = [[torch.from_numpy(np.ascontiguousarray(plain(feed[n]))) for n in order] for feed in feeds]
    scales = _scales(module, held, list(axes.values()))
    samples = sum(len(inputs[0]) for inputs in held)
    for inputs in held:
        outputs = _centred(module(*inputs), list(axes.values()))
        for draw in range(DRAWS):
            total = sum(
                (output * (torch.randint(0, 2, output.shape, generator=draws) * 2 - 1)).sum() * scale
                for output, scale in zip(outputs, scales, strict=True)
            )
            found = torch.autograd.grad(
                total,
                weights,
                retain_graph=draw < DRAWS - 1,
                allow_unused=True,
            )
            for layer, gradient in zip(read, found, strict=True):
                if gradient is not None:
                    _add(scores, graph, layer, gradient.detach().numpy(), how)
    return scores / (DRAWS * samples)


def _add(scores: Doubles, graph: Graph, layer: Layer, gradient: NDArray[Any], how: str) -> None:
    """Add what one gradient says of the channels that a layer reads."""
    weight = value_of(graph, layer.op.input(layer.weight_slot))
    classes = graph.result(CHANNELS).layer_axes[layer.op.index][0]
    form = None if weight is None or classes is None else form_of(graph, layer, weight)
    if form is None or weight is None or classes is None or gradient.shape != weight.shape:
        return
    moved = (form.matrix(weight) * form.matrix(gradient)).astype(np.float64)  # [b, F, O]
    index: Ids = np.repeat(classes.reshape(form.blocks, -1), form.per_channel, axis=1).reshape(-1)
    table = moved.reshape(-1, moved.shape[2])
    if len(table) != len(index):
        return
    known: NDArray[np.bool_] = index >= 0
    if how == "hessian":
        np.add.at(scores, index[known], np.square(table[known]).sum(1))
        return
    change = np.zeros(len(scores))
    np.add.at(change, index[known], table[known].sum(1))
    scores += np.square(change)


def _centred(outputs: Any, axes: list[int | None]) -> list[Any]:
    """The outputs of a module as a list, those before a softmax without what it does not see."""
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    return [
        output if axis is None else output - output.mean(axis, keepdim=True)
        for output, axis in zip(outputs, axes, strict=True)
    ]


def _scales(module: Any, held: list[list[Any]], axes: list[int | None]) -> list[float]:
    """For each output what makes the variance of a sample's entries add up to one, over all outputs."""
    import torch

    with torch.no_grad():
        runs = [_centred(module(*inputs), axes) for inputs in held]
    spreads = [float(torch.cat(parts).double().var(0).sum()) for parts in zip(*runs, strict=True)]
    count = sum(spread > 0 for spread in spreads)
    return [(1 / (spread * count)) ** 0.5 if spread > 0 else 0.0 for spread in spreads]
