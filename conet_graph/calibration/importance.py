"""Rankings by what calibration inputs show, and the loss curves that come with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.elimination import eliminate
from conet_graph.calibration.gradients import GRADIENTS, sensitivities
from conet_graph.calibration.inputs import Calibration
from conet_graph.calibration.memory import within_memory
from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.stages import Feeds
from conet_graph.calibration.statistics import Reading, readings
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.ranking import WAYS, changing_nothing, importance

# What is compared where no ranking is asked for, and the name of that.
BEST, BEST_OF = "best", ("reconstruction", "activation")
RANKINGS = (*BEST_OF, *GRADIENTS, *WAYS)


def knowledge_of(
    graph: Graph,
    found: Sequence[Reading],
    how: str,
    costs: CostModel | None = None,
    feeds: Feeds = (),
) -> Knowledge:
    """Scores of all classes and loss curves of all free groups.

    Channels without which the outputs stay as they are go first, for nothing.

    Args:
        graph: the analysed network.
        found: what its layers read on the calibration inputs.
        how: 'reconstruction': channels that the others can replace go first; 'activation': channels that
            say little go first, the variance of each times the squares of the weights that read it; a
            ranking by gradients (``gradients.GRADIENTS``); or one by weights alone (``ranking.WAYS``): then
            the losses are those of its channels.
        costs: the network's, where the file alone does not tell them.
        feeds: calibration inputs, for rankings by gradients.

    Raises:
        BadUsage: there is no such ranking.

    """
    if how not in RANKINGS:
        raise BadUsage(f"--importance is {how!r}: choose one of {', '.join((BEST, *RANKINGS))}.")
    channels = graph.result(CHANNELS)
    weights_alone = importance(graph, how if how in WAYS else "l2")
    dead = changing_nothing(graph, weights_alone)
    moved = sensitivities(graph, feeds, how) if how in GRADIENTS else None
    scores = weights_alone.copy()
    losses: dict[int, Doubles] = {}
    for number, group in enumerate(channels.groups):
        if not group.free:
            continue
        classes = group.classes
        read_by = [r for r in found if np.isin(r.classes, classes).any()]
        made = None
        if how == "reconstruction":
            made = eliminate(classes, [(r, 1.0) for r in read_by], set(classes[dead[classes]].tolist()))
        if made is not None:
            order, curve = made.order, made.losses
        else:
            key, lost = weights_alone[classes], np.square(weights_alone[classes])
            if moved is not None and moved[classes].any():
                key = lost = moved[classes]
            elif read_by:
                lost = _activations(classes, read_by)
                key = lost if how == "activation" else key
            else:
                lost = lost / max(float(lost.sum()), 1e-30)
            order, curve = _in_order(classes, key, lost, dead[classes])
        scores[order] = np.arange(1, len(order) + 1) / len(order)
        losses[number] = np.maximum.accumulate(curve)
    return Knowledge(scores, losses, costs)


def loss_curves(graph: Graph, data: Calibration) -> dict[str, list[float]]:
    """By the id of each free group, what its readers lose once 0, 1, 2, ... of its steps are gone.

    Channels go as by 'reconstruction', and the losses are shares of the variance of what the readers put out.

    Raises:
        Refused: ONNX Runtime does not run the network on these inputs.

    """
    data = within_memory(graph, data)
    known = knowledge_of(graph, readings(graph, data.fit), "reconstruction")
    groups = graph.result(CHANNELS).groups
    return {groups[k].id: curve.tolist() for k, curve in known.losses.items()}


def _in_order(classes: Ids, key: Doubles, lost: Doubles, dead: NDArray[np.bool_]) -> tuple[Ids, Doubles]:
    """The classes of a group in the order in which they go, and the loss once 0, 1, 2, ... are gone."""
    order = np.lexsort((key, ~dead))
    return classes[order], np.concatenate([[0.0], np.cumsum(np.where(dead, 0.0, lost)[order])])


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
