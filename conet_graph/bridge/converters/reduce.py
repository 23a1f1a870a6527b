"""Reductions over axes (ONNX operator specs; axes are an attribute, later an input)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

Axes = tuple[int, ...]


def product(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The product, axis by axis."""
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def absolute_sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The sum of magnitudes."""
    return x.abs().sum(axes, keepdim=keep)


def length(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The square root of the sum of squares."""
    return x.square().sum(axes, keepdim=keep).sqrt()


def square_sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The sum of squares."""
    return x.square().sum(axes, keepdim=keep)


def log_sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The logarithm of the sum."""
    return x.sum(axes, keepdim=keep).log()


def total(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    """The sum, in the input's type."""
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


_REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "ReduceL1": absolute_sum,
    "ReduceL2": length,
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": product,
    "ReduceSum": total,
    "ReduceSumSquare": square_sum,
}


@handles(CONVERTERS, *_REDUCTIONS)
def reduce(site: Site) -> fx.Node:
    """Over the axes named, or all."""
    axes = site.numbers(1, "axes")
    if not axes:
        if site.attr("noop_with_empty_axes", 0):
            return site.call(torch.clone, site.x(0))
        axes = list(range(site.rank(0)))
    if not axes:
        return site.call(torch.clone, site.x(0))
    given = (tuple(int(a) for a in axes), bool(site.attr("keepdims", 1)))
    return site.call(_REDUCTIONS[site.op.op_type], site.x(0), *given)
