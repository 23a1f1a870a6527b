"""What stands for a channel that went without loss: a constant, or a multiple of a channel that stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Ids, Numbers
from conet_graph.dead_channels.contractions import Contraction
from conet_graph.dead_channels.find import Dead, dead_among, dead_channels
from conet_graph.dead_channels.leave import absorbed, leave_behind, merging
from conet_graph.ir.graph import Graph
from conet_graph.passes.widths.rewidth import TensorPlan, lay_out

Mask = NDArray[np.bool_]
# An operator by its index, and the classes that it sums over, as bytes.
SumPlace = tuple[int, bytes]


@dataclass(frozen=True)
class StandIn:
    """What an operator may be given for an axis that it sums over, whatever dropped channels hold.

    Position p becomes ``value[index[p]] * factor[p] + shift[p]``: itself where its channel stays, else what
    biases and weights were given for it.
    """

    index: Ids
    factor: Numbers
    shift: Numbers


def stand_ins(graph: Graph, copies: Ids, tensors: Mapping[str, TensorPlan]) -> dict[SumPlace, StandIn] | None:
    """What stands for the channels that a plan drops without loss, sum by sum.

    Args:
        graph: the analysed original.
        copies: of each class of channels, by the plan.
        tensors: the plan's, with the offsets and merges that dead channels left behind.

    Sums for which nothing stands are left out. None where the plan's is not what is found of the graph
    today: then nobody knows what the offsets stand for.

    """
    dropped = copies == 0
    for dead in _candidates(graph, dropped):
        layout = lay_out(graph, copies, keeps_function=False)
        leave_behind(graph, layout, dead)
        if _left_the_same(layout.tensors, tensors):
            idle, merged = dropped & dead.idle, dead.replaced(dropped)
            made = ((_place(p), _stand_in(p, dropped, idle, merged)) for p in dead.places)
            return {place: stand_in for place, stand_in in made if stand_in is not None}
    return None


def _candidates(graph: Graph, dropped: Mask) -> Iterator[Dead]:
    yield dead_among(graph, dropped)
    yield dead_channels(graph)


def _place(place: Contraction) -> SumPlace:
    return place.op.index, place.classes.tobytes()


def _left_the_same(found: Mapping[str, TensorPlan], planned: Mapping[str, TensorPlan]) -> bool:
    nothing = TensorPlan("")
    for name in {*found, *planned}:
        mine, theirs = found.get(name, nothing), planned.get(name, nothing)
        if mine.merge != theirs.merge or (mine.offset is None) != (theirs.offset is None):
            return False
        if mine.offset is not None and not np.array_equal(mine.offset, np.asarray(theirs.offset)):
            return False
    return True


def _stand_in(place: Contraction, dropped: Mask, idle: Mask, merged: Mapping[int, int]) -> StandIn | None:
    gone = dropped[place.classes]
    index, factor, shift = np.arange(len(gone)), np.where(gone, 0.0, 1.0), np.zeros(len(gone))
    taken = absorbed(place, idle)
    if place.data is not None:
        shift[taken] = place.data.low[taken]
    for origins, targets, ratios in merging(place, merged):
        index[origins], factor[origins] = targets, ratios
    stands = taken.any() or (factor[gone] != 0).any()
    return StandIn(index, factor, shift) if stands else None
