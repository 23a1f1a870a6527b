"""Which channels matter: one score for each class of channels, comparable between groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.find import dead_channels
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS, Channels
from conet_graph.rewriting.medians import distances

WAYS = ("l2", "l1", "bn", "fpgm", "first", "random")
Scores = NDArray[np.float64]
# Weights are looked at this many at a time: they stay in the cache, and files may be larger than memory.
CHUNK = 2**16


def importance(graph: Graph, how: str, seed: int = 0) -> Scores:
    """Score every class of channels; higher means it should stay.

    Args:
        graph: an analysed graph.
        how: 'l2' or 'l1' norm over all weights of the channel's group, 'bn' the scale of its batch norms
            (the l2 norm where it has none), 'fpgm' the distance to all other channels of the group (those
            near the geometric median go first), 'first' the order in the file, 'random'.
        seed: for 'random', 0 or more.

    Returns:
        One score a class, divided by the mean of its group: layers differ in the size of their weights,
        and a ranking over all groups is to compare channels, not layers (Molchanov et al. 2017). A
        channel with weights that are not finite scores as the best finite one of its group. A channel
        without which the outputs stay as they are scores below zero, whatever its weights are, and counts
        in no mean (in a group of such channels only all count; ``below_the_living`` puts them down).

    Raises:
        BadUsage: there is no such way, or the seed is negative.

    """
    if how not in WAYS:
        raise BadUsage(f"--importance is {how!r}: choose one of {', '.join(WAYS)}.")
    if seed < 0:
        raise BadUsage(f"--seed is {seed}: give 0 or more.")
    channels = graph.result(CHANNELS)
    count = len(channels.units.frozen_class)
    if how == "random":
        raw = np.random.default_rng(seed).uniform(0.5, 1.5, count)
    elif how == "first":
        raw = np.zeros(count)
        for group in channels.groups:
            raw[group.classes] = np.linspace(1.5, 0.5, len(group.classes))
    else:
        norms = _Norms(graph, channels, "l2" if how == "fpgm" else how)
        dead_channels(graph, masked=True, beside=norms.read)  # reads most of the weights, too
        raw = norms.of_each()
        if how == "fpgm":
            raw = distances(graph, norms.places, raw)
    return _by_group(channels, *_without_dead(graph, raw))


def below_the_living(graph: Graph, scores: Scores) -> Scores:
    """The scores with groups that are dead as a whole below all others, too."""
    dead = dead_channels(graph, masked=True).idle
    made = scores.copy()
    for group in graph.result(CHANNELS).groups:
        if dead[group.classes].all():
            made[group.classes] = _squashed(scores[group.classes])
    return made


def changing_nothing(graph: Graph, scores: Scores) -> NDArray[np.bool_]:
    """The classes that can go for nothing; of those that are multiples of one another the best stays."""
    return _without_dead(graph, scores)[1]


def _squashed(scores: Scores) -> Scores:
    """Scores from 0 on, in the same order, between -1 and 0."""
    squashed: Scores = scores / (1 + scores) - 1
    return squashed


def _without_dead(graph: Graph, raw: Scores) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores in which the best of channels that are multiples of one another speaks for all; who is dead."""
    found, raw = dead_channels(graph, masked=True), raw.copy()
    dead = found.idle.copy()
    for twins in found.twins:
        best = max(twins, key=lambda klass: float(raw[klass]))
        dead[twins] = True
        dead[best] = False
        raw[best] = raw[twins].sum()
    return raw, dead


def lacks_norms(graph: Graph) -> bool:
    """Whether there is no batch norm whose scale 'bn' could read (exporters fold them into the weights)."""
    return not any(op.op_type == "BatchNormalization" for op in graph.operators)


class _Norms:
    """The norms of each class over all weights of its channels, added up as the weights are read."""

    def __init__(self, graph: Graph, channels: Channels, how: str) -> None:
        count = len(channels.units.frozen_class)
        self.graph, self.how, self.places = graph, how, _places(channels)
        self.total, self.scales = _Sums(count), _Sums(count)
        norms = [op for op in graph.operators if op.op_type == "BatchNormalization"]
        self.norm_scales = {op.input(1) for op in norms} if how == "bn" else set()
        self.left = {
            name for name in self.places if name in graph.constants and graph.constants[name].is_float
        }

    def read(self, name: str, array: NDArray[np.generic]) -> None:
        """Add up the numbers of a constant, if that was not done yet."""
        if name not in self.left:
            return
        self.left.remove(name)
        axes = self.places[name]
        with np.errstate(invalid="ignore", over="ignore"):
            for axis, sums in _slice_sums(array, list(axes), squares=self.how != "l1").items():
                self.total.add(axes[axis], sums)
            if name in self.norm_scales:
                for axis, sums in _slice_sums(array, list(axes), squares=False).items():
                    self.scales.add(axes[axis], sums)

    def of_each(self) -> Scores:
        """The norms, with the weights that nobody has read yet."""
        for name in sorted(self.left):
            self.read(name, self.graph.array(name))
        with np.errstate(invalid="ignore", over="ignore"):
            raw = self.total.of_each() if self.how == "l1" else np.sqrt(self.total.of_each())
            # Where only some channels have a batch norm, each group is still ranked by one of the two.
            return np.where(self.scales.added(), self.scales.of_each(), raw) if self.how == "bn" else raw


class _Sums:
    """Numbers that are added up class by class, all at once: a numpy call for each vector takes longer."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.classes, self.numbers = [np.empty(0, np.int64)], [np.empty(0)]

    def add(self, classes: NDArray[np.int64], numbers: Scores) -> None:
        self.classes.append(classes)
        self.numbers.append(numbers)

    def of_each(self) -> Scores:
        """The sum of each class."""
        classes, numbers = np.concatenate(self.classes), np.concatenate(self.numbers)
        return np.bincount(classes, numbers, self.count).astype(np.float64, copy=False)

    def added(self) -> NDArray[np.bool_]:
        """The classes that something was added to."""
        found = np.zeros(self.count, np.bool_)
        found[np.concatenate(self.classes)] = True
        return found


def _places(channels: Channels) -> dict[str, dict[int, NDArray[np.int64]]]:
    """The classes along each axis of each constant that carries channels."""
    places: dict[str, dict[int, NDArray[np.int64]]] = {}
    for (name, axis), units in channels.units.stored.items():
        if not isinstance(units, int):
            places.setdefault(name, {})[axis] = channels.units.classes[units]
    return places


def _slice_sums(array: NDArray[np.generic], axes: list[int], squares: bool) -> dict[int, Scores]:
    """For each axis, the sums of squares (or magnitudes) of the slices along it, in one reading."""
    if array.ndim == 1:
        return {0: (np.square if squares else np.abs)(array, dtype=np.float64)}
    if array.itemsize <= 4:
        sums = _sums_in(array, axes, squares, np.float32)
        if all(_is_exact(each) for each in sums.values()):
            return sums
    return _sums_in(array, axes, squares, np.float64)


def _is_exact(sums: Scores) -> bool:
    """Whether float32 had room for these sums of squares: none overflowed, and none may have vanished."""
    return bool(sums.min(initial=1.0) > 1e-30 and sums.max(initial=1.0) < 1e38)


def _sums_in(
    array: NDArray[np.generic], axes: list[int], squares: bool, kind: type[np.floating[Any]]
) -> dict[int, Scores]:
    """The sums, with pieces of the weights added up in floats of this kind."""
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    first, rest = np.zeros(rows.shape[0]), np.zeros(rows.shape[1])
    height = max(1, CHUNK // max(rows.shape[1], 1))
    for top in range(0, rows.shape[0], height):
        for left in range(0, rows.shape[1], CHUNK):
            piece = rows[top : top + height, left : left + CHUNK].astype(kind, copy=False)
            terms, factors = ("ij,ij", [piece, piece]) if squares else ("ij", [np.abs(piece)])
            if 0 in axes:
                first[top : top + height] += np.einsum(f"{terms}->i", *factors)
            if axes != [0]:
                rest[left : left + CHUNK] += np.einsum(f"{terms}->j", *factors)
    others = rest.reshape(array.shape[1:])
    sums = {k: others.sum(axis=tuple(j for j in range(others.ndim) if j != k - 1)) for k in axes if k}
    return sums | ({0: first} if 0 in axes else {})


def _by_group(channels: Channels, raw: Scores, dead: NDArray[np.bool_]) -> Scores:
    scores = np.ones_like(raw)
    for group in channels.groups:
        mine = raw[group.classes]
        gone = dead[group.classes]
        if gone.all() or not gone.any():
            scores[group.classes] = _over_mean(mine)
            continue
        found = np.empty_like(mine)
        found[~gone], found[gone] = _over_mean(mine[~gone]), _squashed(_over_mean(mine))[gone]
        scores[group.classes] = found
    return scores


def _over_mean(raw: Scores) -> Scores:
    """Scores divided by their mean; one where all are zero."""
    best = raw.max(initial=0.0)
    if not np.isfinite(best):
        finite = np.isfinite(raw)
        best = raw[finite].max(initial=0.0)
        raw = np.where(finite, raw, best)
    if best <= 0:
        return np.ones_like(raw)
    # Divided by the best first: the sum of numbers near the largest float would overflow.
    raw = raw / best
    over: Scores = raw / raw.mean()
    return over
