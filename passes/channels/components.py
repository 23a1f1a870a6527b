"""Classes of units that equations make equal: the connected components of a graph, by numpy alone.

scipy.sparse.csgraph gives the same; importing it costs more than the analysis of a network does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def components(
    left: NDArray[np.int64], right: NDArray[np.int64], count: int
) -> tuple[int, NDArray[np.int64]]:
    """Find out what is equal when each of ``left`` equals its ``right``.

    Every unit points to a smaller one, or to itself: a root. In each round, each root that has a smaller
    neighbour points to it, and then everything points to its root again. Rounds are few, of order log^2
    at worst (Liu and Tarjan, Simple concurrent labeling algorithms for connected components, 2019).

    Args:
        left: one side of each equation, units from 0 to count - 1.
        right: the other side.
        count: how many units there are.

    Returns:
        How many classes there are, and each unit's class; classes are numbered by their first units.

    """
    root = np.arange(count)
    while len(left):
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(further := root[root], root):
            root = further
    first = root == np.arange(count)
    return int(first.sum()), (np.cumsum(first) - 1)[root]
