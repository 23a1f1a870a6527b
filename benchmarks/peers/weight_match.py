"""Which channels a pruned weight kept, read off its values alone: the same for every pruner.

A pruner that only removes channels leaves a sub-array of each weight. Values of random weights are
all different, so the sub-array says which rows and columns stayed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRIES = 16
Kept = tuple[NDArray[np.int64], NDArray[np.int64]]


def kept_channels(old: NDArray[np.float32], new: NDArray[np.float32], groups: int = 1) -> Kept | None:
    """Old outputs and old inputs that a pruned weight kept; None where the values do not say.

    Args:
        old: weight before, ``[outputs, inputs / groups, ...]``.
        new: weight after.
        groups: of the convolution before.

    """
    rows = old.reshape(old.shape[0], old.shape[1], -1)
    cut = new.reshape(new.shape[0], new.shape[1], -1)
    if rows.shape == cut.shape and np.array_equal(rows, cut):
        return np.arange(len(rows)), np.arange(rows.shape[1] * groups)
    if rows.shape[2] != cut.shape[2] or not cut.size:
        return None
    return _dense(rows, cut) if groups == 1 else _grouped(rows, cut, groups)


def _positions(values: NDArray[np.float32], among: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Where each of ``values`` stands ``among`` others; None where one stands nowhere, or twice."""
    among, values = np.ascontiguousarray(among), np.ascontiguousarray(values)
    found = {entry.tobytes(): place for place, entry in enumerate(among)}
    places = [found.get(entry.tobytes(), -1) for entry in values]
    if len(found) != len(among) or -1 in places or len(set(places)) != len(places):
        return None
    return np.array(places)


def _dense(old: NDArray[np.float32], new: NDArray[np.float32]) -> Kept | None:
    inputs = _kept_inputs(old, new)
    if inputs is None:
        return None
    outputs = _positions(new.reshape(len(new), -1), old[:, inputs].reshape(len(old), -1))
    return None if outputs is None else (outputs, inputs)


def _kept_inputs(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Old inputs that a dense weight kept, from the first rows whose old row can be told."""
    came_from: list[tuple[int, int]] = []
    for number, row in enumerate(new[:TRIES]):
        rows = np.flatnonzero((old == row[0]).all(-1).any(1))
        if len(rows) > TRIES:
            return None  # values that are all alike
        matching = [int(output) for output in rows if np.isin(row, old[output]).all()]
        if len(matching) != 1:
            continue
        came_from.append((number, matching[0]))
        # Two values of a long row may be equal by chance: so look at one row, then two, three, ...
        news, olds = (list(each) for each in zip(*came_from, strict=True))
        inputs = _positions(new[news].swapaxes(0, 1), old[olds].swapaxes(0, 1))
        if inputs is not None:
            return inputs
    return None


def _grouped(old: NDArray[np.float32], new: NDArray[np.float32], groups: int) -> Kept | None:
    """Row by row: each group may have kept other inputs, and whole groups may be gone."""
    outputs: list[int] = []
    inputs: set[int] = set()
    for row in new:
        for output in np.flatnonzero((old == row[0]).all(-1).any(1)):
            within = _positions(row, old[output])
            if within is not None:
                outputs.append(int(output))
                inputs |= {int(output) // (len(old) // groups) * old.shape[1] + int(i) for i in within}
                break
        else:
            return None
    if len(set(outputs)) != len(outputs):
        return None
    return np.array(outputs), np.array(sorted(inputs))
