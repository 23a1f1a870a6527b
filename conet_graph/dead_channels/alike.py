"""Which positions of an axis are multiples of one another, told from the rows that make them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Ids = NDArray[np.int64]

# Two rows are one when their directions differ by no more than float32 arithmetic leaves behind.
CLOSE = 1e-6
# Projections of equal directions differ by no more than this, however long the rows are.
NEAR = 1e-4


def alike(rows: NDArray[Any], bucket: Ids, factor: Numbers | None = None) -> tuple[Ids, Numbers]:
    """Number the positions so that those which are multiples of one another get one number.

    Args:
        rows: [n, m]; positions of one bucket with proportional rows are multiples of one another.
        bucket: [n]; positions of different buckets never are.
        factor: [n]; what each position's row is to be multiplied with further; 1 if not given.

    Returns:
        Each position's number (the first of its kind), and its factor: positions p and q with one number
        carry values in the ratio of their factors.

    """
    count = len(bucket)
    number, length = np.arange(count), np.ones(count)
    for members in map(np.sort, _several(bucket)):
        # All rows at once are not copied: they may be a large layer's weights.
        mine = rows if len(members) == count else rows[members]
        number[members], length[members] = _by_direction(mine, members)
    return number, length if factor is None else length * factor


def _several(bucket: Ids) -> list[Ids]:
    """The buckets with more than one position, each as its positions."""
    order = np.argsort(bucket, kind="stable")
    same = np.diff(bucket[order]) == 0
    if not same.any():
        return []
    cuts = np.flatnonzero(~same) + 1
    return [part for part in np.split(order, cuts) if len(part) > 1]


def _by_direction(rows: NDArray[Any], names: Ids) -> tuple[Ids, Numbers]:
    """Names of the rows by their directions, and their lengths (negative where they point backwards)."""
    rows = rows.reshape(len(rows), -1)
    rng = np.random.default_rng(0)
    # In the rows' own type: large weights are not to be copied.
    probe = rng.standard_normal(rows.shape[1]).astype(rows.dtype)
    shadow = (rows @ probe).astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(np.float64)
    usable = np.isfinite(length) & (length > 0) & np.isfinite(shadow)
    number, signed = names.copy(), np.where(shadow < 0, -length, length)
    signed[~usable] = 1.0
    along = np.where(usable, np.abs(shadow) / np.where(usable, length, 1.0), np.inf)
    order = np.argsort(along, kind="stable")[: int(usable.sum())]
    for at, row in enumerate(order):
        if number[row] != names[row]:
            continue
        for other in order[at + 1 :]:
            if along[other] - along[row] > NEAR:
                break
            if number[other] == names[other] and _same_direction(rows, signed, int(row), int(other)):
                # Of several the first position speaks for all.
                number[other] = names[row]
    return _led_by_the_first(number, names), signed


def _same_direction(rows: NDArray[Any], signed: Numbers, one: int, two: int) -> bool:
    left = rows[one].astype(np.float64) / signed[one]
    difference = np.abs(left - rows[two].astype(np.float64) / signed[two]).max(initial=0.0)
    return bool(difference <= CLOSE * np.abs(left).max(initial=0.0))


def _led_by_the_first(number: Ids, names: Ids) -> Ids:
    """Each kind renamed to the least name in it."""
    kinds, inverse = np.unique(number, return_inverse=True)
    least = np.full(len(kinds), np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, names)
    renamed: Ids = least[inverse]
    return renamed


def bucket_of(*columns: NDArray[Any]) -> Ids:
    """One number for each different combination of the columns' entries."""
    bucket = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, own = np.unique(column, return_inverse=True)
        _, bucket = np.unique(bucket * (int(own.max(initial=0)) + 1) + own, return_inverse=True)
    return bucket.astype(np.int64)
