"""Operators that put tensors together, cut them and move their parts about (ONNX operator specs)."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.nn import functional

from conet_graph.bridge.padding import torch_order
from conet_graph.bridge.reading import reads_sizes
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


@handles(CONVERTERS, "Concat")
def concat(site: Site) -> fx.Node:
    """Along one axis."""
    return site.call(torch.cat, site.inputs(), int(site.attr("axis", 1)))


@handles(CONVERTERS, "Split")
def split(site: Site) -> Converted:
    """Into parts of given sizes, or equal ones (the last smaller where it does not divide)."""
    axis = int(site.attr("axis", 0))
    if site.has(1) and not site.is_constant(1):
        return site.parts(site.call(split_as_computed, site.x(0), site.x(1), axis))
    sizes = site.numbers(1, "split")
    count = len(site.op.outputs)
    if sizes is not None:
        return site.parts(site.call(torch.split, site.x(0), tuple(int(s) for s in sizes), axis))
    return site.parts(site.call(split_evenly, site.x(0), count, axis))


@reads_sizes(1)
def split_as_computed(x: torch.Tensor, sizes: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
    """Into parts of sizes computed at run time."""
    return torch.split(x, [int(n) for n in sizes.tolist()], axis)


def split_evenly(x: torch.Tensor, count: int, axis: int) -> tuple[torch.Tensor, ...]:
    """Into ``count`` parts of equal size, the last one smaller where that does not divide."""
    return torch.split(x, -(-x.shape[axis] // count), axis)


@handles(CONVERTERS, "Slice")
def slice_(site: Site) -> fx.Node:
    """From start to end by steps, along some axes."""
    if site.version < 10:
        starts, ends = site.attr("starts"), site.attr("ends")
        axes, steps = site.attr("axes", list(range(len(starts)))), [1] * len(starts)
    elif all(site.is_constant(slot) or not site.has(slot) for slot in (1, 2, 3, 4)):
        starts, ends = site.numbers(1) or [], site.numbers(2) or []
        axes, steps = site.numbers(3) or list(range(len(starts))), site.numbers(4) or [1] * len(starts)
    else:
        return site.call(cut_as_computed, site.x(0), *(site.x(slot) for slot in (1, 2, 3, 4)))
    ranges = tuple(tuple(int(n) for n in r) for r in zip(axes, starts, ends, steps, strict=True))
    return site.call(cut, site.x(0), ranges)


def cut(x: torch.Tensor, ranges: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Slice by (axis, start, end, step); a negative step runs backwards."""
    index: list[Any] = [slice(None)] * x.dim()
    turned = []
    for axis, start, end, step in ranges:
        length = x.shape[axis]
        if step > 0:
            index[axis] = slice(*slice(start, end, step).indices(length))
            continue
        # PyTorch has no negative steps: the same positions forwards, then turned round.
        positions = range(*slice(start, end if end >= -length else None, step).indices(length))
        index[axis] = slice(positions[-1], positions[0] + 1, -step) if positions else slice(0, 0)
        turned.append(axis)
    made = x[tuple(index)]
    return made.flip(turned) if turned else made


@reads_sizes(1)
def cut_as_computed(
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Slice by numbers computed at run time."""
    first = [int(n) for n in starts.reshape(-1).tolist()]
    along = list(range(len(first))) if axes is None else axes.reshape(-1).tolist()
    by = [1] * len(first) if steps is None else steps.reshape(-1).tolist()
    return cut(x, tuple(zip(along, first, ends.reshape(-1).tolist(), by, strict=True)))


@handles(CONVERTERS, "Pad")
def pad(site: Site) -> fx.Node:
    """Constant, mirrored or repeated; negative pads cut."""
    mode = str(site.attr("mode", "constant"))
    if mode not in _PAD_MODES:
        raise NotConverted(f"pads by the mode {mode!r}")
    axes = site.numbers(3) if site.version >= 18 else None
    rank = site.rank(0)
    named = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    if site.version >= 11 and not (site.is_constant(1) and (site.is_constant(2) or not site.has(2))):
        return site.call(padded_as_computed, site.x(0), site.x(1), site.x(2), tuple(named), mode)
    pads = site.numbers(1, "pads") or []
    value = float(site.attr("value", 0.0)) if site.version < 11 else float((site.numbers(2) or [0.0])[0])
    full = tuple(full_pads([int(p) for p in pads], named, rank))
    if mode == "constant":
        return site.call(functional.pad, site.x(0), tuple(torch_order(list(full))), value=value)
    return site.call(padded_by_copies, site.x(0), full, mode)


def full_pads(pads: list[int], named: list[int], rank: int) -> list[int]:
    """Pads of all axes, begins and then ends, from those of some axes.

    >>> full_pads([1, 2], [2], 3)
    [0, 0, 1, 0, 0, 2]
    """
    full = [0] * 2 * rank
    for k, axis in enumerate(named):
        full[axis], full[rank + axis] = pads[k], pads[len(named) + k]
    return full


@reads_sizes(1)
def padded_as_computed(
    x: torch.Tensor, pads: torch.Tensor, value: torch.Tensor | None, named: tuple[int, ...], mode: str
) -> torch.Tensor:
    """Pad by sizes computed at run time."""
    full = full_pads([int(p) for p in pads.reshape(-1).tolist()], list(named), x.dim())
    if mode != "constant":
        return padded_by_copies(x, tuple(full), mode)
    return functional.pad(x, torch_order(full), value=0.0 if value is None else float(value.reshape(-1)[0]))


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


def padded_by_copies(x: torch.Tensor, pads: tuple[int, ...], mode: str) -> torch.Tensor:
    """Pad by what is there already, axis by axis, by indexing: any rank, any mode."""
    rank = len(pads) // 2
    for axis in range(rank):
        before, after, length = pads[axis], pads[rank + axis], x.shape[axis]
        if not before and not after:
            continue
        place = torch.arange(-before, length + after, device=x.device)
        if mode == "edge":
            place = place.clamp(0, length - 1)
        elif mode == "wrap":
            place = place % length
        else:
            period = max(2 * (length - 1), 1)
            place = place % period
            place = torch.where(place >= length, period - place, place)
        x = x.index_select(axis, place)
    return x


@handles(CONVERTERS, "Tile")
def tile(site: Site) -> fx.Node:
    """Repeat along every axis."""
    repeats = site.array(1)
    if repeats is not None:
        return site.call(torch.tile, site.x(0), tuple(int(n) for n in repeats.reshape(-1)))
    return site.call(tiled, site.x(0), site.x(1))


@reads_sizes(1)
def tiled(x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """Repeat as often as is computed at run time."""
    return x.repeat(repeats.reshape(-1).tolist())


@handles(CONVERTERS, "DepthToSpace")
def depth_to_space(site: Site) -> fx.Node:
    """Channels into pixels; DCR takes the block from the first part of the channels, CRD from the last."""
    block = int(site.attr("blocksize"))
    if str(site.attr("mode", "DCR")) == "CRD":
        return site.call(functional.pixel_shuffle, site.x(0), block)
    return site.call(blocks_to_space, site.x(0), block)


def blocks_to_space(x: torch.Tensor, block: int) -> torch.Tensor:
    """DepthToSpace in DCR order."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, block, block, c // block**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


@handles(CONVERTERS, "SpaceToDepth")
def space_to_depth(site: Site) -> fx.Node:
    """Pixels into channels, the other way round."""
    block = int(site.attr("blocksize"))
    if str(site.attr("mode", "DCR")) == "CRD":
        return site.call(functional.pixel_unshuffle, site.x(0), block)
    return site.call(space_to_blocks, site.x(0), block)


def space_to_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    """SpaceToDepth: the place in the block becomes the first part of the channel."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


@handles(CONVERTERS, "ReverseSequence")
def reverse_sequence(site: Site) -> fx.Node:
    """Turn round the first part of each sequence of a batch."""
    axes = int(site.attr("time_axis", 0)), int(site.attr("batch_axis", 1))
    return site.call(sequences_reversed, site.x(0), site.x(1), *axes)


def sequences_reversed(x: torch.Tensor, lengths: torch.Tensor, time: int, batch: int) -> torch.Tensor:
    """Turn round the first ``lengths[b]`` steps of sequence b."""
    moved = x.movedim((time, batch), (0, 1))
    steps = torch.arange(moved.shape[0], device=x.device)[:, None]
    ends = lengths[None, :]
    source = torch.where(steps < ends, ends - 1 - steps, steps)
    source = source.reshape(*source.shape, *[1] * (moved.dim() - 2)).expand_as(moved)
    return moved.gather(0, source).movedim((0, 1), (time, batch))


@handles(CONVERTERS, "Trilu")
def trilu(site: Site) -> fx.Node:
    """The upper or the lower triangle."""
    k = int((site.numbers(1) or [0])[0])
    return site.call(torch.triu if site.attr("upper", 1) else torch.tril, site.x(0), k)
