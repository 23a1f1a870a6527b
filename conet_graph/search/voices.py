"""Who speaks for a channel size: the layers whose ranks its indicators are the mean of.

The paper's tables (one written by hand for each kind of cell) say for every size which convolutions'
output and input ranks are averaged. Here they are read off the channel groups:

* a convolution that produces the size speaks by its output rank;
* one that consumes it, and nothing else, speaks by its input rank; a convolution that reads a
  concatenation of several sizes, or of a size and something frozen, speaks by its output only;
* layers that produce (or read) only a part of the size, as the two halves of a FactorizedReduce,
  are one voice together;
* depthwise layers have no rank of their own; nor has the classifier, whose rank the number of
  classes bounds;
* in a residual network the stem and the 1x1 shortcuts are silent, as in the published tables
  (`conet_graph.search.silent`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from conet_graph.analysis.analysis import Analysis, GroupEntry, LayerEntry, analysis_of
from conet_graph.analysis.layer_weights import is_input_first
from conet_graph.analysis.layers import LayerFacts, facts, layers_of
from conet_graph.indicators.slope import Voice
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import CONVOLUTIONS, PRODUCTS
from conet_graph.passes.classify_edges import Layer
from conet_graph.search.silent import silent_layers


@dataclass(frozen=True, slots=True)
class Size:
    """One channel size that a search decides.

    Attributes:
        name: its id in the analysis, as in 's2'.
        width: its channels in the analysed network.
        multiple: how many of them move at once.
        groups: ids of the channel groups that it is made of; mostly one.
        layers: names of the layers that produce it.
        voices: who speaks for it; nobody where only depthwise layers touch it.
        pointwise: whether only 1x1 weights speak for it: the noise in a nearly square matrix hides a signal
            that a 3x3 weight of as many channels shows.

    """

    name: str
    width: int
    multiple: int
    groups: tuple[str, ...]
    layers: tuple[str, ...]
    voices: tuple[Voice, ...]
    pointwise: bool = False


@dataclass(frozen=True, slots=True)
class Speakers:
    """The sizes of a network, and the weights to measure for them.

    Attributes:
        sizes: in the order of the network.
        weights: layer that speaks -> name of its weight in the file.
        input_first: those of them whose weights have the input channels first.

    """

    sizes: tuple[Size, ...]
    weights: dict[str, str]
    input_first: frozenset[str]

    def heard(self, measured: Collection[str]) -> dict[str, tuple[Voice, ...]]:
        """Voices of each size by the layers that could be measured; the others are left out."""
        known = set(measured)
        found = {}
        for size in self.sizes:
            kept = (Voice(v.side, tuple(n for n in v.layers if n in known)) for v in size.voices)
            found[size.name] = tuple(voice for voice in kept if voice.layers)
        return found


def speakers_of(graph: Graph) -> Speakers:
    """The sizes of a network whose channels are solved, and who speaks for each."""
    analysis = analysis_of(graph)
    sizes = sizes_of(analysis, silent_layers(graph))
    speaking = {name for size in sizes for voice in size.voices for name in voice.layers}
    weights = {layer.name: layer.weight for layer in analysis.layers if layer.name in speaking}
    return Speakers(sizes, weights, _input_first(graph, speaking))


def sizes_of(analysis: Analysis, silent: Collection[str] = ()) -> tuple[Size, ...]:
    """The free sizes of an analysed network, each with its voices.

    ``silent`` layers have none beside other producers of a size; where they are its only ones they speak.
    """
    groups: dict[str, list[GroupEntry]] = {}
    for group in analysis.groups:
        if group.free:
            groups.setdefault(group.size, []).append(group)
    size_of = {group.id: group.size for group in analysis.groups if group.free}
    layers = [layer for layer in analysis.layers if _has_rank(layer, size_of)]
    wide = {layer.name for layer in layers if layer.kernel is not None and max(layer.kernel, default=1) > 1}
    found = []
    for name, members in groups.items():
        voices = _heard(members, layers, size_of, silent)
        found.append(
            Size(
                name,
                sum(group.width for group in members),
                math.lcm(*(group.multiple for group in members)),
                tuple(group.id for group in members),
                tuple(dict.fromkeys(layer for group in members for layer in group.producers)),
                voices,
                not any(wide.intersection(voice.layers) for voice in voices),
            )
        )
    return tuple(found)


def _heard(
    members: list[GroupEntry], layers: list[LayerEntry], size_of: dict[str, str], silent: Collection[str]
) -> tuple[Voice, ...]:
    """The voices of a size: its producers by their output, those that read it alone by their input."""
    outs = tuple(_voices("out", members, layers, size_of))
    ins = tuple(_voices("in", members, layers, size_of))

    def loud(voices: tuple[Voice, ...]) -> tuple[Voice, ...]:
        return tuple(voice for voice in voices if not set(voice.layers) <= set(silent))

    return (*(loud(outs) or outs), *loud(ins)) or ins


def _has_rank(layer: LayerEntry, size_of: dict[str, str]) -> bool:
    """A convolution that is not depthwise, or a product that is no classifier."""
    if layer.kind != "conv":
        return False
    return layer.op in CONVOLUTIONS or (
        layer.op in PRODUCTS and any(group in size_of for group in layer.out_groups)
    )


def _voices(
    side: Literal["out", "in"], members: list[GroupEntry], layers: list[LayerEntry], size_of: dict[str, str]
) -> Iterable[Voice]:
    """Voices of one side: each layer with the whole size alone, those with parts of it together."""
    name, ids = members[0].size, {group.id for group in members}
    whole: list[str] = []
    parts: dict[frozenset[str], list[str]] = {}
    for layer in layers:
        touched = layer.out_groups if side == "out" else layer.in_groups
        # On its input a layer must read this size and nothing else.
        mine = ids.intersection(touched)
        if not mine or (side == "in" and any(size_of.get(group) != name for group in touched)):
            continue
        if side == "in" and layer.op in PRODUCTS and layer.in_channels != sum(g.width for g in members):
            continue  # it reads pixels times channels
        if mine == ids:
            whole.append(layer.name)
        else:
            parts.setdefault(frozenset(mine), []).append(layer.name)
    for layer_name in whole:
        yield Voice(side, (layer_name,))
    # The first layers of all parts belong together, the second ones, ...
    for together in zip_longest(*parts.values()):
        yield Voice(side, tuple(layer_name for layer_name in together if layer_name is not None))


def _input_first(graph: Graph, speaking: set[str]) -> frozenset[str]:
    """Layers whose stored weights have the input channels first, then the output channels."""
    known = facts(graph)
    return frozenset(
        known[layer.op.index].name
        for layer in layers_of(graph)
        if known[layer.op.index].name in speaking and _is_input_first(graph, layer, known[layer.op.index])
    )


def _is_input_first(graph: Graph, layer: Layer, found: LayerFacts) -> bool:
    if found.op in PRODUCTS and found.in_channels != found.out_channels:
        # The shape in the file tells, also behind a Transpose.
        stored = graph.shape(found.weight) or ()
        return tuple(stored[-2:]) == (found.in_channels, found.out_channels)
    return is_input_first(layer)
