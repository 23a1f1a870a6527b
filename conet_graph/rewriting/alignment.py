"""Widths that runtimes compute fast: what they are rounded to, and where smaller steps are taken.

Runtimes compute channels in blocks (a vector register, a tile of a matrix unit). A width between two
multiples of the block costs as much as the next one at best; at worst the layer leaves the fast path.
docs/LATENCY.md holds the source of each number here, and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import CONVOLUTIONS
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS, Group

Counts = NDArray[np.int64]

BLOCK = 16  # channels that the widest vector registers in use compute at once
TIMES_WIDE = 3  # groups of so many blocks and more go by whole ones, where nothing else is asked for
KEPT_IN_BLOCKS = 0.25  # of every width: what no group loses for the sake of whole blocks
PAYS = 0.95  # of the work that runtimes do otherwise: what widths in whole blocks must stay below
NEAR = 0.95  # the part of a target that widths in large steps must reach before smaller steps are tried


@dataclass(frozen=True)
class Alignment:
    """What the widths of a network are multiples of.

    ``multiple`` holds for every width, those of depthwise convolutions too, and ``grouped`` for the channels
    of one group of a grouped convolution. ``strict``: never by smaller steps. Groups in which ``wide`` fits
    `TIMES_WIDE` times start with steps of that: their widths need it least and gain most.
    """

    multiple: int = 8
    grouped: int = 1
    strict: bool = False
    wide: int = 1


# The name that --for takes, and what it stands for.
PRESETS: Mapping[str, Alignment] = {
    "onnxruntime-cpu": Alignment(16, grouped=16),
    "onnxruntime-cuda": Alignment(8, grouped=8),
    "openvino": Alignment(16, grouped=16),
    "tensorrt": Alignment(8, grouped=8),
    "tensorrt-int8": Alignment(32, grouped=32),
    "ncnn": Alignment(8, grouped=4),
    "rknn": Alignment(16, grouped=16),
}


def alignment_of(multiple_of: int | None, runtime: str | None) -> Alignment:
    """What is asked for: a multiple, taken strictly, or what suits a runtime; by default 8, and 16 if wide.

    Raises:
        BadUsage: both are given, the multiple is below 1, or the runtime is not known.

    """
    if multiple_of is not None:
        if runtime is not None:
            raise BadUsage("--multiple-of and --for both say what widths are rounded to: give one.")
        if multiple_of < 1:
            raise BadUsage("--multiple-of and --min-width are 1 or more.")
        return Alignment(multiple_of, strict=True)
    return Alignment(wide=BLOCK) if runtime is None else preset(runtime)


def preset(runtime: str) -> Alignment:
    """What suits a runtime.

    Raises:
        BadUsage: it is not known.

    """
    if runtime not in PRESETS:
        raise BadUsage(f"--for is {runtime!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[runtime]


def step_ladder(graph: Graph, alignment: Alignment) -> list[Counts]:
    """How many classes of each group come and go at once, from the steps wished for to the smallest.

    A group in which fewer than two steps fit starts with the largest half, quarter, ... of them that fits
    twice: 16 channels and more go by 8, those of 8 to 15 by 4.
    """
    channels = graph.result(CHANNELS)
    multiples = [_first_multiple(group, alignment) for group in channels.groups]
    if alignment.strict:
        return [_steps(channels.groups, multiples)]
    ladder: list[Counts] = []
    while True:
        steps = _steps(channels.groups, list(map(_fitting, channels.groups, multiples)))
        if not ladder or (steps != ladder[-1]).any():
            ladder.append(steps)
        if max(multiples, default=1) == 1:
            return ladder
        multiples = [max(m // 2, 1) for m in multiples]


def block_steps(graph: Graph) -> list[Counts]:
    """Steps of whole blocks, for a network whose work is to be less: what is tried before the ladder.

    Half a block of channels costs as much as a whole one, or more, in the layer that writes them and in 1x1
    and depthwise layers that read them; only windows over several pixels then take half as long. So at first
    groups of a block and less go by the usual steps where windows read them, and stay as they are elsewhere;
    then all of them go by the usual steps. A grouped convolution keeps whole blocks if it has them.
    """
    groups = graph.result(CHANNELS).groups
    usual = step_ladder(graph, Alignment())[0]
    whole = _steps(groups, [_multiple(group, Alignment(BLOCK, grouped=BLOCK)) for group in groups])
    wide = np.array([group.width > BLOCK and _has_blocks(group) for group in groups], np.bool_)
    stays = np.array([group.width <= BLOCK and not _in_windows(graph, group) for group in groups], np.bool_)
    return [np.where(wide | stays, whole, usual), np.where(wide, whole, usual)]


def _has_blocks(group: Group) -> bool:
    """Whether no grouped convolution on the channels has groups of less than a block now."""
    layers = [*group.producers, *group.consumers]
    return all(group.width // layer.groups % BLOCK == 0 for layer in layers if _moves_whole(group, layer))


def _in_windows(graph: Graph, group: Group) -> bool:
    return any(layer.groups == 1 and has_window(graph, layer) for layer in group.consumers)


def has_window(graph: Graph, layer: Layer) -> bool:
    """Whether a layer is a convolution over more than one pixel."""
    shape = graph.shape(layer.op.input(layer.weight_slot)) or ()
    return layer.op.op_type in CONVOLUTIONS and any(size != 1 for size in shape[2:])


def uneven(graph: Graph, widths: Mapping[str, int], alignment: Alignment) -> list[tuple[Group, int]]:
    """The free groups whose width (by group id) is not a multiple of what it should be, and of what."""
    found: list[tuple[Group, int]] = []
    for group in graph.result(CHANNELS).groups:
        step = _step(group, _multiple(group, alignment)) * group.multiple
        if group.free and group.id in widths and widths[group.id] % step:
            found.append((group, step))
    return found


def breaking(graph: Graph, runtime: str) -> list[str]:
    """Sentences about widths of a network that a runtime computes slower than they need be.

    Raises:
        BadUsage: the runtime is not known.

    """
    widths = {group.id: group.width for group in graph.result(CHANNELS).groups}
    return [
        f"group {group.id} is {widths[group.id]} wide, {runtime} computes multiples of {multiple}"
        for group, multiple in uneven(graph, widths, preset(runtime))
    ]


def _first_multiple(group: Group, alignment: Alignment) -> int:
    """What is tried first."""
    is_wide = group.width >= TIMES_WIDE * alignment.wide
    return _multiple(group, replace(alignment, multiple=max(alignment.multiple, alignment.wide * is_wide)))


def _multiple(group: Group, alignment: Alignment) -> int:
    """The number of channels of which a group's width is to be a multiple."""
    multiple = alignment.multiple
    for layer in [*group.producers, *group.consumers]:
        if _moves_whole(group, layer):
            multiple = math.lcm(multiple, alignment.grouped * layer.groups)
    return multiple


def _moves_whole(group: Group, layer: Layer) -> bool:
    """Whether all groups of a grouped convolution, which is not depthwise, change alike."""
    return layer.groups > 1 and group.multiple % layer.groups == 0


def _fitting(group: Group, multiple: int) -> int:
    """The largest of a multiple, its half, its quarter, ... that fits into the group twice."""
    while multiple > 1 and 2 * _step(group, multiple) > len(group.classes):
        multiple //= 2
    return multiple


def _step(group: Group, multiple: int) -> int:
    """Classes that come and go together, so that the width stays a multiple."""
    return math.lcm(multiple, group.multiple) // group.multiple


def _steps(groups: list[Group], multiples: list[int]) -> Counts:
    return np.array([_step(g, m) for g, m in zip(groups, multiples, strict=True)], np.int64)
