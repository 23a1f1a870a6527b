"""The different numbers of an array."""

from __future__ import annotations

import numpy as np

from conet_graph.passes.channels.units import Ids


def distinct(numbers: Ids) -> Ids:
    """What is in an array, each number once, in order.

    As ``np.unique``, which imports ``numpy.ma`` when it is first called in this way: that takes longer than
    the passes do for a small network.

    >>> distinct(np.array([3, 1, 3, 2])).tolist()
    [1, 2, 3]
    """
    ordered = np.sort(numbers, axis=None)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def is_rising(numbers: Ids) -> bool:
    """Whether each number is larger than the one before: told much faster than numbers are sorted."""
    return bool((numbers[1:] > numbers[:-1]).all())
