"""Rankings by what calibration inputs show, and the loss curves that come with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.elimination import eliminate
from conet_graph.calibration.gram import Doubles
from conet_graph.calibration.statistics import Reading
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.ranking import importance

# The rankings that need inputs.
CALIBRATED = ("reconstruction", "activation")


def knowledge_of(
    graph: Graph,
    found: Sequence[Reading],
    how: str,
    costs: CostModel | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Knowledge:
    """Scores of all classes and loss curves of all free groups.

    Args:
        graph: the analysed network.
        found: what its layers read on the calibration inputs.
        how: 'reconstruction': channels that the others can replace go first; 'activation': channels that
            say little go first, the variance of each times the squares of the weights that read it; or a
            ranking by weights alone (``ranking.WAYS``): then the losses are those of its channels.
        costs: the network's, where the file alone does not tell them.
        tick: called after each group.

    """
    channels = graph.result(CHANNELS)
    weights_alone = importance(graph, "l2" if how in CALIBRATED else how)
    scores = weights_alone.copy()
    losses: dict[int, Doubles] = {}
    for number, group in enumerate(channels.groups):
        if not group.free:
            continue
        read_by = [r for r in found if np.isin(r.classes, group.classes).any()]
        order, curve = _by(how, group.classes, read_by, weights_alone)
        scores[order] = np.arange(1, len(order) + 1) / len(order)
        losses[number] = np.maximum.accumulate(curve)
        tick()
    return Knowledge(scores, losses, costs)


def _by(how: str, classes: Ids, read_by: list[Reading], weights_alone: Doubles) -> tuple[Ids, Doubles]:
    """The classes of a group in the order in which they go, and the loss once 0, 1, 2, ... are gone."""
    if how == "reconstruction":
        eliminated = eliminate(classes, [(r, 1.0) for r in read_by])
        if eliminated is not None:
            return eliminated.order, eliminated.losses
    elif read_by:
        lost = _activations(classes, read_by)
        order = np.argsort(lost if how == "activation" else weights_alone[classes], kind="stable")
        return classes[order], np.concatenate([[0.0], np.cumsum(lost[order])])
    order = np.argsort(weights_alone[classes], kind="stable")
    energy = np.square(weights_alone[classes][order])
    return classes[order], np.concatenate([[0.0], np.cumsum(energy) / max(float(energy.sum()), 1e-30)])


def _activations(classes: Ids, read_by: Sequence[Reading]) -> Doubles:
    """For each class, the variance of its features times the squares of the weights that read them."""
    place = {int(c): k for k, c in enumerate(classes)}
    lost = np.zeros(len(classes))
    for reading in read_by:
        energy = np.diagonal(reading.moments, axis1=1, axis2=2) * np.square(reading.weight).sum(2)
        index = np.array([place.get(int(c), -1) for c in reading.classes.reshape(-1)])
        mine: NDArray[np.bool_] = index >= 0
        share = energy.reshape(-1)[mine].astype(np.float64) / max(reading.spread, 1e-30)
        np.add.at(lost, index[mine], share)
    return lost
