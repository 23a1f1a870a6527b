"""Time over two widths: a staircase that only rises, fitted to measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.latency.table import Point

Numbers = NDArray[np.float64]

# Runtimes compute channels in blocks of so many: a width counts as the next multiple, and one that is no
# multiple may cost more than that, since such feature maps change their layout on the way.
BLOCKS = (1, 8, 16)
RAGGED = (8, 16)
TERMS = 1 + len(BLOCKS) + len(RAGGED)
FLOOR = 0.05  # of the largest time: what is shorter need not fit as well


@dataclass(frozen=True)
class Surface:
    """Milliseconds as a sum of products of widths, each rounded up to a block; no factor is negative.

    So among widths of whole blocks time only grows, and between measured points it follows the blocks' steps.
    """

    factors: Numbers

    @staticmethod
    def fitted(points: Sequence[Point]) -> Surface:
        """The surface closest to some points in relative terms; nothing but zero where there are none."""
        from scipy.optimize import nnls

        if not points:
            return Surface(np.zeros(TERMS**2))
        first, second, times = (np.array(column) for column in zip(*points, strict=True))
        if not times.any():
            return Surface(np.zeros(TERMS**2))
        products = terms(first, second)
        weights = 1 / (times + FLOOR * times.max())
        sizes = np.maximum(products.max(axis=0), 1.0)  # the solver's tolerances are absolute
        factors, _ = nnls(products / sizes * weights[:, None], times * weights)
        return Surface(factors / sizes)

    def __call__(self, first: Numbers, second: Numbers) -> Numbers:
        """Milliseconds at some widths."""
        values: Numbers = terms(first, second) @ self.factors
        return values


def terms(first: Numbers, second: Numbers) -> Numbers:
    """All products of the two widths in each of the blocks, in one more axis."""
    products = _in_blocks(first)[..., :, None] * _in_blocks(second)[..., None, :]
    return products.reshape(*first.shape, -1)


def _in_blocks(widths: Numbers) -> Numbers:
    """1, a width rounded up to each of the blocks, and the width where it is no multiple of them."""
    rounded = [np.ceil(widths / block) * block for block in BLOCKS]
    ragged = [np.where(widths % block, widths, 0.0) for block in RAGGED]
    return np.stack([np.ones_like(widths), *rounded, *ragged], axis=-1)
