"""Pooling (ONNX operator specs, versions 1 to 22)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import fx
from torch.nn import functional

from conet_graph.bridge.padding import auto_pad, explicit_pads, is_even, pad_same, padded, torch_order
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site, torch_dtype
from conet_graph.ir.op_table import handles

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


@handles(CONVERTERS, "MaxPool")
def max_pool(site: Site) -> Converted:
    """The largest value in a window, and where it is."""
    kernel, strides, dilations = _window(site)
    lowest = float("-inf")
    kind = site.builder.graph.dtypes.get(site.op.input(0), TensorProto.FLOAT)
    # PyTorch has no maxima of bytes on GPUs; as floats they stay exact.
    byte = torch_dtype(kind) if kind in (TensorProto.UINT8, TensorProto.INT8) else None
    x = site.x(0) if byte is None else site.call(torch.Tensor.float, site.x(0))
    x, pads = padded(site, x, kernel, strides, dilations, value=lowest, most=_most(kernel))
    if site.uses(1) and (byte is not None or site.attr("storage_order", 0) or auto_pad(site) != "NOTSET"):
        raise NotConverted("gives the positions of its maxima in bytes, by columns or under SAME padding")
    if site.uses(1) and not is_even(explicit_pads(site, len(kernel)), _most(kernel)):
        raise NotConverted("gives the positions of its maxima under uneven pads")
    given = (tuple(kernel), tuple(strides), tuple(pads), tuple(dilations))
    ceil = bool(site.attr("ceil_mode", 0))
    if site.uses(1):
        return site.parts(site.call(maxima_and_places, x, *given, ceil_mode=ceil))
    made = site.call(_MAX[len(kernel)], x, *given, ceil_mode=ceil)
    return made if byte is None else site.call(torch.Tensor.to, made, byte)


def maxima_and_places(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    *,
    ceil_mode: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest value in each window, and its place, counted through the whole input [N, C, ...]."""
    made, places = _MAX[len(kernel)](
        x, kernel, strides, pads, dilations, ceil_mode=ceil_mode, return_indices=True
    )
    maps, size = x.shape[0] * x.shape[1], math.prod(x.shape[2:])
    first = torch.arange(maps, device=x.device).reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * size
    return made, places + first


@handles(CONVERTERS, "MaxUnpool")
def max_unpool(site: Site) -> fx.Node:
    """Values put where they were the largest; all else is zero."""
    kernel, strides, _ = _window(site)
    pads = explicit_pads(site, len(kernel))
    sizes = site.numbers(2) if site.has(2) else None
    shape = None if sizes is None else tuple(int(n) for n in sizes)
    return site.call(unpooled, site.x(0), site.x(1), tuple(kernel), tuple(strides), tuple(pads), shape)


def unpooled(
    x: torch.Tensor,
    places: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    shape: tuple[int, ...] | None,
) -> torch.Tensor:
    """MaxUnpool; places are counted through the whole output [N, C, ...], as ONNX Runtime does."""
    spatial = len(kernel)
    if shape is None:
        full = [(x.shape[2 + k] - 1) * strides[k] + kernel[k] for k in range(spatial)]
        lengths = [n - pads[k] - pads[spatial + k] for k, n in enumerate(full)]
        shape = (*x.shape[:2], *lengths)
    flat = x.new_zeros(math.prod(shape))
    return flat.scatter(0, places.reshape(-1).long(), x.reshape(-1)).reshape(shape)


@handles(CONVERTERS, "AveragePool")
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


@handles(CONVERTERS, "LpPool")
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


@handles(CONVERTERS, "GlobalAveragePool")
def global_average_pool(site: Site) -> fx.Node:
    """The mean over all positions."""
    return site.call(torch.mean, site.x(0), tuple(range(2, site.rank(0))), keepdim=True)


@handles(CONVERTERS, "GlobalMaxPool")
def global_max_pool(site: Site) -> fx.Node:
    """The largest of all positions."""
    return site.call(torch.amax, site.x(0), tuple(range(2, site.rank(0))), keepdim=True)


@handles(CONVERTERS, "GlobalLpPool")
def global_lp_pool(site: Site) -> fx.Node:
    """The p-norm of all positions."""
    axes = tuple(range(2, site.rank(0)))
    return site.call(torch.linalg.vector_norm, site.x(0), int(site.attr("p", 2)), axes, keepdim=True)
