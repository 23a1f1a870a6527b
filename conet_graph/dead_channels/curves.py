"""Bounds and likeness through activations: one number in, one number out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.alike import Numbers, bucket_of
from conet_graph.dead_channels.facts import Along, Facts, combined
from conet_graph.ir.graph import Operator
from conet_graph.passes.shapes.constant_values import evaluated

# Curves that never fall (LeakyRelu and its like with a slope that is not negative: see ``_rises``).
RISING = frozenset(
    (
        *("Atan", "Asinh", "Celu", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid"),
        *("Identity", "LeakyRelu", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sinh", "Softplus"),
        *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    )
)
# Curves that fall to a least value below zero, then rise: their least value, rounded down.
DIPPING = {"Gelu": -0.171, "HardSwish": -0.376, "Mish": -0.309, "Swish": -0.279}
# Curves for which f(c x) = c f(x) for every positive c, and for every c at all.
SCALING = frozenset({"LeakyRelu", "Relu", "Abs"})
LINEAR = frozenset({"Cast", "Dropout", "Identity", "Neg"})
UNARY = RISING | frozenset(DIPPING) | SCALING | LINEAR | {"Cos", "Sin", "Reciprocal", "Log", "Shrink"}


def curve(facts: Facts, op: Operator) -> None:
    """An activation of one input; further inputs are constant numbers."""
    name = op.input(0)
    if not _is_plain(facts, op):
        return
    fact = facts.of(name)
    told = fact.along
    if not told:
        further = [facts.scalar(n) if n else None for n in op.inputs[1:]]
        kind = (
            op.op_type,
            *further,
            *(a.SerializeToString() for a in op.proto.attribute),
            fact.low,
            fact.high,
        )
        least, most = np.array([fact.low]), np.array([fact.high])
        facts.say(op, *facts.range_of(kind, lambda: bounds(facts, op, least, most)), {})
        return
    # The value as a whole comes last: all bounds are found at once.
    lows = np.concatenate([*(found.low for found in told.values()), [fact.low]])
    highs = np.concatenate([*(found.high for found in told.values()), [fact.high]])
    low, high = bounds(facts, op, lows, highs)
    along, start = {}, 0
    for axis, found in told.items():
        part = slice(start, start + len(found))
        along[axis], start = _alike(op, found, low[part], high[part]), part.stop
    facts.say(op, float(low[-1]), float(high[-1]), along)


def _is_plain(facts: Facts, op: Operator) -> bool:
    """Whether the operator does the same to every number, and to floats."""
    if not facts.is_float(op.input(0)) or not facts.is_float(op.outputs[0]):
        return False
    if op.op_type == "Dropout":
        return not op.input(2)  # a third input may switch chance on
    return all(not n or facts.scalar(n) is not None for n in op.inputs[1:])


def _alike(op: Operator, found: Along, low: Numbers, high: Numbers) -> Along:
    one = np.ones((len(found), 1))
    if op.op_type in LINEAR:
        return combined(low, high, one, found.kind, found.factor)
    if op.op_type in SCALING:
        bucket = bucket_of(found.kind, np.sign(found.factor))
        return combined(low, high, one, bucket, np.abs(found.factor))
    return combined(low, high, one, bucket_of(found.kind, found.factor), np.ones(len(found)))


def bounds(facts: Facts, op: Operator, low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """Bounds of a curve's values, from bounds of what it is given."""
    both = _values(facts, op, np.concatenate([low, high]))
    at_low, at_high = both[: len(low)], both[len(low) :]
    fixed = (low == high) & np.isfinite(low)
    if op.op_type in LINEAR - {"Neg"} or (op.op_type in RISING and _rises(op)):
        least, most = at_low, at_high
    elif op.op_type == "Neg":
        least, most = at_high, at_low
    elif op.op_type == "Abs":
        across = (low < 0) & (high > 0)
        least, most = np.where(across, 0.0, np.minimum(at_low, at_high)), np.maximum(at_low, at_high)
    elif op.op_type in DIPPING:
        least = np.where(low >= 0, at_low, DIPPING[op.op_type])
        most = np.where(high > 0, at_high, 0.0)
    else:
        least, most = np.full(len(low), -np.inf), np.full(len(low), np.inf)
    least, most = np.where(fixed, at_low, least), np.where(fixed, at_high, most)
    return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)


def _rises(op: Operator) -> bool:
    return float(op.attr("alpha", 0.01)) >= 0 and float(op.attr("gamma", 1.0)) >= 0


Curve = Callable[..., NDArray[Any]]


def _clip(op: Operator, x: Numbers, *limits: float) -> Numbers:
    """Its limits are inputs, before opset 11 attributes; where they contradict each other the upper holds."""
    given = [*limits, np.nan, np.nan]
    return np.fmin(np.fmax(x, float(op.attr("min", given[0]))), float(op.attr("max", given[1])))


def _leaky_relu(op: Operator, x: Numbers) -> Numbers:
    return np.where(x < 0, x * float(op.attr("alpha", 0.01)), x)


def _hard_sigmoid(op: Operator, x: Numbers) -> Numbers:
    return np.clip(float(op.attr("alpha", 0.2)) * x + float(op.attr("beta", 0.5)), 0.0, 1.0)


def _elu(op: Operator, x: Numbers) -> Numbers:
    return np.where(x < 0, float(op.attr("alpha", 1.0)) * np.expm1(np.minimum(x, 0.0)), x)


def _softplus(op: Operator, x: Numbers) -> Numbers:
    found: Numbers = np.logaddexp(x, 0.0)
    return found


def _swish(op: Operator, x: Numbers) -> Numbers:
    found: Numbers = x / (1 + np.exp(-float(op.attr("alpha", 1.0)) * x))
    return found


# From an operator, what it is given, and its further inputs, to its values. These are here since onnx's
# reference implementation takes longer to import than most networks to analyse.
FREQUENT: dict[str, Curve] = {
    **dict.fromkeys(("Cast", "Dropout", "Identity"), lambda op, x, *others: x),
    "Abs": lambda op, x: np.abs(x),
    "Clip": _clip,
    "Elu": _elu,
    "Exp": lambda op, x: np.exp(x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda op, x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
    "LeakyRelu": _leaky_relu,
    "Mish": lambda op, x: x * np.tanh(_softplus(op, x)),
    "Neg": lambda op, x: -x,
    "Relu": lambda op, x: np.maximum(x, 0.0),
    "Sigmoid": lambda op, x: 1 / (1 + np.exp(-x)),
    "Softplus": _softplus,
    "Softsign": lambda op, x: x / (1 + np.abs(x)),
    "Swish": _swish,
    "Sqrt": lambda op, x: np.sqrt(x),
    "Tanh": lambda op, x: np.tanh(x),
}


def _values(facts: Facts, op: Operator, numbers: Numbers) -> Numbers:
    """The curve at these numbers; those of rare operators by ONNX's reference implementation."""
    if op.op_type in FREQUENT:
        others = [facts.scalar(n) if n else np.nan for n in op.inputs[1:]]
        with np.errstate(all="ignore"):
            return np.asarray(FREQUENT[op.op_type](op, numbers, *others), np.float64)
    given = {n: facts.graph.array(n) for n in op.inputs[1:] if n}
    given[op.input(0)] = numbers.astype(np.float32)
    given = {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in given.items()}
    try:
        with np.errstate(all="ignore"):
            (found,) = evaluated(op, given).values()
    except Exception:
        # A form that the reference does not know tells nothing.
        return np.full(len(numbers), np.nan)
    return np.asarray(found, np.float64).reshape(-1)
