"""Which channels matter: one score for each class of channels, comparable between groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import Channels

WAYS = ("l2", "l1", "bn", "first", "random")
Scores = NDArray[np.float64]


def importance(graph: Graph, how: str, seed: int = 0) -> Scores:
    """Score every class of channels; higher means it should stay.

    Args:
        graph: an analysed graph.
        how: 'l2' or 'l1' norm over all weights of the channel's group, 'bn' the scale of its batch norms,
            'first' the order in the file, 'random'.
        seed: for 'random'.

    Returns:
        One score a class, divided by the mean of its group: layers differ in the size of their weights,
        and a ranking over all groups is to compare channels, not layers (Molchanov et al. 2017).

    Raises:
        BadUsage: there is no such way.

    """
    if how not in WAYS:
        raise BadUsage(f"--importance is {how!r}: choose one of {', '.join(WAYS)}.")
    channels: Channels = graph.notes["channels"]
    count = len(channels.units.frozen_class)
    if how == "random":
        raw = np.random.default_rng(seed).uniform(0.5, 1.5, count)
    elif how == "first":
        raw = np.zeros(count)
        for group in channels.groups:
            raw[group.classes] = np.linspace(1.5, 0.5, len(group.classes))
    else:
        raw = _norms(graph, channels, count, how)
    return _by_group(channels, raw)


def _norms(graph: Graph, channels: Channels, count: int, how: str) -> Scores:
    total, scales = np.zeros(count), np.zeros(count)
    has_scale = np.zeros(count, np.bool_)
    places: dict[str, list[int]] = {}
    for name, axis in channels.units.stored:
        places.setdefault(name, []).append(axis)
    norm_scales = {op.input(1) for op in graph.operators if op.op_type == "BatchNormalization"}
    for name, axes in places.items():
        constant = graph.constants.get(name)
        if constant is None or not constant.is_float:
            continue
        array = graph.array(name)
        for axis in axes:
            units = channels.units.stored[name, axis]
            if isinstance(units, int):
                continue
            classes = channels.units.classes[units]
            np.add.at(total, classes, _along(array, axis, how))
            if name in norm_scales:
                np.add.at(scales, classes, _along(array, axis, "l1"))
                has_scale[classes] = True
    raw = total if how == "l1" else np.sqrt(total)
    if how != "bn":
        return raw
    # Channels without a batch norm are ranked by their weights; groups are not mixed, see _by_group.
    return np.where(has_scale, scales, raw)


def _along(array: NDArray[np.generic], axis: int, how: str) -> Scores:
    """Sum of squares (or magnitudes) of the slices along an axis; NaN and infinity count as huge."""
    matrix = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    out = np.empty(len(matrix))
    step = max(1, 2**20 // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), step):
        part = np.asarray(matrix[start : start + step], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            sums = np.abs(part).sum(axis=1) if how == "l1" else np.einsum("ij,ij->i", part, part)
        out[start : start + step] = np.nan_to_num(sums, nan=1e30, posinf=1e30)
    return out


def _by_group(channels: Channels, raw: Scores) -> Scores:
    scores = np.ones_like(raw)
    for group in channels.groups:
        mean = raw[group.classes].mean()
        scores[group.classes] = raw[group.classes] / mean if mean > 0 else 1.0
    return scores
