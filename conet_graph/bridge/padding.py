"""Padding of convolutions and pooling as ONNX writes it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from conet_graph.bridge.site import Site


def explicit_pads(site: Site, spatial: int) -> list[int]:
    """The attribute ``pads``: all begins, then all ends; zeros where it is absent."""
    return [int(p) for p in site.attr("pads", [0] * 2 * spatial)]


def auto_pad(site: Site) -> str:
    """How the pads come about: NOTSET (they are given), VALID, SAME_UPPER or SAME_LOWER."""
    return str(site.attr("auto_pad", "NOTSET") or "NOTSET")


def torch_order(pads: list[int]) -> list[int]:
    """ONNX's order of pads (begins, then ends) as PyTorch's (last axis first, begin and end together).

    >>> torch_order([1, 2, 3, 4])
    [2, 4, 1, 3]
    """
    half = len(pads) // 2
    return [pads[k + side * half] for k in reversed(range(half)) for side in (0, 1)]


def padded(
    site: Site,
    x: Any,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    *,
    value: float = 0.0,
    most: list[int] | None = None,
) -> tuple[Any, list[int]]:
    """The input with those pads added that the operator in PyTorch cannot add itself.

    Args:
        site: the operator.
        x: its input.
        kernel: the window, a number for each spatial axis; so too what follows.
        strides: of the operator.
        dilations: of the operator.
        value: what pads are filled with.
        most: the largest pads that the operator in PyTorch takes; any without it.

    Returns:
        the input, and the same pads on both sides of each axis that the operator has to add.

    """
    spatial = len(kernel)
    mode = auto_pad(site)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        window = (tuple(kernel), tuple(strides), tuple(dilations))
        made = site.call(pad_same, x, *window, lower=mode == "SAME_LOWER", value=value)
        return made, [0] * spatial
    pads = [0] * 2 * spatial if mode == "VALID" else explicit_pads(site, spatial)
    if is_even(pads, most):
        return x, pads[:spatial]
    made = site.call(functional.pad, x, tuple(torch_order(pads)), value=value)
    return made, [0] * spatial


def is_even(pads: list[int], most: list[int] | None = None) -> bool:
    """Whether pads are the same on both sides of each axis, not negative, and within limits."""
    half = len(pads) // 2
    fits = most is None or all(p <= m for p, m in zip(pads, most, strict=False))
    return pads[:half] == pads[half:] and min(pads, default=0) >= 0 and fits


def pad_same(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    *,
    lower: bool,
    value: float,
) -> torch.Tensor:
    """Pad so that each spatial axis comes out as its length over the stride, rounded up."""
    pads: list[int] = []
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        length = x.shape[2 + axis]
        need = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        small = need // 2
        pads = [*((need - small, small) if lower else (small, need - small)), *pads]
    return functional.pad(x, pads, value=value)
