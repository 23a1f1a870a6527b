"""Resize as the ONNX spec defines it, axis by axis, for all modes (ONNX Resize-19)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Resampling(NamedTuple):
    """How a Resize computes its values; names and defaults are those of the spec's attributes.

    A named tuple is what generated code can hold.
    """

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    policy: str = "stretch"
    region: tuple[float, ...] = ()
    extrapolation: float = 0.0


def resampled(
    x: torch.Tensor,
    axes: tuple[int, ...],
    scales: tuple[float, ...] | None,
    sizes: tuple[int, ...] | None,
    how: Resampling,
) -> torch.Tensor:
    """Resize some axes, by scales or to sizes."""
    factors = list(scales) if scales is not None else []
    if sizes is not None:
        factors = [n / x.shape[a] for n, a in zip(sizes, axes, strict=True)]
        if how.policy != "stretch":
            factors = [(min if how.policy == "not_larger" else max)(factors)] * len(factors)
            sizes = tuple(math.floor(x.shape[a] * f + 0.5) for a, f in zip(axes, factors, strict=True))
    half = len(how.region) // 2
    outside: list[tuple[int, torch.Tensor]] = []
    for k, (axis, factor) in enumerate(zip(axes, factors, strict=True)):
        length = x.shape[axis]
        count = sizes[k] if sizes is not None else math.floor(length * factor)
        region = (how.region[k], how.region[half + k]) if half else None
        if region is None and factor == 1 and count == length:
            continue
        where = _places(length, count, factor, how.coordinates, region)
        x = _along(x, axis, where, factor, how)
        if region is not None:
            outside.append((axis, (where < 0) | (where > length - 1)))
    for axis, mask in outside:
        shape = [1] * x.dim()
        shape[axis] = -1
        x = torch.where(mask.to(x.device).reshape(shape), torch.full_like(x, how.extrapolation), x)
    return x


def _places(
    length: int, count: int, factor: float, coordinates: str, region: tuple[float, float] | None
) -> torch.Tensor:
    """Where in the input each output position lies, in float64."""
    out = torch.arange(count, dtype=torch.float64)
    if coordinates == "align_corners":
        return out * (length - 1) / (count - 1) if count > 1 else out * 0
    if coordinates == "asymmetric":
        return out / factor
    if coordinates == "pytorch_half_pixel" and count == 1:
        return out * 0
    if coordinates == "tf_half_pixel_for_nn":
        return (out + 0.5) / factor
    if coordinates == "half_pixel_symmetric":
        adjust = count / (factor * length)
        centre = length / 2
        return centre * (1 - adjust) + (out + 0.5) / factor - 0.5
    if coordinates == "tf_crop_and_resize" and region is not None:
        start, end = region
        if count == 1:
            return out * 0 + 0.5 * (start + end) * (length - 1)
        return start * (length - 1) + out * (end - start) * (length - 1) / (count - 1)
    return (out + 0.5) / factor - 0.5


def _along(x: torch.Tensor, axis: int, where: torch.Tensor, factor: float, how: Resampling) -> torch.Tensor:
    """Resize one axis: a weighted sum of neighbours."""
    length = x.shape[axis]
    if how.mode == "nearest":
        place = _rounded(where, how.rounding).clamp(0, length - 1).to(x.device, torch.int64)
        return x.index_select(axis, place)
    shrink = min(factor, 1.0) if how.antialias else 1.0
    reach = (1.0 if how.mode == "linear" else 2.0) / shrink
    first = torch.floor(where - reach).to(torch.int64) + 1
    made: torch.Tensor | None = None
    weights, places = [], []
    for k in range(math.ceil(2 * reach)):
        place = first + k
        distance = (place.to(torch.float64) - where) * shrink
        weight = _kernel(distance.abs(), how)
        if how.exclude_outside:
            weight = torch.where((place < 0) | (place >= length), torch.zeros_like(weight), weight)
        weights.append(weight)
        places.append(place.clamp(0, length - 1))
    total = sum(weights, torch.zeros_like(where)) if how.exclude_outside or how.antialias else None
    shape = [1] * x.dim()
    shape[axis] = -1
    for weight, place in zip(weights, places, strict=True):
        share = (weight if total is None else weight / total).to(x.device, x.dtype).reshape(shape)
        part = x.index_select(axis, place.to(x.device)) * share
        made = part if made is None else made + part
    assert made is not None
    return made


def _kernel(distance: torch.Tensor, how: Resampling) -> torch.Tensor:
    if how.mode == "linear":
        return (1 - distance).clamp(min=0)
    a = how.cubic
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    zero = torch.zeros_like(distance)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))


def _rounded(where: torch.Tensor, rounding: str) -> torch.Tensor:
    if rounding == "floor":
        return torch.floor(where)
    if rounding == "ceil":
        return torch.ceil(where)
    if rounding == "round_prefer_ceil":
        return torch.floor(where + 0.5)
    return torch.ceil(where - 0.5)
