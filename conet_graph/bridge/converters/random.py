"""Operators that draw numbers (ONNX operator specs). The generator and its seed are PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Site, torch_dtype
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


def _dtype(site: Site) -> torch.dtype | None:
    """The element type that is asked for; None for the input's."""
    kind = int(site.attr("dtype", 0))
    return torch_dtype(kind) if kind else None


def _normal(site: Site, x: Any) -> fx.Node:
    settings = float(site.attr("mean", 0.0)), float(site.attr("scale", 1.0))
    return site.call(normal_like, x, *settings, _dtype(site))


def _uniform(site: Site, x: Any) -> fx.Node:
    settings = float(site.attr("low", 0.0)), float(site.attr("high", 1.0))
    return site.call(uniform_like, x, *settings, _dtype(site))


def _coins(site: Site, x: Any) -> fx.Node:
    return site.call(coins, x, _dtype(site))


# How each draws numbers in the shape of a tensor.
LIKE: dict[str, Callable[[Site, Any], fx.Node]] = {
    "Bernoulli": _coins,
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
}
RANDOM = tuple(LIKE)


@handles(CONVERTERS, *RANDOM)
def drawn(site: Site) -> fx.Node:
    """In the shape of the input, or in one that an attribute gives."""
    x = site.x(0) if site.has(0) else site.call(torch.full, tuple(int(n) for n in site.attr("shape")), 0.0)
    return LIKE[site.op.op_type](site, x)


def normal_like(x: torch.Tensor, mean: float, scale: float, dtype: torch.dtype | None) -> torch.Tensor:
    """Numbers of a normal distribution, in the shape of ``x``."""
    return torch.randn(x.shape, dtype=dtype or x.dtype, device=x.device) * scale + mean


def uniform_like(x: torch.Tensor, low: float, high: float, dtype: torch.dtype | None) -> torch.Tensor:
    """Numbers between two bounds, in the shape of ``x``."""
    return torch.rand(x.shape, dtype=dtype or x.dtype, device=x.device) * (high - low) + low


def coins(x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """One with the probability that ``x`` gives at each position, else zero."""
    return torch.bernoulli(x).to(dtype or x.dtype)


@handles(CONVERTERS, "Multinomial")
def multinomial(site: Site) -> fx.Node:
    """Classes by their logarithms of probabilities, with replacement."""
    dtype = torch_dtype(int(site.attr("dtype", 6)))
    return site.call(classes_drawn, site.x(0), int(site.attr("sample_size", 1)), dtype)


def classes_drawn(logits: torch.Tensor, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of classes, ``count`` for each row."""
    return torch.multinomial(torch.softmax(logits, -1), count, replacement=True).to(dtype)
