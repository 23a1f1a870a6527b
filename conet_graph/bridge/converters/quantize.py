"""Quantisers, computed on floats: what a network trained with them would see (ONNX operator specs)."""

from __future__ import annotations

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}


def along(values: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """One value a position of an axis of ``x``, shaped to broadcast with it."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def _axis(site: Site) -> int:
    if int(site.attr("block_size", 0)):
        raise NotConverted("is quantised in blocks")
    return int(site.attr("axis", 1))


@handles(CONVERTERS, "QuantizeLinear")
def quantize(site: Site) -> fx.Node:
    """To whole steps, kept as floats."""
    graph, zero = site.builder.graph, site.op.input(2)
    held = graph.constants[zero].tensor.data_type if zero in graph.constants else graph.dtypes.get(zero, 2)
    kind = int(site.attr("output_dtype", 0)) or held
    if kind not in _RANGES:
        raise NotConverted(f"quantises to the element type {kind}")
    return site.call(quantized, site.x(0), site.x(1), site.x(2), _axis(site), *_RANGES[kind])


def quantized(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, axis: int, low: int, high: int
) -> torch.Tensor:
    """QuantizeLinear; the whole numbers stay floats, so that what follows can be computed anywhere."""
    steps = (x / along(scale, x, axis)).round()
    if zero is not None:
        steps = steps + along(zero.to(x.dtype), x, axis)
    return steps.clamp(low, high)


@handles(CONVERTERS, "DequantizeLinear")
def dequantize(site: Site) -> fx.Node:
    """From whole steps to numbers."""
    return site.call(dequantized, site.x(0), site.x(1), site.x(2), _axis(site))


def dequantized(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, axis: int) -> torch.Tensor:
    """DequantizeLinear."""
    steps = x.to(scale.dtype)
    if zero is not None:
        steps = steps - along(zero.to(scale.dtype), steps, axis)
    return steps * along(scale, steps, axis)
