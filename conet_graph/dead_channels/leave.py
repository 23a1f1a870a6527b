"""What stays behind of channels that go without loss: constants in biases, multiples in weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Ids, Numbers
from conet_graph.dead_channels.contractions import Contraction, constant_sum
from conet_graph.dead_channels.facts import Facts
from conet_graph.dead_channels.find import Dead, dead_among
from conet_graph.ir.graph import Graph
from conet_graph.passes.widths.rewidth import Layout, TensorPlan

Mask = NDArray[np.bool_]


def keep_the_function(graph: Graph, layout: Layout) -> None:
    """Let the consumers of dropped channels that are dead compute what they did before.

    Adds offsets and merges to the layout's tensors, and notes the classes that go without loss.

    Args:
        graph: the analysed original.
        layout: a narrower network; one in which any channel is copied stays as it is.

    """
    copies = layout.labels.copies
    dropped = copies == 0
    if (copies > 1).any() or not dropped.any():
        return
    dead = dead_among(graph, dropped)
    leave_behind(graph, layout, dead)
    layout.lossless = dead.lossless(dropped)


def leave_behind(graph: Graph, layout: Layout, dead: Dead) -> None:
    """Add offsets and merges for the dropped channels that are dead to a layout's tensors."""
    dropped = layout.labels.copies == 0
    idle = dropped & dead.idle
    merged = dead.replaced(dropped)
    for place in dead.places:
        if dead.facts is not None:
            _absorb(dead.facts, layout, place, idle)
        _merge(graph, layout, place, merged)


def absorbed(place: Contraction, idle: Mask) -> Mask:
    """The positions of a sum whose constants go into a bias, where the classes ``idle`` are dropped."""
    if place.absorber is None or place.data is None:
        return np.zeros(len(place.classes), np.bool_)
    taken: Mask = idle[place.classes] & place.data.constant & (place.data.low != 0)
    return taken


def merging(place: Contraction, merged: Mapping[int, int]) -> Iterator[tuple[Ids, Ids, Numbers]]:
    """Positions that go, those that speak for them, and how many times as large they were."""
    if place.weight is None or place.data is None:
        return
    for gone, into in merged.items():
        origins, targets = np.flatnonzero(place.classes == gone), np.flatnonzero(place.classes == into)
        if len(origins):
            yield origins, targets, place.data.factor[origins] / place.data.factor[targets]


def _absorb(facts: Facts, layout: Layout, place: Contraction, idle: Mask) -> None:
    """Add what constant channels contributed to a layer's outputs to its bias."""
    if place.absorber is None:
        return
    taken = absorbed(place, idle)
    if not taken.any():
        return
    offset = place.absorber.factor * constant_sum(facts, place, taken)
    if not offset.any():
        return
    plan = _plan_of(facts.graph, layout, place.absorber.tensor)
    kept = offset[plan.axes[0]] if 0 in plan.axes else offset
    plan.offset = kept if plan.offset is None else plan.offset + kept


def _merge(graph: Graph, layout: Layout, place: Contraction, merged: dict[int, int]) -> None:
    """Add the weights of a channel that is a multiple of another one to that one's weights."""
    for origins, targets, ratios in merging(place, merged):
        assert place.weight is not None
        plan = _plan_of(graph, layout, place.weight[0])
        entries = plan.merge.setdefault(place.weight[1] % len(graph.constants[place.weight[0]].dims), [])
        entries += zip(targets.tolist(), origins.tolist(), ratios.tolist(), strict=True)


def _plan_of(graph: Graph, layout: Layout, name: str) -> TensorPlan:
    return layout.tensors.setdefault(name, TensorPlan(graph.constants[name].source))
