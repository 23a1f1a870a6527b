"""Operators that pick positions, write to them, or find them (ONNX operator specs)."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from conet_graph.bridge.reading import reads_numbers
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


def _counted_from_start(index: torch.Tensor, length: int) -> torch.Tensor:
    """Negative positions as positive ones."""
    return torch.where(index < 0, index + length, index)


@handles(CONVERTERS, "Gather")
def gather(site: Site) -> fx.Node:
    """Positions along one axis."""
    axis = int(site.attr("axis", 0))
    index = site.array(1)
    if index is not None and index.ndim == 0:
        return site.call(torch.select, site.x(0), axis, int(index))
    return site.call(picked, site.x(0), site.x(1), axis)


def picked(x: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    """Positions along an axis, in the shape of ``index``."""
    axis = axis % x.dim()
    place = _counted_from_start(index.long(), x.shape[axis])
    made = x.index_select(axis, place.reshape(-1))
    return made.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@handles(CONVERTERS, "GatherElements")
def gather_elements(site: Site) -> fx.Node:
    """A position along one axis for every element."""
    return site.call(picked_each, site.x(0), site.x(1), int(site.attr("axis", 0)))


def picked_each(x: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    """GatherElements."""
    return x.gather(axis, _counted_from_start(index.long(), x.shape[axis]))


@handles(CONVERTERS, "GatherND")
def gather_nd(site: Site) -> fx.Node:
    """Places of several coordinates."""
    return site.call(picked_places, site.x(0), site.x(1), int(site.attr("batch_dims", 0)))


def picked_places(x: torch.Tensor, index: torch.Tensor, batch_dims: int) -> torch.Tensor:
    """GatherND: the last axis of ``index`` holds coordinates behind ``batch_dims`` shared axes."""
    index = index.long()
    coordinates = [
        _counted_from_start(index[..., k], x.shape[batch_dims + k]) for k in range(index.shape[-1])
    ]
    shared: list[torch.Tensor] = []
    for axis in range(batch_dims):
        shape = [1] * (index.dim() - 1)
        shape[axis] = -1
        shared.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    return x[(*shared, *coordinates)]


_REDUCED: dict[str, str] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@handles(CONVERTERS, "ScatterElements", "Scatter")
def scatter_elements(site: Site) -> fx.Node:
    """Write to a position along one axis for every element."""
    how = str(site.attr("reduction", "none"))
    return site.call(written_each, site.x(0), site.x(1), site.x(2), int(site.attr("axis", 0)), how)


def written_each(
    x: torch.Tensor, index: torch.Tensor, updates: torch.Tensor, axis: int, how: str
) -> torch.Tensor:
    """ScatterElements."""
    place = _counted_from_start(index.long(), x.shape[axis])
    if how == "none":
        return x.scatter(axis, place, updates)
    return x.scatter_reduce(axis, place, updates, _REDUCED[how])


@handles(CONVERTERS, "ScatterND")
def scatter_nd(site: Site) -> fx.Node:
    """Write to places of several coordinates."""
    how = str(site.attr("reduction", "none"))
    if how not in ("none", "add"):
        raise NotConverted(f"writes to several coordinates by {how!r}")
    return site.call(written_places, site.x(0), site.x(1), site.x(2), how == "add")


def written_places(x: torch.Tensor, index: torch.Tensor, updates: torch.Tensor, add: bool) -> torch.Tensor:
    """ScatterND."""
    index = index.long()
    places = tuple(_counted_from_start(index[..., k], x.shape[k]) for k in range(index.shape[-1]))
    return x.index_put(places, updates, accumulate=add)


@handles(CONVERTERS, "ArgMax", "ArgMin")
def arg_extreme(site: Site) -> fx.Node:
    """The position of the largest or smallest along one axis."""
    function = most if site.op.op_type == "ArgMax" else least
    settings = (bool(site.attr("keepdims", 1)), bool(site.attr("select_last_index", 0)))
    return site.call(function, site.x(0), int(site.attr("axis", 0)), *settings)


def most(x: torch.Tensor, axis: int, keep: bool, last: bool) -> torch.Tensor:
    """The first, or the last, position of the largest."""
    if last:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=keep)
    return x.argmax(axis, keepdim=keep)


def least(x: torch.Tensor, axis: int, keep: bool, last: bool) -> torch.Tensor:
    """The first, or the last, position of the smallest."""
    if last:
        return x.shape[axis] - 1 - x.flip(axis).argmin(axis, keepdim=keep)
    return x.argmin(axis, keepdim=keep)


@handles(CONVERTERS, "TopK")
def top_k(site: Site) -> Converted:
    """The k largest or smallest, and where they are."""
    count = int(site.attr("k")) if site.version < 10 else site.array(1)
    k: Any = (
        site.x(1) if count is None else int(count) if isinstance(count, int) else int(count.reshape(-1)[0])
    )
    return site.parts(
        site.call(largest, site.x(0), k, int(site.attr("axis", -1)), bool(site.attr("largest", 1)))
    )


@reads_numbers(1)
def largest(
    x: torch.Tensor, k: int | torch.Tensor, axis: int, most_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """TopK: values and positions; of equal values the first comes first."""
    values, positions = torch.sort(x, dim=axis, descending=most_first, stable=True)
    return values.narrow(axis, 0, int(k)), positions.narrow(axis, 0, int(k))


@handles(CONVERTERS, "OneHot")
def one_hot(site: Site) -> fx.Node:
    """One value at the positions given, another elsewhere."""
    return site.call(hot, site.x(0), site.x(1), site.x(2), int(site.attr("axis", -1)))


@reads_numbers(1)
def hot(index: torch.Tensor, depth: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """OneHot: ``values`` are the one for off and the one for on; positions out of range stay off."""
    count = int(depth.reshape(-1)[0])
    place = _counted_from_start(index.long(), count)
    axis = axis % (index.dim() + 1)
    numbers = torch.arange(count, device=values.device).reshape(-1, *[1] * (index.dim() - axis))
    return torch.where(place.unsqueeze(axis) == numbers, values[1], values[0])


@handles(CONVERTERS, "NonZero")
def non_zero(site: Site) -> fx.Node:
    """Coordinates of what is not zero, one row an axis."""
    return site.call(coordinates_of, site.x(0))


@reads_numbers(0)
def coordinates_of(x: torch.Tensor) -> torch.Tensor:
    """NonZero."""
    return torch.nonzero(x).T


@handles(CONVERTERS, "CumSum")
def cumulative_sum(site: Site) -> fx.Node:
    """Running sums along one axis."""
    axis = site.numbers(1)
    settings = (bool(site.attr("exclusive", 0)), bool(site.attr("reverse", 0)))
    return site.call(running_sum, site.x(0), int((axis or [0])[0]), *settings)


def running_sum(x: torch.Tensor, axis: int, exclusive: bool, backwards: bool) -> torch.Tensor:
    """CumSum."""
    turned = x.flip(axis) if backwards else x
    made = turned.cumsum(axis, dtype=x.dtype)
    made = made - turned if exclusive else made
    return made.flip(axis) if backwards else made
