"""Normalisations, softmax and dropout (ONNX operator specs)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT

CONVERTERS: Table = {}


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of inputs of any rank from two on."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm needs at least two axes, the input has {input.dim()}")


@handles(CONVERTERS, "BatchNormalization")
def batch_norm(site: Site) -> fx.Node:
    """A module that keeps statistics when it trains; ONNX's momentum is one minus PyTorch's."""
    if any(site.uses(k) for k in (1, 2, 3, 4)):
        raise NotConverted("gives its statistics as outputs")
    if site.version < 9 and not site.attr("spatial", 1):
        raise NotConverted("has statistics for each position (spatial = 0)")
    epsilon, momentum = float(site.attr("epsilon", 1e-5)), 1 - float(site.attr("momentum", 0.9))
    if site.attr("training_mode", 0):
        # Standardised weights: the statistics are always those of the input itself.
        return site.call(
            functional.batch_norm, site.x(0), None, None, site.x(1), site.x(2), True, 0.0, epsilon
        )
    if not (site.is_constant(3) and site.is_constant(4)):
        return site.call(normalised_by, *(site.x(slot) for slot in range(5)), epsilon)
    affine = site.is_constant(1) and site.is_constant(2)
    channels = site.builder.graph.constants[site.op.input(3)].dims[0]
    module = BatchNorm(channels, epsilon, momentum, affine)
    if affine:
        return site.module(module, site.x(0), weight=1, bias=2, running_mean=3, running_var=4)
    normalised = site.module(module, site.x(0), running_mean=3, running_var=4)
    return site.call(scaled, normalised, site.x(1), site.x(2))


def normalised_by(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """Batch normalisation by statistics that are computed; gradients go into them too."""
    factor = scale * torch.rsqrt(variance + epsilon)
    return scaled(x, factor, bias - mean * factor)


def scaled(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The input [N, C, ...] times a number for each channel, plus another."""
    shape = (-1, *[1] * (x.dim() - 2))
    return x * scale.reshape(shape) + bias.reshape(shape)


@handles(CONVERTERS, "InstanceNormalization")
def instance_norm(site: Site) -> fx.Node:
    """Over the positions of each channel of each image."""
    epsilon = float(site.attr("epsilon", 1e-5))
    return site.call(normalised_images, site.x(0), site.x(1), site.x(2), epsilon)


def normalised_images(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Instance normalisation, also of a single position, which ``torch.nn.functional`` refuses."""
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, epsilon, True)


@handles(CONVERTERS, "LayerNormalization")
def layer_norm(site: Site) -> Converted:
    """Over all axes from ``axis`` on."""
    rank = site.rank(0)
    start = int(site.attr("axis", -1)) % rank
    if site.uses(1) or site.uses(2):
        raise NotConverted("gives its statistics as outputs")
    epsilon = float(site.attr("epsilon", 1e-5))
    return site.call(normalised_layer, site.x(0), site.x(1), site.x(2), start, epsilon)


def normalised_layer(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, start: int, epsilon: float
) -> torch.Tensor:
    """Layer normalisation; scale and bias may be of fewer axes than are normalised over."""
    shape = x.shape[start:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    made = functional.layer_norm(x, shape, eps=epsilon) * scale
    return made if bias is None else made + bias


@handles(CONVERTERS, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(site: Site) -> Converted:
    """Of a sum of two maps and a bias, over the last axis; the fourth output is the sum."""
    if site.uses(1) or site.uses(2):
        raise NotConverted("gives its statistics as outputs")
    simplified = site.op.op_type == "SkipSimplifiedLayerNormalization"
    summed, bias = site.call(torch.add, site.x(0), site.x(1)), 3 if simplified else 4
    if site.has(bias):
        summed = site.call(torch.add, summed, site.x(bias))
    start, epsilon = site.rank(0) - 1, float(site.attr("epsilon", 1e-12))
    if simplified:
        made = site.call(normalised_rms, summed, site.x(2), start, epsilon)
    else:
        made = site.call(normalised_layer, summed, site.x(2), site.x(3), start, epsilon)
    return (made, None, None, summed)[: len(site.op.outputs)]


@handles(CONVERTERS, "RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(site: Site) -> fx.Node:
    """As layer normalisation, without mean and bias."""
    start = int(site.attr("axis", -1)) % site.rank(0)
    return site.call(normalised_rms, site.x(0), site.x(1), start, float(site.attr("epsilon", 1e-5)))


def normalised_rms(x: torch.Tensor, scale: torch.Tensor, start: int, epsilon: float) -> torch.Tensor:
    """The input over its root mean square over all axes from ``start`` on."""
    return functional.rms_norm(x, x.shape[start:], eps=epsilon) * scale


@handles(CONVERTERS, "GroupNormalization")
def group_norm(site: Site) -> fx.Node:
    """Over groups of channels; scale and bias are one a channel, before version 21 one a group."""
    groups, epsilon = int(site.attr("num_groups")), float(site.attr("epsilon", 1e-5))
    norm = torch.group_norm if site.version >= 21 else scaled_by_group
    return site.call(norm, site.x(0), groups, site.x(1), site.x(2), epsilon)


def scaled_by_group(
    x: torch.Tensor, groups: int, scale: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Group normalisation with a scale and a bias for each group, as opsets 18 to 20 have it."""
    each = x.shape[1] // groups
    scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return torch.group_norm(x, groups, scale, bias, epsilon)


@handles(CONVERTERS, "LRN")
def lrn(site: Site) -> fx.Node:
    """Local response normalisation across channels."""
    size, alpha, beta = (
        int(site.attr("size")),
        float(site.attr("alpha", 1e-4)),
        float(site.attr("beta", 0.75)),
    )
    return site.call(local_response, site.x(0), size, alpha, beta, float(site.attr("bias", 1.0)))


def local_response(x: torch.Tensor, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """LRN of the ONNX spec: of an even window the larger half lies behind the channel."""
    squares = x.square().flatten(2).unsqueeze(1)
    before, after = (size - 1) // 2, size // 2
    summed = functional.avg_pool3d(
        functional.pad(squares.unsqueeze(-1), (0, 0, 0, 0, before, after)), (size, 1, 1), 1
    )
    return x / (bias + alpha * summed.reshape(x.shape)).pow(beta)


@handles(CONVERTERS, "LpNormalization")
def lp_normalization(site: Site) -> fx.Node:
    """Over the length along one axis."""
    return site.call(unit_length, site.x(0), int(site.attr("p", 2)), int(site.attr("axis", -1)))


def unit_length(x: torch.Tensor, p: int, axis: int) -> torch.Tensor:
    """The input over its p-norm along an axis; zero where that is zero."""
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


@handles(CONVERTERS, "MeanVarianceNormalization")
def mean_variance(site: Site) -> fx.Node:
    """Zero mean and unit variance over some axes."""
    return site.call(standardised, site.x(0), tuple(site.attr("axes", [0, 2, 3])))


def standardised(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The input less its mean, over its standard deviation (ONNX function body: plus 1e-9)."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@handles(CONVERTERS, "Softmax", "LogSoftmax", "Hardmax")
def softmax(site: Site) -> fx.Node:
    """Along one axis; before version 13 over all axes from that one on."""
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "Softmax": torch.softmax,
        "LogSoftmax": torch.log_softmax,
        "Hardmax": hardmax,
    }
    function = functions[site.op.op_type]
    if site.version >= 13:
        return site.call(function, site.x(0), int(site.attr("axis", -1)))
    rank = site.rank(0)
    axis = int(site.attr("axis", 1)) % max(rank, 1)
    if axis == rank - 1:
        return site.call(function, site.x(0), axis)
    flat = site.call(function, site.call(torch.flatten, site.x(0), axis), axis)
    return site.call(torch.Tensor.view_as, flat, site.x(0))


def hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """One at the first largest position, else zero."""
    best = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


@handles(CONVERTERS, "Dropout")
def dropout(site: Site) -> Converted:
    """A module that drops only when it trains; exported networks mostly have none left."""
    if site.uses(1):
        raise NotConverted("gives its mask as an output")
    ratio = site.attr("ratio", 0.5) if site.version < 12 else (site.numbers(1) or [0.5])[0]
    return site.module(nn.Dropout(float(ratio)), site.x(0))
