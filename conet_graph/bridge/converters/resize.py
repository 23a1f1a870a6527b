"""Resampling: Resize, Upsample, GridSample (ONNX operator specs, versions 7 to 22)."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from conet_graph.bridge.reading import reads_numbers, reads_sizes
from conet_graph.bridge.registry import Table
from conet_graph.bridge.resampling import Resampling, resampled
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@handles(CONVERTERS, "Resize", "Upsample")
def resize(site: Site) -> fx.Node:
    """PyTorch's own interpolation where it means the same, else axis by axis."""
    how = _settings(site)
    axes, scales, sizes = _amount(site)
    rank = site.rank(0)
    along = tuple(a % rank for a in axes) if axes is not None else tuple(range(rank))
    if how.policy == "stretch":
        along, scales, sizes, how = _changed(site, along, scales, sizes, how)
    if isinstance(sizes, fx.Node):
        return site.call(resampled_to_computed, site.x(0), along, sizes, how)
    if isinstance(scales, fx.Node):
        return site.call(resampled_by_computed, site.x(0), along, scales, how)
    spatial = _spatial(along, scales, sizes, rank, site.shape(0))
    native = _native(how, spatial, scales is not None, rank) if how.policy == "stretch" else None
    if native is not None:
        return site.call(functional.interpolate, site.x(0), **native)
    return site.call(resampled, site.x(0), along, scales, sizes, how)


def _settings(site: Site) -> Resampling:
    mode = str(site.attr("mode", "nearest"))
    old = site.op.op_type == "Upsample" or site.version < 11
    return Resampling(
        mode="linear" if "linear" in mode else mode,
        coordinates="asymmetric" if old else str(site.attr("coordinate_transformation_mode", "half_pixel")),
        rounding="floor" if old else str(site.attr("nearest_mode", "round_prefer_floor")),
        cubic=float(site.attr("cubic_coeff_a", -0.75)),
        exclude_outside=bool(site.attr("exclude_outside", 0)),
        antialias=bool(site.attr("antialias", 0)),
        policy=str(site.attr("keep_aspect_ratio_policy", "stretch")),
        region=tuple(_region(site)),
        extrapolation=float(site.attr("extrapolation_value", 0.0)),
    )


def _region(site: Site) -> list[float]:
    if str(site.attr("coordinate_transformation_mode", "")) != "tf_crop_and_resize":
        return []
    return [float(n) for n in site.numbers(1) or []]


def _amount(site: Site) -> tuple[list[int] | None, Any, Any]:
    """The axes, and scales or sizes; what is computed comes as the value itself."""
    if site.op.op_type == "Upsample" and site.attr("scales") is not None:
        return None, tuple(float(s) for s in site.attr("scales")), None
    if site.op.op_type == "Upsample" or site.version < 11:
        return None, _numbers(site, 1, float), None
    axes = site.attr("axes") if site.version >= 18 else None
    return (axes, None, _numbers(site, 3, int)) if site.has(3) else (axes, _numbers(site, 2, float), None)


def _numbers(site: Site, slot: int, kind: type[float]) -> Any:
    """The numbers at an input, or the value itself where the graph computes them."""
    array = site.array(slot)
    return site.x(slot) if array is None else tuple(kind(n) for n in array.reshape(-1))


def _changed(
    site: Site, along: tuple[int, ...], scales: Any, sizes: Any, how: Resampling
) -> tuple[tuple[int, ...], Any, Any, Resampling]:
    """The amounts without the first axis where it keeps its length: it counts the images, be they many."""
    before, after = site.shape(0), site.builder.graph.shape(site.op.outputs[0])
    if not (along and along[0] == 0 and before and after and isinstance(after[0], int)):
        return along, scales, sizes, how
    region, half = how.region, len(how.region) // 2
    if before[0] != after[0] or (region and (region[0], region[half]) != (0.0, 1.0)):
        return along, scales, sizes, how
    how = how._replace(region=region[1:half] + region[half + 1 :])
    return along[1:], _behind_first(site, scales), _behind_first(site, sizes), how


def _behind_first(site: Site, amounts: Any) -> Any:
    if isinstance(amounts, fx.Node):
        return site.call(operator.getitem, amounts, slice(1, None))
    return None if amounts is None else amounts[1:]


def _spatial(
    along: tuple[int, ...],
    scales: tuple[float, ...] | None,
    sizes: tuple[int, ...] | None,
    rank: int,
    shape: Any,
) -> list[float] | None:
    """Scales or sizes of the axes from the third on; None if another axis changes too."""
    amounts: list[Any] = list(scales if scales is not None else sizes or ())
    by_axis = dict(zip(along, amounts, strict=True))
    for axis in range(min(2, rank)):
        if axis not in by_axis:
            continue
        unchanged = by_axis[axis] == 1 if scales is not None else shape and by_axis[axis] == shape[axis]
        if not unchanged:
            return None
    if any(axis not in by_axis for axis in range(2, rank)):
        return None
    return [by_axis[axis] for axis in range(2, rank)]


def _native(how: Resampling, spatial: list[float] | None, by_scale: bool, rank: int) -> dict[str, Any] | None:
    """Arguments of PyTorch's interpolation where it computes the same."""
    if spatial is None or how.antialias or how.exclude_outside or rank not in _LINEAR:
        return None
    amount: dict[str, Any] = {"scale_factor": tuple(spatial)} if by_scale else {"size": tuple(spatial)}
    if how.mode == "nearest":
        whole = by_scale and all(s >= 1 and s == math.floor(s) for s in spatial)
        plain = how.coordinates == "asymmetric" and how.rounding == "floor"
        centred = how.coordinates == "half_pixel" and how.rounding.startswith("round") and whole
        return {**amount, "mode": "nearest"} if plain or centred else None
    if how.mode == "cubic" and (rank != 4 or how.cubic != -0.75):
        return None
    mode = "bicubic" if how.mode == "cubic" else _LINEAR[rank]
    if how.coordinates == "align_corners":
        return {**amount, "mode": mode, "align_corners": True}
    if how.coordinates == "half_pixel":
        return {**amount, "mode": mode, "align_corners": False}
    return None


@reads_sizes(1)
def resampled_to_computed(
    x: torch.Tensor, axes: tuple[int, ...], sizes: torch.Tensor, how: Resampling
) -> torch.Tensor:
    """Resize to sizes computed at run time."""
    return resampled(x, axes, None, tuple(int(n) for n in sizes.tolist()), how)


@reads_sizes(1)
def resampled_by_computed(
    x: torch.Tensor, axes: tuple[int, ...], scales: torch.Tensor, how: Resampling
) -> torch.Tensor:
    """Resize by scales computed at run time."""
    return resampled(x, axes, tuple(float(n) for n in scales.tolist()), None, how)


@handles(CONVERTERS, "GridSample")
def grid_sample(site: Site) -> fx.Node:
    """Values at places given as coordinates."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = str(site.attr("mode", "linear"))
    settings = {"mode": names.get(mode, mode), "padding_mode": str(site.attr("padding_mode", "zeros"))}
    aligned = bool(site.attr("align_corners", 0))
    return site.call(functional.grid_sample, site.x(0), site.x(1), **settings, align_corners=aligned)


@handles(CONVERTERS, "RoiAlign")
def roi_align(site: Site) -> fx.Node:
    """Means over regions."""
    if str(site.attr("mode", "avg")) != "avg":
        raise NotConverted("takes maxima of regions")
    halves = str(site.attr("coordinate_transformation_mode", "half_pixel" if site.version >= 16 else ""))
    size = (int(site.attr("output_height", 1)), int(site.attr("output_width", 1)))
    ratio = int(site.attr("sampling_ratio", 0)) or -1
    settings = (size, float(site.attr("spatial_scale", 1.0)), ratio, halves == "half_pixel")
    return site.call(aligned_regions, site.x(0), site.x(1), site.x(2), *settings)


@reads_numbers(0)
def aligned_regions(
    x: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """RoiAlign by torchvision, which wants the image's number before the box."""
    from torchvision.ops import roi_align as regions

    numbered = torch.cat([image.to(boxes.dtype)[:, None], boxes], 1)
    made: torch.Tensor = regions(x, numbered, size, scale, ratio, aligned)
    return made
