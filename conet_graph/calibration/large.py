"""Layers with too many features for a fit of every weight: they are compensated, and their bias is fitted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.solving import Doubles

Floats = NDArray[np.float32]

# Features of one block beyond which a layer is not fitted: its second moments are the square of that.
MOST_FEATURES = 6144
# The same for a fit that only compares widths: solving for so many takes longer than all else.
MOST_FEATURES_QUICK = 1536
# Rows that are looked at.
ROWS = 1024


def most_features(quick: bool) -> int:
    """Features of one block beyond which a layer is not fitted."""
    return MOST_FEATURES_QUICK if quick else MOST_FEATURES


def best_start(
    rows: Iterable[tuple[Floats, Floats]], starts: list[Doubles], bias: Doubles | None, with_bias: bool
) -> tuple[int, Doubles, float, float]:
    """Which weights do best, each with its best bias.

    Args:
        rows: features [b, n, F] and targets [b, n, O].
        starts: matrices [b, F, O], first the weights there are.
        bias: the bias there is [b, O].
        with_bias: whether a bias can be had.

    Returns:
        The number of the best, its bias [b, O], and the errors before and after, in the targets' variance.

    """
    gaps: list[list[NDArray[np.float64]]] = [[] for _ in starts]
    matrices = [start.astype(np.float32) for start in starts]
    targets = []
    for x, y in rows:
        targets.append(y)
        for k, matrix in enumerate(matrices):
            gaps[k].append((y - x @ matrix).astype(np.float64))
    wanted = np.concatenate(targets, axis=1)
    whole = float(wanted.var(1).sum()) or 1.0
    held = np.concatenate(gaps[0], axis=1)
    own = np.zeros((held.shape[0], held.shape[2])) if bias is None or not with_bias else bias
    before = float(np.square(held - own[:, None]).mean(1).sum()) / whole
    best, best_bias, after = 0, own, before
    for k in range(len(starts)):
        gap = np.concatenate(gaps[k], axis=1)
        offset = gap.mean(1) if with_bias else own
        error = float(np.square(gap - offset[:, None]).mean(1).sum()) / whole
        if np.isfinite(error) and error < after:
            best, best_bias, after = k, offset, error
    return best, best_bias, before, after
