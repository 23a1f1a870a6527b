"""Which positions of an axis are multiples of one another, told from the rows that make them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Ids = NDArray[np.int64]

# Two rows are one when their directions differ by no more than float32 arithmetic leaves behind.
CLOSE = 1e-6
# Projections of equal directions differ by no more than this, however long the rows are.
NEAR = 1e-4
# So many numbers of a row are looked at first.
BEGINNING = 32
# Numbers of rows that are compared together.
BLOCK = 2**20


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
    members, crowd = _several(bucket)
    if len(members):
        # All rows at once are not copied: they may be a large layer's weights.
        mine = rows if len(members) == count else rows[members]
        number[members], length[members] = _by_direction(mine, members, crowd)
    return number, length if factor is None else length * factor


def _several(bucket: Ids) -> tuple[Ids, Ids]:
    """The positions that are not alone in their bucket, and of each a number for its bucket."""
    if all_differ(bucket):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if not bucket.any():
        return np.arange(len(bucket)), bucket
    _, crowd, times = np.unique(bucket, return_inverse=True, return_counts=True)
    members = np.flatnonzero(times[crowd] > 1)
    return members, crowd[members]


def _by_direction(rows: NDArray[Any], names: Ids, crowd: Ids) -> tuple[Ids, Numbers]:
    """Names of the rows by their directions, and their lengths where others of a crowd have the same.

    The length of a row that points the other way than the rest of its kind is negative.
    """
    rows = rows.reshape(len(rows), -1)
    number, signed = names.copy(), np.ones(len(rows))
    with np.errstate(all="ignore"):
        order, crowd, marks, length = _crowds(rows, crowd)
    if not len(order):
        return number, signed
    signed[order] = np.where(marks[:, 0] < 0, -length, length)
    marks = np.abs(marks)
    number[order] = names[order[_first_alike(rows[order], signed[order], crowd, marks)]]
    return _led_by_the_first(number, names), signed


def _lengths(rows: NDArray[Any]) -> Numbers:
    lengths: Numbers = np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(np.float64)
    return lengths


def _first_alike(rows: NDArray[Any], signed: Numbers, crowd: Ids, marks: Numbers) -> Ids:
    """For each row the first one that it is a multiple of.

    Args:
        rows: crowd by crowd, in the order of their first mark.
        signed: their lengths.
        crowd: only rows of one crowd may be multiples of one another.
        marks: numbers [rows, any] that are near for rows that are.

    """
    first = np.arange(len(rows))
    left, apart = first.copy(), 1
    while apart < len(left):
        one, two = left[:-apart], left[apart:]
        near = (crowd[one] == crowd[two]) & (marks[two, 0] - marks[one, 0] <= NEAR)
        if not near.any():
            break
        one, two = one[near], two[near]
        near = (np.abs(marks[one, 1:] - marks[two, 1:]) <= NEAR).all(axis=1)
        one, two = one[near], two[near]
        same = _same_direction(rows, signed, one, two)
        first[two[same]] = one[same]
        # What has found its first need not be looked at again: all rows may be one.
        left, apart = (np.setdiff1d(left, two[same]), 1) if same.any() else (left, apart + 1)
    while (first[first] != first).any():
        first = first[first]
    return first


def _crowds(rows: NDArray[Any], crowd: Ids) -> tuple[Ids, Ids, Numbers, Numbers]:
    """Rows that may be multiples of others, crowd by crowd: rows, crowds, marks [rows, any], lengths.

    Rows of different crowds, as they are given, are never multiples of one another.

    A mark is the projection of a row, or of its beginning, as if its length were 1, onto a direction that
    has nothing to do with the rows. Most rows are told apart by how they begin: then no more of them is read.
    """
    usable, crowd, begun = begin_alike(rows[:, :BEGINNING], crowd)
    if not len(usable):
        return usable, crowd, np.empty((0, 1)), np.empty(0)
    # All rows at once are not copied: they may be a large layer's weights.
    whole = rows if len(usable) * 2 > len(rows) else rows[usable]
    length, shadow = np.zeros(len(rows)), np.zeros(len(rows))
    at = slice(None) if whole is rows else usable
    length[at] = _lengths(whole)
    shadow[at] = (whole @ _directions(rows.shape[1], 1).astype(rows.dtype))[:, 0].astype(np.float64)
    fine = np.isfinite(length[usable]) & (length[usable] > 0)
    usable, crowd = usable[fine], crowd[fine]
    shadow[usable] /= length[usable]
    usable, crowd = _told_apart(usable, np.abs(shadow[usable]), crowd)
    return usable, crowd, np.column_stack([shadow[usable], begun[usable]]), length[usable]


def begin_alike(start: NDArray[Any], crowd: Ids) -> tuple[Ids, Ids, Numbers]:
    """Rows of which the beginnings may be multiples of others', crowd by crowd: rows, crowds, marks.

    The marks [all rows, 2] are projections as ``_crowds`` has them.
    """
    own = _lengths(start)
    marks = (start @ _directions(start.shape[1], 2).astype(start.dtype)) / own[:, None]
    # What begins with zeros, or with what is no number, is told apart by the rest.
    marks[~(np.isfinite(own) & (own > 0))] = 0.0
    marks = np.abs(marks)
    usable = np.arange(len(start))
    for column in marks.T:
        usable, crowd = _told_apart(usable, column[usable], crowd)
        if not len(usable):
            break
    return usable, crowd, marks


def _told_apart(rows: Ids, shadows: Numbers, crowd: Ids) -> tuple[Ids, Ids]:
    """Rows and their crowds, in order, after those whose shadows are not near have been parted.

    Whoever stands alone is left out.
    """
    places = crowd * (shadows.max(initial=0.0) + 1.0) + shadows  # no shadow reaches the next crowd
    order = np.argsort(places)
    near = np.diff(places[order]) <= NEAR
    several = np.zeros(len(order), np.bool_)
    several[1:] = near
    several[:-1] |= near
    parted = np.zeros(len(order), np.int64)
    np.cumsum(~near, out=parted[1:])
    return rows[order[several]], parted[several]


@lru_cache(maxsize=64)
def _directions(length: int, count: int) -> Numbers:
    """Vectors [length, count] of numbers within -1 and 1 that repeat no pattern."""
    numbers: Numbers = np.cos(np.arange(1.0, length * count + 1) ** 2)
    return numbers.reshape(length, count)


def _same_direction(rows: NDArray[Any], signed: Numbers, one: Ids, two: Ids) -> NDArray[np.bool_]:
    """Whether the rows ``one`` are multiples of the rows ``two``, pair by pair."""
    same = np.zeros(len(one), np.bool_)
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(one), step):
        a, b = one[start : start + step], two[start : start + step]
        left = rows[a].astype(np.float64) / signed[a, None]
        difference = np.abs(left - rows[b].astype(np.float64) / signed[b, None]).max(axis=1, initial=0.0)
        same[start : start + step] = difference <= CLOSE * np.abs(left).max(axis=1, initial=0.0)
    return same


def _led_by_the_first(number: Ids, names: Ids) -> Ids:
    """Each kind renamed to the least name in it."""
    kinds, inverse = np.unique(number, return_inverse=True)
    least = np.full(len(kinds), np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, names)
    renamed: Ids = least[inverse]
    return renamed


def all_differ(kind: Ids) -> bool:
    """Whether no position is said to be like another: each has its own number, as nearly everywhere."""
    return bool((kind == np.arange(len(kind))).all())


def bucket_of(*columns: NDArray[Any]) -> Ids:
    """One number for each different combination of the columns' entries."""
    if all_differ(columns[0]):
        return columns[0]
    bucket = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, own = np.unique(column, return_inverse=True)
        _, bucket = np.unique(bucket * (int(own.max(initial=0)) + 1) + own, return_inverse=True)
    return bucket.astype(np.int64)
