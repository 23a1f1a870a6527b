"""Random ONNX CNNs for property-based tests.

A network is drawn as a short list of blocks, each a kind and a number that the block reads its variant off
(0 is the plainest), and then built deterministically: hypothesis shrinks to few, plain blocks, and prints
them on failure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import note
from hypothesis import strategies as st

from tests.graphs import GraphBuilder

T = TypeVar("T")
OPSETS = (17, *range(9, 17), *range(18, 22))  # the first is what shrinking ends at
# A rounding or a threshold in the graph turns a difference of 1e-7 into a visible one.
DISCONTINUOUS = frozenset({"quantised_activation"})
WIDEST, LARGEST = 16, 10


class Pick:
    """Reads small choices off one number; 0 takes the first of each."""

    def __init__(self, number: int) -> None:
        self.rest = number

    def __call__(self, options: int) -> int:
        self.rest, choice = divmod(self.rest, options)
        return choice

    def of(self, *options: T) -> T:
        return options[self(len(options))]

    def width(self) -> int:
        return 2 + self(11)

    def batch(self) -> int:
        """How a Reshape target names the batch."""
        return self.of(0, -1)


Build = Callable[[GraphBuilder, str, Pick], str]


@dataclass(frozen=True)
class Kind:
    """A kind of block or head: from a feature map [N, C, *spatial] to a feature map or to an output."""

    build: Build
    opset: int
    ranks: tuple[int, ...]


BLOCKS: dict[str, Kind] = {}
HEADS: dict[str, Kind] = {}


def block(opset: int = 9, ranks: tuple[int, ...] = (1, 2, 3)) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        BLOCKS[build.__name__.removesuffix("_")] = Kind(build, opset, ranks)
        return build

    return register


def head(build: Build) -> Build:
    HEADS[build.__name__] = Kind(build, 9, (1, 2, 3))
    return build


def area(g: GraphBuilder, x: str) -> int:
    return int(np.prod(g.spatial(x)))


def ones(g: GraphBuilder, x: str) -> list[int]:
    """As many ones as x has spatial axes."""
    return [1] * len(g.spatial(x))


def axes(g: GraphBuilder, x: str) -> list[int]:
    return list(range(2, 2 + len(g.spatial(x))))


def to_last(g: GraphBuilder, x: str) -> str:
    return g.transpose(x, 0, *axes(g, x), 1)


def from_last(g: GraphBuilder, x: str) -> str:
    rank = len(g.shape(x))
    return g.transpose(x, 0, rank - 1, *range(1, rank - 1))


def multiple_of(g: GraphBuilder, x: str, divisor: int, pick: Pick) -> str:
    """x with a multiple of some channels: through a convolution, or as it is where that fits."""
    if g.channels(x) % divisor == 0 and pick(2):
        return x
    return g.conv(x, divisor * (1 + pick(3)))


def at_least(g: GraphBuilder, x: str, least: int, pick: Pick) -> str:
    """x with some channels at least: through a convolution, or as it is where it has them."""
    if g.channels(x) >= least and pick(2):
        return x
    return g.conv(x, least + pick(4))


# Convolutions.


@block()
def conv(g: GraphBuilder, x: str, pick: Pick) -> str:
    form, out, bias = pick(4), pick.width(), pick.of(True, False)
    k, stride, dilation = ((3, 1, 1), (1, 1, 1), (3, 2, 1), (3, 1, 2))[form]
    return g.conv(x, out, k, stride=stride, dilation=dilation, bias=bias)


@block()
def grouped(g: GraphBuilder, x: str, pick: Pick) -> str:
    groups, out = pick.of(2, 3, 4), 1 + pick(3)
    return g.conv(multiple_of(g, x, 2 * groups, pick), groups * out, pick.of(3, 1), group=groups)


@block()
def depthwise(g: GraphBuilder, x: str, pick: Pick) -> str:
    c, multiplier = g.channels(x), 1 + pick(3)
    return g.conv(x, c * multiplier, 3, group=c, bias=pick.of(True, False), stride=pick.of(1, 2))


@block()
def conv_transpose(g: GraphBuilder, x: str, pick: Pick) -> str:
    group, stride, out = pick.of(1, 2), pick.of(1, 2), 1 + pick(5)
    x = multiple_of(g, x, group, pick) if group > 1 else x
    return g.conv_transpose(x, group * out, stride + 2, stride=stride, group=group)


@block()
def depthwise_transpose(g: GraphBuilder, x: str, pick: Pick) -> str:
    c = g.channels(x)
    return g.conv_transpose(x, c * (1 + pick(2)), group=c)


@block()
def shared_weight(g: GraphBuilder, x: str, pick: Pick) -> str:
    c = pick.width()
    weight = g.weight(c, c, *[k + 2 for k in ones(g, x)])
    x = g.relu(g.conv(g.conv(x, c), c, 3, weight=weight))
    return g.conv(x, c, 3, weight=weight, bias=pick.of(True, False))


@block()
def shared_bias(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Unrelated layers whose equal vectors an exporter stored once."""
    c, form = pick.width(), pick(3)
    zeros = g.const(np.zeros(c, np.float32), g.fresh("zeros"))
    other = g.op("Identity", zeros) if form == 1 else zeros
    x = g.relu(g.conv(x, c, bias=zeros))
    x = g.relu(g.conv(x, pick.width(), 3)) if form < 2 else x
    return g.conv(x, c, 3, bias=other)


@block()
def identity_weight(g: GraphBuilder, x: str, pick: Pick) -> str:
    out = pick.width()
    weight = g.op("Identity", g.weight(out, g.channels(x), *ones(g, x)))
    bias = g.op("Identity", g.vector(out)) if pick(2) else True
    return g.conv(x, out, weight=weight, bias=bias)


@block()
def constant_weight(g: GraphBuilder, x: str, pick: Pick) -> str:
    out = pick.width()
    weight = g.weight(out, g.channels(x), *ones(g, x), as_node=True)
    bias = g.const(np.full(out, 0.1, np.float32), as_node=True) if pick(2) else False
    return g.conv(x, out, weight=weight, bias=bias)


@block(opset=10)
def quantised_weight(g: GraphBuilder, x: str, pick: Pick) -> str:
    """int8 weights, or float weights through a pair; a scale for each output channel from opset 13."""
    out, pair, whole = pick.width(), pick(2), pick(2) or g.opset < 13
    shape = (out, g.channels(x), *ones(g, x))
    steps = g.rng("steps").uniform(0.003, 0.01, () if whole else out).astype(np.float32)
    scale, zero = g.const(steps), g.const(np.zeros(steps.shape, np.int8))
    more: dict[str, Any] = {} if whole else {"axis": 0}
    if pair:
        weight = g.op("QuantizeLinear", g.weight(*shape), scale, zero, **more)
    else:
        weight = g.const(g.rng("weights").integers(-127, 128, shape).astype(np.int8))
    return g.conv(x, out, weight=g.op("DequantizeLinear", weight, scale, zero, **more))


# At opset 10 ONNX Runtime 1.31 fails to load a Conv between two pairs: its optimiser adds a newer Round.
@block(opset=11)
def quantised_activation(g: GraphBuilder, x: str, pick: Pick) -> str:
    c = g.channels(x)
    whole = not pick(2) or g.opset < 13
    steps = g.rng("steps").uniform(0.01, 0.03, () if whole else c).astype(np.float32)
    # At opset 21 ONNX Runtime 1.31 fails to load int8 pairs before a Transpose or Reshape: its optimiser
    # mixes up the type of the zero point.
    dtype = np.int8 if pick(2) and g.opset < 21 else np.uint8
    middle = 128 if dtype is np.uint8 else 0
    scale, zero = g.const(steps), g.const(np.full(steps.shape, middle, dtype))
    more: dict[str, Any] = {} if whole else {"axis": 1}
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, **more), scale, zero, **more)


# Channel by channel.


@block()
def batch_norm(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.bn(x)


@block()
def activation(g: GraphBuilder, x: str, pick: Pick) -> str:
    known = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Abs", "Elu", "Softplus", "HardSigmoid", "Erf", "Neg"]
    known += ["HardSwish"] * (g.opset >= 14) + ["Mish"] * (g.opset >= 18) + ["Gelu"] * (g.opset >= 20)
    return g.op(pick.of(*known), x)


@block()
def prelu(g: GraphBuilder, x: str, pick: Pick) -> str:
    c = pick.of(g.channels(x), 1)
    return g.op("PRelu", x, g.vector(c, *ones(g, x), low=0.1, high=0.9))


@block()
def clip(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.clip(x, *pick.of((0, 6), (-0.5, 0.5)))


@block()
def affine(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Arithmetic with constants that broadcast."""
    shape = pick.of((g.channels(x), *ones(g, x)), (1, g.channels(x), *ones(g, x)), (1,), ())
    op, vector = pick.of("Mul", "Add", "Sub", "Div"), g.vector(*shape, low=0.5, high=1.5)
    return g.op(op, x, vector) if op == "Div" or not pick(2) else g.op(op, vector, x)


@block()
def where(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A choice by sign (a leaky ReLU), by a mask of channels, or by a mask of places."""
    form, c = pick(3), g.channels(x)
    if form == 0:
        return g.op("Where", g.op("Greater", x, g.scalar(0)), x, g.mul(x, g.scalar(0.1)))
    shape = (c, *ones(g, x)) if form == 1 else g.spatial(x)
    mask = g.const(g.rng("mask").random(shape) < 0.6)
    return g.op("Where", mask, x, g.vector(c, *ones(g, x)) if pick(2) else g.scalar(0))


# Branches.


@block()
def residual(g: GraphBuilder, x: str, pick: Pick) -> str:
    form, out, swapped = pick(3), pick.width(), pick(2)
    c = g.channels(x)
    if form == 0:
        branch = g.conv(x, c, 3)
    elif form == 1:
        branch = g.conv(g.relu(g.bn(g.conv(x, out))), c, 3)
    else:
        x, branch = g.conv(x, out), g.conv(x, out, 3)
    return g.relu(g.add(x, branch) if swapped else g.add(branch, x))


@block()
def spatial_gate(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A gate [N,1,H,W] for all channels."""
    gate = g.sigmoid(g.conv(x, 1, pick.of(1, 3)))
    return g.mul(gate, x) if pick(2) else g.mul(x, gate)


@block()
def channel_reduction(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A spatial gate made of the mean and the maximum over channels (CBAM)."""
    mean = g.reduce("ReduceMean", x, [1])
    gate = g.concat(mean, g.reduce("ReduceMax", x, [1])) if pick(2) else mean
    return g.mul(x, g.sigmoid(g.conv(gate, 1, 3)))


@block()
def squeeze_excite_conv(g: GraphBuilder, x: str, pick: Pick) -> str:
    squeezed = 1 + pick(4)
    pooled = g.reduce("ReduceMean", x, axes(g, x)) if pick(2) else g.gap(x)
    return g.mul(x, g.sigmoid(g.conv(g.relu(g.conv(pooled, squeezed)), g.channels(x))))


@block()
def squeeze_excite_gemm(g: GraphBuilder, x: str, pick: Pick) -> str:
    squeezed, form, trans_b, c = 1 + pick(4), pick(3), pick.of(True, False), g.channels(x)
    if form == 0:
        flat = g.flatten(g.gap(x))
    elif form == 1:
        flat = g.reshape(g.gap(x), pick.batch(), c)
    else:
        flat = g.reduce("ReduceMean", x, axes(g, x), keep=False)
    gate = g.sigmoid(g.gemm(g.relu(g.gemm(flat, squeezed, trans_b=trans_b)), c, trans_b=trans_b))
    gate = g.unsqueeze(gate, *axes(g, x)) if pick(2) else g.reshape(gate, -1, c, *ones(g, x))
    return g.mul(x, gate)


@block()
def concat(g: GraphBuilder, x: str, pick: Pick) -> str:
    form = pick(4)
    if form == 1:
        return g.concat(x, x)
    other = g.conv(x, pick.width(), 3)
    if form == 0:
        return g.concat(x, other)
    return g.concat(other, x, other) if form == 2 else g.concat(x, g.conv(x, 2), other)


@block()
def concat_spatial(g: GraphBuilder, x: str, pick: Pick) -> str:
    other = g.conv(x, g.channels(x)) if pick(2) else x
    # Negative axes came with opset 11.
    return g.concat(x, other, axis=-1 if g.opset >= 11 and pick(2) else 2)


@block()
def split_equal(g: GraphBuilder, x: str, pick: Pick) -> str:
    parts, form = pick.of(2, 3), pick(3)
    x = multiple_of(g, x, parts, pick)
    each = g.channels(x) // parts
    halves = g.split(x, [each] * parts, implicit=bool(pick(2)))
    if form == 0:
        return g.mul(halves[0], g.sigmoid(halves[1]))
    if form == 1:
        return g.concat(*reversed(halves))
    return g.concat(g.conv(halves[0], each, 3), *halves[1:])


@block()
def split_unequal(g: GraphBuilder, x: str, pick: Pick) -> str:
    sizes = pick.of([2, 3], [1, 4], [3, 1, 2])
    first, second, *rest = g.split(g.conv(x, sum(sizes)), sizes)
    if pick(2):
        return g.add(g.conv(first, 4), g.conv(second, 4))
    return g.concat(g.conv(first, sizes[0], 3), *rest, second)


@block()
def slice_channels(g: GraphBuilder, x: str, pick: Pick) -> str:
    forms = [(1, 100, 1), (0, -1, 1), (-2, 100, 1)]
    forms += [(0, 2**31 - 1, 2), (-1, -(2**31), -1), (1, 100, 3)] * (g.opset >= 10)
    start, end, step = pick.of(*forms)
    return g.slice(at_least(g, x, 3, pick), start, end, 1, step)


@block()
def slice_spatial(g: GraphBuilder, x: str, pick: Pick) -> str:
    if g.opset < 10 or pick(2) == 0:
        return g.slice(x, 1 if g.spatial(x)[0] > 2 else 0, 100, 2)
    parts = [g.slice(x, start, 100, 2, 2) for start in range(min(2, g.spatial(x)[0]))]
    even = [g.slice(part, 0, g.spatial(x)[0] // 2 or 1, 2) for part in parts]
    return g.concat(*even)


@block()
def gather(g: GraphBuilder, x: str, pick: Pick) -> str:
    x, form = at_least(g, x, 3, pick), pick(4)
    c = g.channels(x)
    picks = [
        g.rng("gather").permutation(c).tolist(),
        [0, *range(c)],
        [c - 1, 0, c - 1],
        [-1, *range(c - 1)] if g.opset >= 11 else [c - 1],
    ]
    return g.gather(x, picks[form])


# Shapes.


@block()
def channel_shuffle(g: GraphBuilder, x: str, pick: Pick) -> str:
    groups, batch, size = pick.of(2, 3), pick.batch(), g.spatial(x)
    x = multiple_of(g, x, 2 * groups, pick)
    c = g.channels(x)
    parts = g.reshape(x, batch, groups, c // groups, *size)
    return g.reshape(g.transpose(parts, 0, 2, 1, *range(3, 3 + len(size))), batch, c, *size)


@block(ranks=(2,))
def depth_to_space(g: GraphBuilder, x: str, pick: Pick) -> str:
    x, mode = multiple_of(g, x, 4, pick), pick.of("DCR", "CRD")
    more = {"mode": mode} if g.opset >= 11 else {}
    return g.op("DepthToSpace", x, blocksize=2, **more)


@block(ranks=(2,))
def pixel_shuffle(g: GraphBuilder, x: str, pick: Pick) -> str:
    x, batch, (h, w) = multiple_of(g, x, 4, pick), pick.batch(), g.spatial(x)
    out = g.channels(x) // 4
    if pick(2):
        parts = g.transpose(g.reshape(x, batch, 2, 2, out, h, w), 0, 3, 4, 1, 5, 2)
    else:
        parts = g.transpose(g.reshape(x, batch, out, 2, 2, h, w), 0, 1, 4, 2, 5, 3)
    return g.reshape(parts, batch, out, 2 * h, 2 * w)


@block(ranks=(2,))
def space_to_depth(g: GraphBuilder, x: str, pick: Pick) -> str:
    h, w = g.spatial(x)
    if h % 2 or w % 2:
        x = g.pad(x, [0, 0, 0, 0, 0, 0, h % 2, w % 2])
    if pick(2) == 0:
        return g.op("SpaceToDepth", x, blocksize=2)
    c, (h, w) = g.channels(x), g.spatial(x)
    parts = g.reshape(x, pick.batch(), c, h // 2, 2, w // 2, 2)
    return g.reshape(g.transpose(parts, 0, 1, 3, 5, 2, 4), pick.batch(), 4 * c, h // 2, w // 2)


@block()
def computed_reshape(g: GraphBuilder, x: str, pick: Pick) -> str:
    """To [N, C, rest] and back, the target computed from the shape as torch exports it."""
    form, c, size = pick(3), g.channels(x), g.spatial(x)
    shape = g.op("Shape", x)
    if form == 0:
        target = g.concat(g.gather(shape, [0], 0), g.ints(c, area(g, x)), axis=0)
    else:
        parts = [g.unsqueeze(g.op("Gather", shape, g.const(np.array(i)), axis=0), 0) for i in range(form)]
        middle = [g.ints(c)] if form == 1 else []
        target = g.concat(*parts, *middle, g.ints(-1), axis=0)
    x = g.op("Reshape", x, target, shape=[*g.shape(x)[:2], area(g, x)])
    return g.reshape(g.relu(x), 0, pick.of(c, -1), *size)


@block()
def pad_spatial(g: GraphBuilder, x: str, pick: Pick) -> str:
    mode, before = pick.of("constant", "edge", "reflect"), pick.of(1, 0)
    before = 0 if min(g.spatial(x)) < 2 else before
    after = int(min(g.spatial(x)) > 1)
    if g.nodes[-1].op_type == "Pad":
        # ONNX Runtime 1.31 moves Pads into a pooling after them, and fails where they add up to its kernel.
        x = g.relu(x)
    return g.pad(x, [0, 0, *[before for _ in g.spatial(x)], 0, 0, *[after for _ in g.spatial(x)]], mode)


@block()
def pad_channels(g: GraphBuilder, x: str, pick: Pick) -> str:
    none = [0 for _ in g.spatial(x)]
    return g.pad(x, [0, pick(3), *none, 0, 1 + pick(2), *none])


@block()
def expand(g: GraphBuilder, x: str, pick: Pick) -> str:
    """The pooled map, or a vector, at every place."""
    if pick(2) == 0:
        small = g.conv(g.gap(x), pick.width())
        return g.concat(x, g.op("Expand", small, g.ints(1, 1, *g.spatial(x))))
    c = g.channels(x)
    vector = g.vector(1, c, *ones(g, x))
    return g.add(x, g.op("Expand", vector, g.ints(1, c, *g.spatial(x))))


@block()
def tile(g: GraphBuilder, x: str, pick: Pick) -> str:
    if pick(2) == 0:
        return g.op("Tile", x, g.ints(1, 2, *ones(g, x)))
    return g.add(x, g.op("Tile", g.gap(x), g.ints(1, 1, *g.spatial(x))))


@block()
def pool(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.pool(pick.of("MaxPool", "AveragePool", "LpPool"), x, pick.of(2, 3), pick.of(2, 1))


@block(ranks=(1, 2))
def resize_scales(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.upsample(x, 2, pick.of("nearest", "linear"))


@block(opset=11, ranks=(1, 2))
def resize_sizes(g: GraphBuilder, x: str, pick: Pick) -> str:
    size = [s + pick.of(2, 1) for s in g.spatial(x)]
    small = g.gap(x) if pick(2) else x
    return g.resize(small, size, pick.of("nearest", "linear"))


# Across channels.


@block()
def channels_last(g: GraphBuilder, x: str, pick: Pick) -> str:
    out, c = pick.width(), g.channels(x)
    y = g.add(g.matmul(to_last(g, x), g.weight(c, out, fan_in=c)), g.vector(out))
    return from_last(g, g.relu(y) if pick(2) else y)


@block()
def attention(g: GraphBuilder, x: str, pick: Pick) -> str:
    heads, d, batch, size = pick.of(1, 2), 1 + pick(3), pick.batch(), g.spatial(x)
    q, k, v = (g.reshape(g.conv(x, heads * d), batch, heads, d, area(g, x)) for _ in range(3))
    scores = g.op("Softmax", g.matmul(g.transpose(q, 0, 1, 3, 2), k), axis=3)
    mixed = g.reshape(g.matmul(v, g.transpose(scores, 0, 1, 3, 2)), batch, heads * d, *size)
    return g.add(x, g.conv(mixed, g.channels(x)))


@block()
def channel_attention(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Products of the feature map with itself: over places, then over channels."""
    flat = g.reshape(x, pick.batch(), g.channels(x), area(g, x))
    gram = g.mul(g.matmul(flat, g.transpose(flat, 0, 2, 1)), g.scalar(0.1 / area(g, x)))
    gram = g.op("Softmax", gram, axis=2) if pick(2) else gram
    return g.add(x, g.reshape(g.matmul(gram, flat), 0, g.channels(x), *g.spatial(x)))


@block()
def channel_softmax(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.mul(x, g.op("Softmax", x, axis=1))


@block(ranks=(2,))
def lrn(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.op("LRN", x, size=3, alpha=0.1)


@block()
def instance_norm(g: GraphBuilder, x: str, pick: Pick) -> str:
    c = g.channels(x)
    normal = g.op("InstanceNormalization", x, g.vector(c, low=0.5, high=1.5), g.vector(c))
    return normal if pick(2) else g.relu(normal)


@block()
def layer_norm(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Over the channels of a channels-last map; written out before opset 17."""
    c, last = g.channels(x), to_last(g, x)
    gain, bias = g.vector(c, low=0.5, high=1.5), g.vector(c)
    if g.opset >= 17 and not pick(2):
        return from_last(g, g.op("LayerNormalization", last, gain, bias, axis=-1, epsilon=0.01))
    centred = g.op("Sub", last, g.reduce("ReduceMean", last, [-1]))
    variance = g.reduce("ReduceMean", g.mul(centred, centred), [-1])
    normal = g.op("Div", centred, g.op("Sqrt", g.add(variance, g.scalar(0.01))))
    return from_last(g, g.add(g.mul(normal, gain), bias))


@block()
def group_norm(g: GraphBuilder, x: str, pick: Pick) -> str:
    groups, batch, size = pick.of(2, 1, 3), pick.batch(), g.spatial(x)
    x = multiple_of(g, x, groups, pick)
    c = g.channels(x)
    if g.opset >= 21 and pick(2):
        gain, bias = g.vector(c, low=0.5, high=1.5), g.vector(c)
        more: dict[str, Any] = {"num_groups": groups, "epsilon": 0.01}
        return g.op("GroupNormalization", x, gain, bias, shape=g.shape(x), **more)
    plain = [g.const(np.full(groups, v, np.float32)) for v in (1, 0)]
    parts = g.reshape(x, batch, groups, c // groups * area(g, x))
    x = g.reshape(g.op("InstanceNormalization", parts, *plain, epsilon=0.01), batch, c, *size)
    return g.add(g.mul(x, g.vector(c, *ones(g, x), low=0.5, high=1.5)), g.vector(c, *ones(g, x)))


# Heads: what ends a network.


@head
def gap_gemm(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.gemm(g.flatten(g.gap(x)), 2 + pick(4), trans_b=pick.of(True, False))


@head
def flatten_gemm(g: GraphBuilder, x: str, pick: Pick) -> str:
    hidden = g.gemm(g.flatten(x), 3 + pick(4), trans_b=pick.of(True, False), bias=pick.of(True, False))
    return g.gemm(g.relu(hidden), 3)


@head
def reshape_gemm(g: GraphBuilder, x: str, pick: Pick) -> str:
    flat = g.reshape(x, *pick.of((0, -1), (-1, g.channels(x) * area(g, x))))
    return g.gemm(flat, 2 + pick(4), trans_b=pick.of(True, False))


@head
def gap_conv(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.flatten(g.conv(g.gap(x), 2 + pick(4)))


@head
def mean_matmul(g: GraphBuilder, x: str, pick: Pick) -> str:
    out, c = 2 + pick(4), g.channels(x)
    flat = g.reduce("ReduceMean", x, axes(g, x), keep=False)
    return g.add(g.matmul(flat, g.weight(c, out, fan_in=c)), g.vector(out))


@head
def fully_convolutional(g: GraphBuilder, x: str, pick: Pick) -> str:
    return g.conv(x, 1 + pick(4), pick.of(1, 3))


@head
def gru(g: GraphBuilder, x: str, pick: Pick) -> str:
    return recurrent(g, x, pick, "GRU", 3)


@head
def lstm(g: GraphBuilder, x: str, pick: Pick) -> str:
    return recurrent(g, x, pick, "LSTM", 4)


def recurrent(g: GraphBuilder, x: str, pick: Pick, cell: str, gates: int) -> str:
    """A sequence along the last spatial axis; the other ones join the channels, or are averaged over."""
    hidden, directions = 2 + pick(3), pick.of(1, 2)
    between = axes(g, x)[:-1]
    if between and pick(2):
        x, between = g.reduce("ReduceMean", x, between, keep=False), []
    x = g.transpose(x, len(g.shape(x)) - 1, 0, 1, *between)
    x = g.reshape(x, 0, 0, -1) if between else x
    features = int(g.shape(x)[2])
    weights = [
        g.weight(directions, gates * hidden, features, fan_in=features),
        g.weight(directions, gates * hidden, hidden, fan_in=hidden),
        g.vector(directions, 2 * gates * hidden),
    ]
    last = g.fresh(cell)
    way = "bidirectional" if directions == 2 else "forward"
    g.node(cell, [x, *weights], ["", last], hidden_size=hidden, direction=way)
    flat = g.reshape(g.transpose(last, 1, 0, 2), 0, directions * hidden)
    return g.gemm(flat, 3)


# Networks.


@dataclass(frozen=True)
class Network:
    """All there is to a random network: ``tap`` is the block whose result is an output too."""

    opset: int
    rank: int
    side: int
    blocks: tuple[tuple[str, int], ...]
    head: tuple[str, int]
    tap: int | None = None
    batch: int | None = None

    def __str__(self) -> str:
        lines = [f"opset {self.opset}, {self.rank}-D, side {self.side}, batch {self.batch or 'free'}"]
        lines += [f"{k}({n})" + " -> output" * (i == self.tap) for i, (k, n) in enumerate(self.blocks)]
        return "\n".join([*lines, "{}({})".format(*self.head)])


def build(network: Network) -> onnx.ModelProto:
    """The model of a network, which is also its doc string."""
    g = GraphBuilder(network.opset, name="random")
    x = g.input("input", ["N", 3, *[network.side] * network.rank])
    x = g.relu(g.conv(x, 4, 3, name="stem"))
    for index, (kind, number) in enumerate(network.blocks):
        x = settled(g, BLOCKS[kind].build(g, x, Pick(number)))
        if index == network.tap:
            g.output(x)
    kind, number = network.head
    g.outputs.insert(0, HEADS[kind].build(g, x, Pick(number)))
    return g.build(network.batch, doc=str(network))


def settled(g: GraphBuilder, x: str) -> str:
    """Keeps feature maps small."""
    if max(g.spatial(x)) > LARGEST:
        x = g.pool("AveragePool", x)
    return g.conv(x, 6) if g.channels(x) > WIDEST else x


def describe(model: onnx.ModelProto) -> str:
    """The opset, blocks and head of a random model."""
    return model.graph.doc_string


@st.composite
def networks(draw: st.DrawFn, exclude: Collection[str] = ()) -> Network:
    """Random networks of 2 to 10 blocks."""
    opset, rank = draw(st.sampled_from(OPSETS)), draw(st.sampled_from((2, 2, 2, 2, 1, 3)))
    # Kinds that fit everywhere come first: their index survives when shrinking changes opset or rank.
    ordered = sorted(BLOCKS.items(), key=lambda item: (item[1].opset, -len(item[1].ranks)))
    usable = [k for k, b in ordered if b.opset <= opset and rank in b.ranks and k not in exclude]
    variant = st.integers(0, 99_999)
    pair = st.tuples(st.sampled_from(usable), variant)
    blocks = draw(st.lists(pair, min_size=2, max_size=10))
    return Network(
        opset=opset,
        rank=rank,
        side=4 if rank == 3 else draw(st.integers(4, 8)),
        blocks=tuple(blocks),
        head=draw(st.tuples(st.sampled_from(list(HEADS)), variant)),
        tap=draw(st.one_of(st.none(), st.none(), st.integers(0, len(blocks) - 1))),
        batch=draw(st.sampled_from((None, None, 2))),
    )


@st.composite
def models(draw: st.DrawFn, exclude: Collection[str] = ()) -> onnx.ModelProto:
    """Random models; the blocks are printed where a test fails. ``exclude`` names kinds of blocks."""
    network = draw(networks(exclude))
    note(str(network))
    return build(network)


from tests import input_blocks, widening_blocks  # noqa: E402, F401 (both register blocks made of the above)
