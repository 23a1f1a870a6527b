"""Operators whose literals count the images: written for a batch, by where the images lie.

Shapes that the file reads off a value are those of one image (as long as the file's batch); so nothing that
is computed from them depends on how many images there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import fx

from conet_graph.bridge.batch.held import OWN, Held
from conet_graph.bridge.converters.random import LIKE, RANDOM
from conet_graph.bridge.converters.reshape import expanded, reshape_target
from conet_graph.bridge.reading import reads_sizes
from conet_graph.bridge.site import Site
from conet_graph.ir.graph import Shape
from conet_graph.ir.op_table import handles

if TYPE_CHECKING:
    from conet_graph.bridge.batch.batching import Batching

Written = tuple[fx.Node, Held | None]
Writer = Callable[["Batching", Site], "Written | None"]
WRITERS: dict[tuple[str, str], Writer] = {}


def _whole(dims: Shape | None) -> list[int] | None:
    """A shape of which every length is known."""
    if dims is None or not all(isinstance(d, int) for d in dims):
        return None
    return [int(d) for d in dims if isinstance(d, int)]


@handles(WRITERS, "Reshape")
def reshape(batching: Batching, site: Site) -> Written | None:
    """The images stay in one axis where the target has one of just them, else they get their own."""
    held, target = batching.held.get(site.op.input(0)), reshape_target(site)
    if held is None or batching.held.get(site.op.input(1)) is not None:
        return None
    place = _place_after(site, held)
    if target is None:
        if held.axis != 0 or place != 0:
            return None
        made = site.call(reshaped_as_computed_around, site.x(0), site.x(1), bool(site.attr("allowzero", 0)))
        return made, Held(0, held.length)
    if place is not None and held.axis is not None:
        if place != held.axis < len(target) and target[held.axis] is None:
            target[held.axis] = held.length
        return site.call(reshaped_around, site.x(0), tuple(target), held.axis, place), Held(
            place, held.length
        )
    x = batching.moved(site.op.input(0), OWN)
    return site.call(reshaped_each, x, tuple(target)), OWN


def _place_after(site: Site, held: Held) -> int | None:
    """The axis of the target that holds just what the images' axis holds, if there is one."""
    before, after = site.shape(0), site.builder.graph.shape(site.op.outputs[0])
    if held.axis is None or before is None or not after:
        return None
    if held.axis == 0:
        return 0 if after[0] == held.length else None
    front = _whole(before[: held.axis])
    if front is None:
        return None
    found = []
    for place in range(len(after)):
        ahead = _whole(after[:place])
        if ahead is not None and math.prod(ahead) == math.prod(front) and after[place] == held.length:
            found.append(place)
    # Among axes of length one any would do; the same one as before is where others look for it.
    return held.axis if held.axis in found else min(found, default=None)


def reshaped_around(x: torch.Tensor, target: tuple[int | None, ...], axis: int, place: int) -> torch.Tensor:
    """Reshape; the images go from one axis to another, however many they are; None keeps a length.

    >>> reshaped_around(torch.zeros(5, 3, 8), (5, 1, 2, 4), 1, 1).shape
    torch.Size([5, 3, 2, 4])
    """
    sizes = [x.shape[k] if n is None else n for k, n in enumerate(target)]
    sizes[place] = x.shape[axis]
    return x.reshape(sizes)


@reads_sizes(1)
def reshaped_as_computed_around(x: torch.Tensor, target: torch.Tensor, allow_zero: bool) -> torch.Tensor:
    """Reshape to numbers computed at run time, but for the images along the first axis."""
    numbers = target.reshape(-1).tolist()
    sizes = [x.shape[k] if n == 0 and not allow_zero else int(n) for k, n in enumerate(numbers)]
    return x.reshape([x.shape[0], *sizes[1:]])


def reshaped_each(x: torch.Tensor, target: tuple[int | None, ...]) -> torch.Tensor:
    """Reshape each image; None keeps a length.

    >>> reshaped_each(torch.zeros(3, 1, 8), (2, 4)).shape
    torch.Size([3, 2, 4])
    """
    return x.reshape(x.shape[0], *(x.shape[k + 1] if n is None else n for k, n in enumerate(target)))


@handles(WRITERS, "Expand")
def expand(batching: Batching, site: Site) -> Written | None:
    """Along the images' axis nothing changes."""
    held, sizes = batching.held.get(site.op.input(0)), site.array(1)
    if held is None or held.axis is None or sizes is None:
        return None
    wanted = [int(n) for n in sizes.reshape(-1)]
    axis = held.axis + len(wanted) - site.rank(0)
    if axis >= 0:
        if wanted[axis] not in (1, held.length):
            return None
        wanted[axis] = 1
    return site.call(expanded, site.x(0), tuple(wanted)), Held(max(axis, held.axis), held.length)


@handles(WRITERS, "Shape")
def shape(batching: Batching, site: Site) -> Written | None:
    """That of one image."""
    held = batching.held.get(site.op.input(0))
    if held is None:
        return None
    start, end = int(site.attr("start", 0)), site.attr("end")
    given = (site.x(0), held.axis, held.length, start, None if end is None else int(end))
    return site.call(shape_of_each, *given), None


def shape_of_each(
    x: torch.Tensor, axis: int | None, length: int, start: int, end: int | None
) -> torch.Tensor:
    """A part of the shape of one image, int64.

    >>> shape_of_each(torch.zeros(3, 6, 8), 0, 1, 0, 2)
    tensor([1, 6])
    """
    sizes = list(x.shape)
    if axis is None:
        sizes = sizes[1:]
    else:
        sizes[axis] = length
    return torch.tensor(sizes[start:end], dtype=torch.int64)


@handles(WRITERS, "Size")
def size(batching: Batching, site: Site) -> Written | None:
    """The number of elements of one image."""
    held = batching.held.get(site.op.input(0))
    if held is None:
        return None
    return site.call(size_of_each, site.x(0), held.axis, held.length), None


def size_of_each(x: torch.Tensor, axis: int | None, length: int) -> torch.Tensor:
    """The number of elements of one image, int64."""
    count = x.shape[0] if axis is None else x.shape[axis] // length
    return torch.tensor(x.numel() // count, dtype=torch.int64)


@handles(WRITERS, *RANDOM)
def random(batching: Batching, site: Site) -> Written | None:
    """Other numbers for every image, also where the file draws them without looking at any."""
    name = site.op.input(0)
    held = batching.held.get(name)
    if held is not None:
        return LIKE[site.op.op_type](site, site.x(0)), held
    if name:
        x = site.builder.value(name)
    else:
        x = site.call(torch.zeros, tuple(int(n) for n in site.attr("shape")))
    return LIKE[site.op.op_type](site, batching.for_all(x, OWN)), OWN
