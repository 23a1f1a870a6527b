"""Widths and layers by name: which groups a name stands for, and how many classes a width is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from conet_graph.analysis.explain import explain
from conet_graph.analysis.layers import layer_names, layers_by_name
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS, Channels, Group, made_axes

# Groups by number, and for each how many channels a class has where the name counts them.
Found = dict[int, int]


def find_groups(graph: Graph, name: str) -> Found:
    """The groups that a name stands for: a group's id, a size, or a layer (its output channels).

    Returns:
        For each group's number, the channels a class has: on the layer's own output where it is named.

    Raises:
        BadUsage: there is no such name; the message says which are close.

    """
    channels = graph.result(CHANNELS)
    groups = channels.groups
    found = [k for k, g in enumerate(groups) if g.id == name]
    found = found or [k for k, g in enumerate(groups) if g.size == name and g.free]
    if found:
        return {k: groups[k].multiple for k in found}
    layers = layers_by_name(graph)
    if name in layers:
        return _on_output(channels, layers[name])
    known = [*layer_names(graph).values(), *(g.id for g in groups)]
    close = difflib.get_close_matches(name, known, 3) or known[:3]
    raise BadUsage(f"There is no layer or group {shown(name)}; close are {', '.join(map(shown, close))}.")


def _on_output(channels: Channels, layer: Layer) -> Found:
    classes = channels.layer_axes[layer.op.index][1]
    numbers = channels.group_of_class[classes] if classes is not None else np.zeros(0, np.int64)
    return {
        int(group.id[1:]): max(1, int(np.count_nonzero(numbers == int(group.id[1:]))) // len(group.classes))
        for group in channels.groups_on(classes)
    }


def asked_counts(graph: Graph, widths: Mapping[str, int], keep: Iterable[str]) -> dict[int, int]:
    """How many classes each group named in ``widths`` is to have.

    Raises:
        BadUsage: an unknown name, a width that is not possible, two names that contradict each other.
        Refused: the group is frozen.

    """
    kept = {k: name for name in keep for k in find_groups(graph, name)}
    asked: dict[int, int] = {}
    told: dict[int, str] = {}
    for name, width in widths.items():
        for k, count in _counts(graph, name, width).items():
            if k in kept:
                raise BadUsage(
                    f"{shown(name)} is to be {width} wide, but {shown(kept[k])} is to stay: drop one."
                )
            if asked.setdefault(k, count) != count:
                raise BadUsage(
                    f"{shown(told[k])} and {shown(name)} have the same channels: give them one width."
                )
            told.setdefault(k, name)
    return asked


def _counts(graph: Graph, name: str, width: int) -> dict[int, int]:
    channels = graph.result(CHANNELS)
    found = find_groups(graph, name)
    groups = [channels.groups[k] for k in found]
    for group in groups:
        if not group.free:
            raise Refused(f"{shown(name)} cannot change: {_reason(graph, name, group)}.")
    if not groups:
        raise Refused(f"{shown(name)} cannot change: its output carries no channels.")
    if len(groups) > 1 and _makes_several_axes(graph, name):
        told = " and ".join(f"{group.id} ({group.width})" for group in groups)
        raise BadUsage(f"{shown(name)} makes several axes of channels: give each its own width, {told}.")
    steps = np.array(list(found.values()), np.int64)
    counts = _shared_out(groups, steps, width)
    if int(counts @ steps) != width:
        raise BadUsage(_impossible(name, width, steps, int(counts @ steps)))
    return dict(zip(found, counts.tolist(), strict=True))


def _makes_several_axes(graph: Graph, name: str) -> bool:
    """Whether a name is that of a layer whose weight makes heads and their sizes, say, in one."""
    layer = layers_by_name(graph).get(name)
    units = graph.result(CHANNELS).units
    return layer is not None and sum(not isinstance(axis, int) for axis in made_axes(units, layer)) > 1


def _reason(graph: Graph, name: str, group: Group) -> str | None:
    """Why the channels that a name stands for are frozen; a layer has a reason of its own."""
    try:
        return explain(graph, name).reason or group.reason
    except BadUsage:
        return group.reason


def _shared_out(groups: list[Group], steps: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Classes for each group, in proportion to what they have; what rounding leaves goes where it fits."""
    old = np.array([len(g.classes) for g in groups], np.int64)
    shares = old * (width / int(old @ steps))
    counts = np.maximum(shares.astype(np.int64), 1)
    # The group that is furthest below its share comes first, the earlier one where they are equal.
    order = np.argsort(counts - shares, kind="stable")
    while len(fitting := order[counts @ steps + steps[order] <= width]):
        counts[fitting[0]] += 1
        order = np.append(order[order != fitting[0]], fitting[0])
    return counts


def _impossible(name: str, width: int, steps: NDArray[np.int64], reached: int) -> str:
    near = f"{reached} or {reached + int(steps.min())}" if reached <= width else str(reached)
    if len(steps) == 1:
        why = f"its channels move {steps[0]} at once, so its width is a multiple of {steps[0]}"
    else:
        why = f"its channels are {len(steps)} sizes that move {', '.join(map(str, steps))} at once"
    return f"{shown(name)} cannot be {width} wide: {why}; give {near}."
