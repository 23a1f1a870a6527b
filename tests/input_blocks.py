"""Blocks of random networks: inputs that are no feature maps, axes that grow or merge, assigned slices."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.graphs import GraphBuilder
from tests.strategies import Pick, at_least, axes, block, from_last, multiple_of, ones, to_last


@block(opset=16, ranks=(2,))
def grid_sample(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Sampled at points that a convolution or a few outputs of a linear layer say."""
    if pick(2) == 0:
        points = g.op("Transpose", g.conv(x, 2), perm=[0, 2, 3, 1])
    else:
        flat = g.gemm(g.flatten(g.gap(x)), 2 * 3 * 2)
        points = g.reshape(flat, -1, 2, 3, 2)
    return g.op("GridSample", x, g.op("Tanh", points), align_corners=pick(2))


@block()
def gather_pixels(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Rows by a table of indices: a new axis, merged with the old one again."""
    first, *rest = g.spatial(x)
    index = np.array([[0, first - 1], [first - 1, 0]])
    picked = g.op("Gather", x, g.const(index.astype(np.int64)), axis=2)
    return g.reshape(picked, pick.batch(), g.channels(x), 4, *rest)


def _shape_of(g: GraphBuilder, x: str, channels: int) -> str:
    """[batch as the run has it, channels, pixels] as a vector."""
    batch = g.gather(g.op("Shape", x), [0], 0)
    return g.concat(batch, g.ints(channels, *g.spatial(x)), axis=0)


@block()
def expand_gate(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A map of one channel for all of them, by a literal count of channels."""
    form, c = pick(3), g.channels(x)
    gate = g.conv(x, 1, 1)
    if form == 0:
        wide = g.op("Expand", gate, g.ints(1, c, *ones(g, x)))
    elif form == 1:
        wide = g.op("Tile", gate, g.ints(1, c, *ones(g, x)))
    else:
        wide = g.op("Expand", gate, _shape_of(g, x, c), shape=list(g.shape(x)))
    return g.mul(x, g.sigmoid(wide))


@block()
def constant_of_shape(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A map of one number, as large as the feature map or as wide."""
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    if pick(2) == 0:
        made = g.op("ConstantOfShape", g.ints(1, g.channels(x), *ones(g, x)), value=value)
    else:
        made = g.op("ConstantOfShape", _shape_of(g, x, g.channels(x)), value=value, shape=list(g.shape(x)))
    return g.add(x, made)


@block(opset=11)
def assign_slice(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Some channels overwritten by a convolution of them, as ScatterND along the first axis."""
    x, form = at_least(g, x, 4, pick), pick(3)
    at = [[0, 1], [1, 2, 3], [3, 0]][form]
    order = [1, 0, *axes(g, x)]
    part = g.conv(g.gather(x, at), len(at))
    index = g.const(np.array(at, np.int64).reshape(-1, 1))
    scattered = g.op("ScatterND", g.transpose(x, *order), index, g.transpose(part, *order))
    return g.transpose(scattered, *order)


@block()
def frozen_factor(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Channels times a longer axis of a constant, merged: the channels are what may change."""
    length, c, size = pick.of(20, 3), g.channels(x), g.spatial(x)
    table = g.vector(1, 1, length, *ones(g, x))
    both = g.mul(g.unsqueeze(x, 2), table)
    return g.conv(g.reshape(both, pick.batch(), c * length, *size), pick.width(), 1)


@block(opset=11, ranks=(2,))
def max_unpool(g: GraphBuilder, x: str, pick: Pick) -> str:
    """The places of maxima, for unpooling behind a convolution."""
    x = g.upsample(x, 2)
    pooled, places = g.fresh("pooled"), g.fresh("places")
    g.node("MaxPool", [x], [pooled, places], kernel_shape=[2, 2], strides=[2, 2])
    narrow = g.conv(pooled, g.channels(x)) if pick(2) == 0 else g.relu(pooled)
    spread = g.op("MaxUnpool", narrow, places, kernel_shape=[2, 2], strides=[2, 2])
    return g.pool("AveragePool", spread, 2, 2)


@block(opset=12)
def einsum_ellipsis(g: GraphBuilder, x: str, pick: Pick) -> str:
    last = g.spatial(x)[-1]
    matrix = g.vector(last, pick.of(last, 3), low=0.1, high=0.4)
    return g.op("Einsum", x, matrix, equation="...i,ij->...j")


@block()
def norm_by_literal(g: GraphBuilder, x: str, pick: Pick) -> str:
    """The mean over channels is spelled as a sum times a literal 1/N."""
    x = multiple_of(g, x, 2, pick)
    total = g.op("ReduceSum", x, g.ints(1)) if g.opset >= 13 else g.op("ReduceSum", x, axes=[1])
    return g.op("Sub", x, g.mul(total, g.scalar(1 / g.channels(x))))


@block(opset=12, ranks=(2,))
def einsum_layer(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A pointwise convolution as an Einsum: its matrix either way, on either side, or in heads and back."""
    c, out, form = g.channels(x), pick.width(), pick(4)
    if form == 0:
        return g.op("Einsum", x, g.weight(c, out), equation="bchw,cd->bdhw")
    if form == 1:
        return g.op("Einsum", g.weight(out, c), x, equation="dc,bchw->bdhw")
    if form == 2:
        return from_last(g, g.op("Einsum", to_last(g, x), g.weight(c, out), equation="...c,cd"))
    heads, size = pick.of(1, 2, 3), pick.of(2, 4)
    apart = g.op("Einsum", x, g.weight(heads, c, size), equation="bchw,ecs->bsehw")
    return g.op("Einsum", g.relu(apart), g.weight(size, out, heads), equation="bsehw,soe->bohw")
