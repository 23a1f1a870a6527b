"""Weights that make up for dropped channels by what the original says of them: where a fit starts from.

A kernel's positions (or a Flatten's) share one rule for how a dropped channel follows from those that stay,
found from the covariances of whole channels. That takes far fewer inputs than a fit of every weight, so it is
what such a fit is pulled towards where inputs are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from conet_graph.calibration.forms import Form, places_of
from conet_graph.calibration.rows import Picks
from conet_graph.calibration.solving import Doubles, solver_of
from conet_graph.calibration.stages import Array
from conet_graph.ir.operators import CONVOLUTIONS, RECURRENT, einsum_layer, is_turned
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import Layer

# Rows of the covariances, for each class of channels; and what is added to their diagonal.
ROWS_A_CLASS, DAMPING = 64, 1e-3


def channel_axes(layer: Layer) -> tuple[int, int]:
    """The axes of a layer's input and output along which its channels lie."""
    op = layer.op
    if op.op_type in CONVOLUTIONS:
        return 1, 1
    if op.op_type in RECURRENT:
        return 2, -1
    written = einsum_layer(op, layer.weight_slot)
    if written is not None:
        return _place(written.summed[-1], written.data), _place(written.made[-1], written.result)
    on_the_left = layer.weight_slot < layer.data_slot
    turned = is_turned(op, layer.data_slot)
    return (-2 if on_the_left != turned else -1), (-2 if on_the_left else -1)


def _place(letter: str, term: str) -> int:
    """The axis of a letter of an Einsum, counted from the end where an ellipsis stands before it."""
    place = term.index(letter)
    return place - len(term) if "..." in term[:place] else place


def compensated(
    form: Form,
    start: Doubles,
    original: Doubles,
    classes: Ids,
    kept: Ids,
    covariance_of: Callable[[Ids], Doubles],
) -> Doubles | None:
    """The weights that stay, with what the others add by way of them.

    Args:
        form: of the layer; one block.
        start: the weights that stay [1, F', O].
        original: all weights [1, F, O], of the outputs that stay.
        classes: the class of each channel of the original's input.
        kept: old position of each new channel.
        covariance_of: the covariances of classes of the original's input channels, by the places of each.

    Returns:
        [1, F', O]; None where no channel went, or channels of a class do not lie alike.

    """
    order = np.argsort(classes, kind="stable")
    names, times = np.unique(classes, return_counts=True)
    if len(set(times.tolist())) != 1 or len(np.unique(kept)) != len(kept):
        return None
    place = order.reshape(len(names), int(times[0]))  # [class, n-th channel of it] -> old position
    stays = np.isin(place, kept)
    if not (stays.all(1) | ~stays.any(1)).all() or stays.all():
        return None
    kept_classes, gone = np.flatnonzero(stays[:, 0]), np.flatnonzero(~stays[:, 0])
    if not len(kept_classes):
        return None
    moments = covariance_of(place)
    inner = moments[np.ix_(kept_classes, kept_classes)]
    inner[np.diag_indices_from(inner)] += DAMPING * np.trace(inner) / len(inner) + 1e-20
    shares = solver_of(inner[None])(moments[np.ix_(kept_classes, gone)][None])[0]
    per, outputs = form.per_channel, start.shape[2]
    lost = original[0].reshape(-1, per, outputs)[place[gone]]  # [gone, n, per, O]
    added = np.tensordot(shares, lost, 1)
    new_place = np.full(len(classes), -1, np.int64)
    new_place[kept] = np.arange(len(kept))
    made = start[0].reshape(-1, per, outputs).copy()
    made[new_place[place[kept_classes]]] += added
    found: Doubles = made.reshape(start.shape)
    return found


def covariance(maps: Sequence[Array], axis: int, place: Ids) -> Doubles:
    """Covariances of classes of channels, over all places.

    Args:
        maps: a value, an array a feed.
        axis: its channels.
        place: where the channels of each class lie [class, n-th channel of it].

    """
    # Channels of a class lie at as many places: each is a row of its own.
    limit = ROWS_A_CLASS * len(place) // len(maps) // place.shape[1] + 1
    parts = []
    for k, array in enumerate(maps):
        table = places_of(array, axis, Picks([k], limit))[:, place]
        parts.append(np.moveaxis(table, 1, 2).reshape(-1, len(place)))
    rows = np.concatenate(parts)
    rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
    made: Doubles = (rows.T @ rows).astype(np.float64) / max(len(rows), 1)
    return made
