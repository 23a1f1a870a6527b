"""Pooling (ONNX operator specs, versions 1 to 22)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import fx
from torch.nn import functional

from conet_graph.bridge.padding import auto_pad, explicit_pads, is_even, pad_same, padded, torch_order
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site, torch_dtype
from conet_graph.ir.op_table import enter as converter

CONVERTERS: Table = {}

_MAX: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_MEAN: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}

Window = tuple[list[int], list[int], list[int]]


def _window(site: Site) -> Window:
    """Kernel, strides and dilations."""
    kernel = [int(k) for k in site.attr("kernel_shape")]
    if len(kernel) not in _MAX:
        raise NotConverted(f"has {len(kernel)} spatial axes")
    ones = [1] * len(kernel)
    strides, dilations = site.attr("strides", ones), site.attr("dilations", ones)
    return kernel, [int(s) for s in strides], [int(d) for d in dilations]


def _most(kernel: list[int]) -> list[int]:
    """The largest pads that PyTorch's pooling adds itself: half a window."""
    return [k // 2 for k in kernel]


@converter(CONVERTERS, "MaxPool")
def max_pool(site: Site) -> Converted:
    """The largest value in a window."""
    if site.uses(1):
        raise NotConverted("gives the positions of its maxima as an output")
    kernel, strides, dilations = _window(site)
    lowest = float("-inf")
    kind = site.builder.graph.dtypes.get(site.op.input(0), TensorProto.FLOAT)
    # PyTorch has no maxima of bytes on GPUs; as floats they stay exact.
    byte = torch_dtype(kind) if kind in (TensorProto.UINT8, TensorProto.INT8) else None
    x = site.x(0) if byte is None else site.call(torch.Tensor.float, site.x(0))
    x, pads = padded(site, x, kernel, strides, dilations, value=lowest, most=_most(kernel))
    given = (tuple(kernel), tuple(strides), tuple(pads), tuple(dilations))
    made = site.call(_MAX[len(kernel)], x, *given, ceil_mode=bool(site.attr("ceil_mode", 0)))
    return made if byte is None else site.call(torch.Tensor.to, made, byte)


@converter(CONVERTERS, "AveragePool")
def average_pool(site: Site) -> fx.Node:
    """The mean of a window; padding counts only if it says so."""
    kernel, strides, dilations = _window(site)
    spatial, counts = len(kernel), bool(site.attr("count_include_pad", 0))
    ceil, x = bool(site.attr("ceil_mode", 0)), site.x(0)
    pads = [0] * 2 * spatial if auto_pad(site) == "VALID" else explicit_pads(site, spatial)
    same = auto_pad(site).startswith("SAME")
    if max(dilations) > 1:
        raise NotConverted("averages with dilations")
    window = (tuple(kernel), tuple(strides))
    if same:
        return site.call(mean_same, x, *window, lower=auto_pad(site) == "SAME_LOWER", counts=counts)
    if is_even(pads, _most(kernel)):
        pad = tuple(pads[:spatial])
        return site.call(_MEAN[spatial], x, *window, pad, ceil_mode=ceil, count_include_pad=counts)
    return site.call(mean_padded, x, *window, tuple(torch_order(pads)), ceil=ceil, counts=counts)


def mean_same(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], *, lower: bool, counts: bool
) -> torch.Tensor:
    """The mean of windows under SAME padding."""
    ones = (1,) * len(kernel)

    def pad(value: torch.Tensor) -> torch.Tensor:
        return pad_same(value, kernel, strides, ones, lower=lower, value=0.0)

    return _mean_of_padded(x, pad, kernel, strides, False, counts)


def mean_padded(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    *,
    ceil: bool,
    counts: bool,
) -> torch.Tensor:
    """The mean of windows under pads of any size on each side."""

    def pad(value: torch.Tensor) -> torch.Tensor:
        return functional.pad(value, pads)

    return _mean_of_padded(x, pad, kernel, strides, ceil, counts)


def _mean_of_padded(
    x: torch.Tensor,
    pad: Callable[[torch.Tensor], torch.Tensor],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    ceil: bool,
    counts: bool,
) -> torch.Tensor:
    pool = _MEAN[len(kernel)]
    made = pool(pad(x), kernel, strides, ceil_mode=ceil)
    if counts:
        return made
    # The share of true positions in each window.
    return made / pool(pad(torch.ones_like(x[:1, :1])), kernel, strides, ceil_mode=ceil)


@converter(CONVERTERS, "LpPool")
def lp_pool(site: Site) -> fx.Node:
    """The p-norm of a window: the mean of powers times their number, to the power 1/p."""
    kernel, strides, dilations = _window(site)
    if auto_pad(site) not in ("NOTSET", "VALID") or max(dilations) > 1 or site.attr("ceil_mode", 0):
        raise NotConverted("is an LpPool with SAME padding, dilations or ceil_mode")
    pads = [0] * 2 * len(kernel) if auto_pad(site) == "VALID" else explicit_pads(site, len(kernel))
    given = (int(site.attr("p", 2)), tuple(kernel), tuple(strides), tuple(torch_order(pads)))
    return site.call(norm_pooled, site.x(0), *given)


def norm_pooled(
    x: torch.Tensor, p: int, kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
) -> torch.Tensor:
    """The p-norm of each window."""
    count = torch.Size(kernel).numel()
    return (_MEAN[len(kernel)](functional.pad(x.abs().pow(p), pads), kernel, strides) * count).pow(1 / p)


@converter(CONVERTERS, "GlobalAveragePool")
def global_average_pool(site: Site) -> fx.Node:
    """The mean over all positions."""
    return site.call(torch.mean, site.x(0), tuple(range(2, site.rank(0))), keepdim=True)


@converter(CONVERTERS, "GlobalMaxPool")
def global_max_pool(site: Site) -> fx.Node:
    """The largest of all positions."""
    return site.call(torch.amax, site.x(0), tuple(range(2, site.rank(0))), keepdim=True)


@converter(CONVERTERS, "GlobalLpPool")
def global_lp_pool(site: Site) -> fx.Node:
    """The p-norm of all positions."""
    axes = tuple(range(2, site.rank(0)))
    return site.call(torch.linalg.vector_norm, site.x(0), int(site.attr("p", 2)), axes, keepdim=True)
