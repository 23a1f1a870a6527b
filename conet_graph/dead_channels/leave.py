"""What stays behind of channels that go without loss: constants in biases, multiples in weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.contractions import Contraction, constant_sum
from conet_graph.dead_channels.facts import Facts
from conet_graph.dead_channels.find import dead_among
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
    idle = dropped & dead.idle
    merged = dead.replaced(dropped)
    for place in dead.places:
        if dead.facts is not None:
            _absorb(dead.facts, layout, place, idle)
        _merge(graph, layout, place, merged)
    layout.lossless = dead.lossless(dropped)


def _absorb(facts: Facts, layout: Layout, place: Contraction, idle: Mask) -> None:
    """Add what constant channels contributed to a layer's outputs to its bias."""
    if place.absorber is None:
        return
    taken = idle[place.classes] & place.data.constant & (place.data.low != 0)
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
    for gone, into in merged.items():
        origins, targets = np.flatnonzero(place.classes == gone), np.flatnonzero(place.classes == into)
        if not len(origins) or place.weight is None:
            continue
        ratios = place.data.factor[origins] / place.data.factor[targets]
        plan = _plan_of(graph, layout, place.weight[0])
        entries = plan.merge.setdefault(place.weight[1] % len(graph.constants[place.weight[0]].dims), [])
        entries += zip(targets.tolist(), origins.tolist(), ratios.tolist(), strict=True)


def _plan_of(graph: Graph, layout: Layout, name: str) -> TensorPlan:
    return layout.tensors.setdefault(name, TensorPlan(graph.constants[name].source))
