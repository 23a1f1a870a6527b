"""Bounds and likeness through operators that work number by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conet_graph.dead_channels.alike import Numbers, bucket_of
from conet_graph.dead_channels.facts import Along, Facts, combined
from conet_graph.ir.graph import Operator

Bounds = tuple[Numbers, Numbers]


@dataclass(frozen=True)
class Operand:
    """One input of a pointwise operator, laid out like an axis of its output.

    ``fixed``: it is a constant; ``along``: its positions, None where all have the same bounds.
    """

    low: Numbers
    high: Numbers
    along: Along | None
    fixed: bool


def operands(facts: Facts, op: Operator, names: list[str], axis: int, count: int) -> list[Operand]:
    """The inputs of a pointwise operator along an axis of its output."""
    rank = facts.rank(op.outputs[0]) or 0
    found = []
    for name in names:
        own = axis - rank + (facts.rank(name) or 0)
        along = facts.along(name, own) if own >= 0 else None
        fact = facts.of(name)
        if along is not None and len(along) == count:
            low, high = along.low, along.high
        else:
            along, low, high = None, np.full(count, fact.low), np.full(count, fact.high)
        # A constant that varies along other axes too is one operand with bounds, not a number.
        found.append(Operand(low, high, along, name in facts.graph.constants and bool((low == high).all())))
    return found


def products(parts: list[Bounds]) -> Bounds:
    """Bounds of a product of numbers within bounds; zero times anything is zero."""
    low, high = parts[0]
    for least, most in parts[1:]:
        with np.errstate(invalid="ignore"):
            corners = np.stack([low * least, low * most, high * least, high * most])
        corners = np.where(np.isnan(corners), 0.0, corners)
        low, high = corners.min(axis=0), corners.max(axis=0)
    return low, high


def scaled(low: Numbers, high: Numbers, factor: Numbers) -> Bounds:
    """Bounds of numbers within bounds, each times a factor; endless ones times zero are zero."""
    with np.errstate(invalid="ignore"):
        one, other = low * factor, high * factor
    one[np.isnan(one)] = 0.0
    other[np.isnan(other)] = 0.0
    return np.minimum(one, other), np.maximum(one, other)


def _sum(parts: list[Bounds]) -> Bounds:
    return np.sum([p[0] for p in parts], axis=0), np.sum([p[1] for p in parts], axis=0)


def _difference(parts: list[Bounds]) -> Bounds:
    return parts[0][0] - parts[1][1], parts[0][1] - parts[1][0]


def _quotient(parts: list[Bounds]) -> Bounds:
    (low, high), (least, most) = parts
    with np.errstate(all="ignore"):
        reciprocal = 1.0 / most, 1.0 / least
    unknown = ~((least > 0) | (most < 0))
    found = products([(low, high), reciprocal])
    return np.where(unknown, -np.inf, found[0]), np.where(unknown, np.inf, found[1])


def _slopes(parts: list[Bounds]) -> Bounds:
    """PRelu: what is negative is multiplied with a slope."""
    (low, high), slope = parts
    positive = np.maximum(low, 0), np.maximum(high, 0)
    negative = products([(np.minimum(low, 0), np.minimum(high, 0)), slope])
    # Number by number one of the two is zero: the bounds are those of either side that occurs.
    least = np.where(low >= 0, low, np.minimum(negative[0], np.where(high > 0, 0, np.inf)))
    most = np.where(high <= 0, negative[1], np.maximum(positive[1], np.where(low < 0, negative[1], 0)))
    return least, most


BOUNDS: dict[str, Callable[[list[Bounds]], Bounds]] = {
    "Add": _sum,
    "Sum": _sum,
    "Sub": _difference,
    "Mul": products,
    "Div": _quotient,
    "PRelu": _slopes,
    "Max": lambda parts: (np.max([p[0] for p in parts], axis=0), np.max([p[1] for p in parts], axis=0)),
    "Min": lambda parts: (np.min([p[0] for p in parts], axis=0), np.min([p[1] for p in parts], axis=0)),
    "Mean": lambda parts: (np.mean([p[0] for p in parts], axis=0), np.mean([p[1] for p in parts], axis=0)),
    "Where": lambda parts: (
        np.min([p[0] for p in parts[1:]], axis=0),
        np.max([p[1] for p in parts[1:]], axis=0),
    ),
}


def several(facts: Facts, op: Operator) -> None:
    """An operator of several inputs that are broadcast together."""
    names = [n for n in op.inputs if n]
    if op.attr("broadcast", 0):
        return  # before opset 7 axes were aligned in another way
    fold = BOUNDS[op.op_type]
    along = {}
    for axis in facts.axes(op.outputs[0], names):
        ids = facts.ids(op.outputs[0], axis)
        if ids is None:
            continue
        parts = operands(facts, op, names, axis, len(ids))
        low, high = fold([(p.low, p.high) for p in parts])
        rows, bucket, factor = _likeness(op, parts, len(ids))
        along[axis] = combined(low, high, rows, bucket, factor)
    ranges = tuple((facts.of(n).low, facts.of(n).high) for n in names)
    least, most = facts.range_of(
        (op.op_type, ranges), lambda: fold([(np.array([low]), np.array([high])) for low, high in ranges])
    )
    facts.say(op, -np.inf if np.isnan(least) else least, np.inf if np.isnan(most) else most, along)


def _likeness(op: Operator, parts: list[Operand], count: int) -> tuple[Numbers, np.ndarray, Numbers]:
    """Rows, buckets and factors of the output's positions, as ``alike`` takes them."""
    moving = [p for p in parts if p.along is not None and not p.fixed]
    fixed = [p for p in parts if p.fixed]
    unclear = [p for p in parts if p.along is None and not p.fixed]
    kinds = [p.along.kind for p in moving if p.along is not None] or [np.arange(count)]
    factors = [p.along.factor for p in moving if p.along is not None] or [np.ones(count)]
    one = np.ones((count, 1))
    is_product = op.op_type == "Mul" or (op.op_type == "Div" and parts[0] in moving and parts[1] in fixed)
    if is_product:
        numbers = [1 / p.low if op.op_type == "Div" else p.low for p in fixed] if _no_zero(op, fixed) else []
        if len(numbers) == len(fixed):
            return one, bucket_of(*kinds), np.prod([*factors, *numbers], axis=0)
    if op.op_type in ("Add", "Sum", "Sub", "Mean"):
        # An operand that is the same for all positions is a summand like a constant one.
        shared = [one[:, 0]] * len(unclear)
        rows = np.stack([*factors, *[p.low for p in fixed], *shared], axis=1)
        return rows, bucket_of(*kinds), np.ones(count)
    bounds = [p.low for p in fixed]
    return one, bucket_of(*kinds, *factors, *bounds), np.ones(count)


def _no_zero(op: Operator, fixed: list[Operand]) -> bool:
    return op.op_type == "Mul" or all((p.low != 0).all() for p in fixed)
