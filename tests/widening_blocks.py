"""Blocks of random networks that are hard to widen: shared and composed weights, whole groups, sums."""

from __future__ import annotations

from tests.graphs import GraphBuilder
from tests.strategies import Pick, at_least, block, from_last, multiple_of, ones, to_last


@block()
def there_and_back(g: GraphBuilder, x: str, pick: Pick) -> str:
    """One kernel in a convolution and, turned round, in a transposed one."""
    c, inner = g.channels(x), pick.width()
    weight = g.weight(inner, c, *ones(g, x))
    made = g.relu(g.conv(x, inner, weight=weight, bias=False))
    return g.add(x, g.op("ConvTranspose", made, weight)) if pick(2) else g.op("ConvTranspose", made, weight)


@block()
def tied_matrix(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A matrix, and its Transpose behind an activation."""
    c = g.channels(x)
    weight = g.weight(c, pick.width(), fan_in=c)
    made = g.relu(g.matmul(to_last(g, x), weight))
    return from_last(g, g.matmul(made, g.transpose(weight, 1, 0)))


@block()
def composed_weight(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Joined along what it reads or makes, added up, masked, or of low rank."""
    form, c, out = pick(4), g.channels(x), 2 + pick(4)
    if form == 0 and c > 1:
        first = 1 + pick(c - 1)
        parts = [g.weight(out, n, *ones(g, x)) for n in (first, c - first)]
        return g.conv(x, out, weight=g.concat(*parts, axis=1), bias=False)
    if form == 1:
        parts = [g.weight(n, c, *ones(g, x)) for n in (1, out)]
        return g.conv(x, out + 1, weight=g.concat(*parts, axis=0), bias=False)
    if form == 2:
        mask = g.vector(out, c, *ones(g, x), low=0.2, high=1.0)
        return g.conv(x, out, weight=g.mul(g.weight(out, c, *ones(g, x)), mask), bias=False)
    adapter = g.matmul(g.weight(c, 2, fan_in=c), g.weight(2, out, fan_in=2))
    return from_last(g, g.matmul(to_last(g, x), g.add(g.weight(c, out, fan_in=c), adapter)))


@block()
def whole_groups(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A grouped convolution with one output a group; transposed, too."""
    groups, transposed = pick.of(2, 3, 4), pick(2)
    x = multiple_of(g, x, 2 * groups, pick)
    return g.conv_transpose(x, groups, group=groups) if transposed else g.conv(x, groups, 3, group=groups)


@block()
def shuffle_unit(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Grouped, shuffled, depthwise, grouped: ShuffleNet v1."""
    groups, each, size = pick.of(2, 3), 2 + pick(2), g.spatial(x)
    inner, rest = groups * each, range(3, 3 + len(size))
    y = g.conv(multiple_of(g, x, groups, pick), inner, group=groups)
    y = g.reshape(y, pick.batch(), groups, each, *size)
    y = g.reshape(g.transpose(y, 0, 2, 1, *rest), pick.batch(), inner, *size)
    return g.conv(g.conv(y, inner, 3, group=inner), groups * (1 + pick(3)), group=groups)


@block(opset=13)
def channel_sum(g: GraphBuilder, x: str, pick: Pick) -> str:
    """A gate made of the sum over channels, without weights."""
    return g.mul(x, g.sigmoid(g.op("ReduceSum", g.conv(x, 3), g.ints(1))))


@block(opset=10)
def stepped_slice(g: GraphBuilder, x: str, pick: Pick) -> str:
    """Every n-th channel, from anywhere, in both directions."""
    x = at_least(g, x, 5, pick)
    start, step = pick(5), pick.of(-1, 2, 3, -2, -3)
    end = pick.of(2**31 - 1, 5) if step > 0 else pick.of(-(2**31), -g.channels(x) - 1)
    return g.slice(x, start if step > 0 else -1 - start, end, 1, step)
