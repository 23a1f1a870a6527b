"""How many rows of a feature map a fit takes, and which: the same ones whenever it is asked."""

from __future__ import annotations

import numpy as np

from conet_graph.passes.channels.units import Ids

# Rows that a fit takes: so many, and so many more for each feature; its error grows by features / rows.
ROWS, ROWS_A_FEATURE = 4096, 80
# The share of them that does to compare widths.
QUICK = 0.4
# Multiply-adds that the second moments of one layer may take, and the rows for each feature that they take
# nonetheless.
MOST_WORK, LEAST_A_FEATURE = 1e11, 6


def most_rows(features: int, blocks: int, quick: bool = False) -> int:
    """How many rows a fit takes at most: more tell little new once they are many times the features."""
    affordable = max(int(MOST_WORK / (features**2 * max(blocks, 1))), LEAST_A_FEATURE * features)
    return min(int((ROWS + ROWS_A_FEATURE * features) * (QUICK if quick else 1)), affordable)


def first_row(count: int) -> Ids:
    """The first of so many rows: for whoever wants to know how long a row is."""
    return np.arange(min(count, 1))


class Picks:
    """Chooses ``limit`` rows at most, all over the map; the same ones for the same seed."""

    def __init__(self, seed: list[int], limit: int = 0) -> None:
        self.seed, self.limit = seed, limit

    def __call__(self, count: int) -> Ids | None:
        """The numbers of the rows that are wanted, of ``count``; None for all."""
        if count <= self.limit:
            return None
        return np.sort(np.random.default_rng(self.seed).choice(count, self.limit, replace=False))
