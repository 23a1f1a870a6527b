"""Channels near the geometric median of their group: what the others hold, too (He et al., FPGM, 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.tie_channels import CHANNELS

Scores = NDArray[np.float64]


def distances(graph: Graph, places: Mapping[str, Mapping[int, Ids]], otherwise: Scores) -> Scores:
    """For each class of channels, the sum of its weights' distances to those of all others of its group.

    The weights of a class are all that the group's tensors hold of it. A tensor that holds the classes
    unequally often tells no distances; a group with no other tensors keeps the score that it has otherwise.

    Args:
        graph: analysed.
        places: the classes along the axes of each constant.
        otherwise: other scores.

    """
    made = otherwise.copy()
    number = np.full(len(otherwise), -1, np.int64)
    groups = graph.result(CHANNELS).groups
    for k, group in enumerate(groups):
        number[group.classes] = k
    squares: dict[int, Scores] = {}
    for name, axes in places.items():
        constant = graph.constants.get(name)
        if constant is None or not constant.is_float:
            continue
        array = graph.array(name)
        for axis, classes in axes.items():
            for k in np.unique(number[classes]).tolist():
                found = _squares(array, axis, classes, groups[k].classes) if k >= 0 else None
                if found is not None:
                    squares[k] = squares.get(k, 0.0) + found
    for k, found in squares.items():
        made[groups[k].classes] = np.sqrt(found).sum(1)
    return made


def _squares(array: NDArray[np.generic], axis: int, classes: Ids, group: Ids) -> Scores | None:
    """Squared distances between the slices of each two classes of a group [n, n]; None where they differ."""
    order = np.argsort(classes, kind="stable")
    place = order[np.isin(classes[order], group)]
    found, times = np.unique(classes[place], return_counts=True)
    if len(found) != len(group) or len(set(times.tolist())) != 1:
        return None
    # ``found`` is sorted, the group's own order need not be.
    rows = np.moveaxis(array, axis, 0)[place].reshape(len(found), -1).astype(np.float64)
    rows = rows[np.searchsorted(found, group)]
    rows -= rows.mean(0)
    with np.errstate(invalid="ignore", over="ignore"):
        gram = rows @ rows.T
        size = np.diagonal(gram)
        made: Scores = np.maximum(size[:, None] + size[None] - 2 * gram, 0.0)
    return made
