"""Which channels of a network can go without a change of its outputs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.contractions import Contraction, contractions
from conet_graph.dead_channels.facts import Facts
from conet_graph.dead_channels.glance import Beside
from conet_graph.dead_channels.walk import walk
from conet_graph.ir.graph import Graph, Result
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.tie_channels import CHANNELS, Channels

Mask = NDArray[np.bool_]


@dataclass
class Dead:
    """The classes of channels of a network that change nothing.

    ``idle``: constant or unheard wherever they are summed over. ``twins``: sets of classes that are multiples
    of one another wherever they are summed over: one of each set is enough.
    """

    idle: Mask
    twins: list[list[int]]
    facts: Facts | None = None
    places: list[Contraction] = field(default_factory=list)

    def removable(self) -> Mask:
        """All classes that can go together: of twins, the first one stays."""
        found = self.idle.copy()
        for classes in self.twins:
            found[classes[1:]] = True
        return found

    def replaced(self, dropped: Mask) -> dict[int, int]:
        """For each dropped class that has a twin that stays, that twin."""
        found = {}
        for classes in self.twins:
            kept = [klass for klass in classes if not dropped[klass]]
            if kept and len(kept) < len(classes):
                strongest = max(kept, key=self._strength)
                found.update({klass: strongest for klass in classes if dropped[klass]})
        return found

    def lossless(self, dropped: Mask) -> Mask:
        """Those of the dropped classes without which the outputs stay as they are."""
        found = self.idle & dropped
        found[list(self.replaced(dropped))] = True
        return found

    def _strength(self, klass: int) -> float:
        """How large a channel is beside its twins; a small one would magnify rounding."""
        place = next(place for place in self.places if (place.classes == klass).any())
        assert place.data is not None, "twins are told apart wherever they are"
        return float(np.abs(place.data.factor[place.classes == klass]).min())


DEAD: Result[Dead] = Result("dead channels", "dead_channels")
AMONG_MASKED: Result[Dead] = Result("dead channels where others are masked", "dead_channels")


def dead_channels(graph: Graph, masked: bool = False, beside: Beside | None = None) -> Dead:
    """Find the channels that can go without a change of the outputs.

    Args:
        graph: with its channels solved.
        masked: whether any other channels may go too, so that they are zero where they are summed over.
        beside: called with the weights of layers as they are read, for who looks at them, too.

    """
    what = AMONG_MASKED if masked else DEAD
    if not graph.has(what):
        graph.keep(what, _found(graph, masked, beside))
    return graph.result(what)


def dead_among(graph: Graph, dropped: Mask) -> Dead:
    """The dead channels to be counted on where these classes go: all, if others stay as they are."""
    if graph.has(DEAD):
        lossless = graph.result(DEAD).lossless(dropped)
        # Where none of them is dead, none is when less is known.
        if np.array_equal(lossless, dropped) or not lossless.any():
            return graph.result(DEAD)
    return dead_channels(graph, masked=True)


def is_constant(graph: Graph, value: str) -> bool:
    """Whether a value is known to be the same for all inputs, also where channels are masked."""
    facts = dead_channels(graph, masked=True).facts
    if facts is None or value in graph.constants:
        return False
    fact = facts.of(value)
    if fact.low == fact.high:
        return bool(np.isfinite(fact.low))
    return any(bool(along.constant.all()) for along in fact.along.values())


def _found(graph: Graph, masked: bool, beside: Beside | None) -> Dead:
    channels = graph.result(CHANNELS)
    candidates = _candidates(channels)
    if not candidates.any():
        return Dead(candidates, [])
    facts = walk(graph, masked, beside)
    places = contractions(facts)
    candidates &= _summed(places, len(candidates))
    idle = _idle(candidates, places)
    return Dead(idle, _twins(places, candidates & ~idle), facts, places)


def _candidates(channels: Channels) -> Mask:
    """Free classes that no operator looks across without weights."""
    found = np.zeros(len(channels.units.frozen_class), np.bool_)
    for group in channels.groups:
        found[group.classes] = group.free
    for _, axis in channels.units.mixes:
        found[channels.units.classes[axis]] = False
    return found


def _summed(places: list[Contraction], count: int) -> Mask:
    """Classes that are summed over somewhere: of others it is not known where they lead."""
    found = np.zeros(count, np.bool_)
    for place in places:
        found[place.classes] = True
    return found


def _idle(candidates: Mask, places: list[Contraction]) -> Mask:
    """Classes that no sum hears, or hears as a constant that can go elsewhere; the largest such set."""
    idle = np.zeros_like(candidates)
    while True:
        alive = ~candidates
        for place in places:
            heard = place.heard(idle)
            if place.data is not None:
                constant = place.data.constant
                heard = heard & ~(
                    constant if place.absorber is not None else constant & (place.data.low == 0)
                )
            alive[place.classes[heard]] = True
        found = ~alive
        if np.array_equal(found, idle):
            return idle
        idle = found


def _twins(places: list[Contraction], candidates: Mask) -> list[list[int]]:
    """Sets of classes that are multiples of one another at every sum, in the order of their channels."""
    candidates = candidates.copy()
    for place in places:
        candidates[place.classes[~_has_a_twin(place)]] = False
    signatures: dict[int, list[Hashable]] = {}
    for number, place in enumerate(places):
        if place.data is None:
            continue
        for klass in distinct(place.classes[candidates[place.classes]]).tolist():
            kinds = place.data.kind[place.classes == klass]
            signatures.setdefault(klass, []).append((number, tuple(kinds.tolist())))
    sets: dict[tuple[Hashable, ...], list[int]] = {}
    for klass, told in signatures.items():
        sets.setdefault(tuple(told), []).append(klass)
    return [classes for classes in sets.values() if len(classes) > 1]


def _has_a_twin(place: Contraction) -> Mask:
    """Positions with another one that is a multiple of them, where weights can be added up."""
    if place.weight is None or place.data is None:
        return np.zeros(len(place.classes), np.bool_)
    _, inverse, times = np.unique(place.data.kind, return_inverse=True, return_counts=True)
    factor = place.data.factor
    found: Mask = (times[inverse] > 1) & np.isfinite(factor) & (factor != 0)
    return found
