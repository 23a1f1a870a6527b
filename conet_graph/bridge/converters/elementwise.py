"""Operators that work position by position, with numpy's broadcasting (ONNX operator specs)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site, torch_dtype
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

# Operators that a function of PyTorch means exactly.
_UNARY: dict[str, Callable[..., torch.Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


@handles(CONVERTERS, *_UNARY)
def unary(site: Site) -> fx.Node:
    """Operators of one input without settings."""
    return site.call(_UNARY[site.op.op_type], site.x(0))


def divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The quotient; whole numbers are cut towards zero, as in C."""
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A to the power of b, in the type of a (ONNX Pow-12)."""
    return torch.pow(a, b).to(a.dtype)


_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": divided,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": power,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


@handles(CONVERTERS, *_BINARY)
def binary(site: Site) -> fx.Node:
    """Operators of two inputs; before version 7 the second was aligned by the attribute ``axis``."""
    second = site.x(1)
    if site.version < 7 and site.attr("broadcast", 0):
        rank, shape = site.rank(0), site.shape(1)
        if shape is None:
            raise NotConverted("has an input of unknown rank")
        start = int(site.attr("axis", rank - len(shape))) % max(rank, 1)
        for _ in range(rank - start - len(shape)):
            second = site.call(torch.unsqueeze, second, -1)
    return site.call(_BINARY[site.op.op_type], site.x(0), second)


def mean_of(*values: torch.Tensor) -> torch.Tensor:
    """The mean of several tensors."""
    return functools.reduce(torch.add, values) / len(values)


_NARY: dict[str, Callable[..., torch.Tensor]] = {
    "Sum": torch.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
}


@handles(CONVERTERS, "Sum", "Max", "Min")
def nary(site: Site) -> fx.Node:
    """Operators of any number of inputs, two at a time."""
    made, *rest = site.inputs()
    for value in rest:
        made = site.call(_NARY[site.op.op_type], made, value)
    return made if rest else site.call(torch.clone, made)


@handles(CONVERTERS, "Mean")
def mean(site: Site) -> fx.Node:
    """The mean of several tensors."""
    return site.call(mean_of, *site.inputs())


@handles(CONVERTERS, "Where")
def where(site: Site) -> fx.Node:
    """A choice, position by position."""
    return site.call(torch.where, site.x(0), site.x(1), site.x(2))


@handles(CONVERTERS, "Clip")
def clip(site: Site) -> fx.Node:
    """Bounds are attributes before version 11, then inputs, mostly constant."""
    if site.version < 11:
        low, high = site.attr("min"), site.attr("max")
    else:
        low, high = (_bound(site, slot) for slot in (1, 2))
    if low is None and high is None:
        return site.call(torch.clone, site.x(0))
    if (low, high) == (0.0, 6.0):
        return site.call(functional.relu6, site.x(0))
    return site.call(torch.clamp, site.x(0), low, high)


def _bound(site: Site, slot: int) -> Any:
    array = site.array(slot)
    return site.x(slot) if array is None else array.reshape(-1)[0].item() if array.size == 1 else None


@handles(CONVERTERS, "PRelu")
def prelu(site: Site) -> fx.Node:
    """Slopes are broadcast; up to version 7 a vector of them lay along the channels."""
    slope, shape = site.x(1), site.shape(1)
    channels = site.shape(0)
    if shape is not None and len(shape) == 1 and channels is not None and site.version < 7:
        for _ in range(len(channels) - 2):
            slope = site.call(torch.unsqueeze, slope, -1)
    return site.call(sloped, site.x(0), slope)


def sloped(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The input where it is positive, else the input times the slope."""
    return torch.where(x >= 0, x, x * slope)


@handles(CONVERTERS, "LeakyRelu")
def leaky_relu(site: Site) -> fx.Node:
    """A small slope below zero."""
    return site.call(functional.leaky_relu, site.x(0), float(site.attr("alpha", 0.01)))


@handles(CONVERTERS, "Elu")
def elu(site: Site) -> fx.Node:
    """Exponential below zero."""
    return site.call(functional.elu, site.x(0), float(site.attr("alpha", 1.0)))


@handles(CONVERTERS, "Celu")
def celu(site: Site) -> fx.Node:
    """Exponential below zero, smooth."""
    return site.call(functional.celu, site.x(0), float(site.attr("alpha", 1.0)))


@handles(CONVERTERS, "Selu")
def selu(site: Site) -> fx.Node:
    """Scaled and exponential below zero."""
    alpha, gamma = (
        site.attr("alpha", 1.67326319217681884765625),
        site.attr("gamma", 1.05070102214813232421875),
    )
    made = site.call(functional.elu, site.x(0), float(alpha))
    return site.call(torch.mul, made, float(gamma))


@handles(CONVERTERS, "HardSigmoid")
def hard_sigmoid(site: Site) -> fx.Node:
    """A line between two bounds."""
    alpha, beta = float(site.attr("alpha", 0.2)), float(site.attr("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return site.call(functional.hardsigmoid, site.x(0))
    return site.call(bounded_line, site.x(0), alpha, beta)


def bounded_line(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Alpha times the input plus beta, kept between 0 and 1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@handles(CONVERTERS, "Gelu")
def gelu(site: Site) -> fx.Node:
    """Exact, or with tanh."""
    return site.call(functional.gelu, site.x(0), approximate=str(site.attr("approximate", "none")))


@handles(CONVERTERS, "Swish")
def swish(site: Site) -> fx.Node:
    """The input times the sigmoid of alpha times it."""
    return site.call(self_gated, site.x(0), float(site.attr("alpha", 1.0)))


def self_gated(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """The input times the sigmoid of alpha times it."""
    return x * torch.sigmoid(x * alpha)


@handles(CONVERTERS, "ThresholdedRelu")
def thresholded_relu(site: Site) -> fx.Node:
    """Zero up to alpha."""
    return site.call(functional.threshold, site.x(0), float(site.attr("alpha", 1.0)), 0.0)


@handles(CONVERTERS, "Shrink")
def shrink(site: Site) -> fx.Node:
    """Towards zero by ``bias`` outside of ``lambd``."""
    return site.call(shrunk, site.x(0), float(site.attr("bias", 0.0)), float(site.attr("lambd", 0.5)))


def shrunk(x: torch.Tensor, bias: float, lambd: float) -> torch.Tensor:
    """Shrink of the ONNX spec."""
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


@handles(CONVERTERS, "Mod")
def mod(site: Site) -> fx.Node:
    """The remainder, with the sign of the divisor, or of the dividend as C's fmod."""
    function = torch.fmod if site.attr("fmod", 0) else torch.remainder
    return site.call(function, site.x(0), site.x(1))


@handles(CONVERTERS, "IsInf")
def is_inf(site: Site) -> fx.Node:
    """Infinity of the signs asked for."""
    up, down = bool(site.attr("detect_positive", 1)), bool(site.attr("detect_negative", 1))
    function = {(True, True): torch.isinf, (True, False): torch.isposinf, (False, True): torch.isneginf}
    if not up and not down:
        return site.call(torch.zeros_like, site.x(0), dtype=torch.bool)
    return site.call(function[up, down], site.x(0))


@handles(CONVERTERS, "Cast")
def cast(site: Site) -> fx.Node:
    """Another element type; half floats are computed as float32."""
    return site.call(torch.Tensor.to, site.x(0), torch_dtype(int(site.attr("to"))))


@handles(CONVERTERS, "CastLike")
def cast_like(site: Site) -> fx.Node:
    """The second input's element type."""
    return site.call(torch.Tensor.type_as, site.x(0), site.x(1))


@handles(CONVERTERS, "BitShift")
def bit_shift(site: Site) -> fx.Node:
    """To the left or to the right."""
    left = site.attr("direction") == "LEFT"
    return site.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, site.x(0), site.x(1))
