"""Random ONNX CNNs for property-based tests: a list of blocks, each a small function on a feature map.

A drawn network is its list of (block, number) pairs, so that hypothesis shrinks to few, simple blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSETS = (11, 13, 17, 18, 21)


@dataclass
class Maker:
    """A network in the making; the current feature map is ``x`` with shape [N, channels, side, side]."""

    opset: int
    channels: int = 3
    side: int = 8
    x: str = "input"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def new(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def constant(self, array: np.ndarray, kind: str = "c") -> str:
        name = self.new(kind)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int, kind: str = "w") -> str:
        rng = np.random.default_rng(self.count)
        fan_in = max(1, math.prod(shape[1:]))
        return self.constant((rng.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32), kind)

    def op(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: object) -> str | list[str]:
        names = [self.new(op_type) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, names[0], **attributes))
        return names[0] if outputs == 1 else names

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), "ints")

    def conv(
        self, x: str, inside: int, out: int, k: int = 1, group: int = 1, bias: bool = True, **more: object
    ) -> str:
        inputs = [x, self.random(out, inside // group, k, k)]
        if bias:
            inputs.append(self.random(out, kind="b"))
        attributes = {"pads": [k // 2] * 4, "group": group, **more}
        return str(self.op("Conv", inputs, **attributes))

    def reshape(self, x: str, *shape: int) -> str:
        return str(self.op("Reshape", [x, self.ints(*shape)]))


Block = Callable[[Maker, int], None]


def conv(m: Maker, n: int) -> None:
    out = 2 + n % 9
    m.x, m.channels = m.conv(m.x, m.channels, out, (1, 3)[n % 2], bias=n % 3 > 0), out


def grouped(m: Maker, n: int) -> None:
    groups, even = 2 + n % 2, (2 + n % 3)
    inside = groups * even
    x = m.conv(m.x, m.channels, inside)
    out = groups * (1 + n % 4)
    m.x, m.channels = m.conv(x, inside, out, 3, groups), out


def depthwise(m: Maker, n: int) -> None:
    if m.channels < 2:
        return
    times = 1 + n % 3
    m.x = m.conv(m.x, m.channels, m.channels * times, 3, m.channels)
    m.channels *= times


def transposed(m: Maker, n: int) -> None:
    group = 2 if n % 2 and m.channels % 2 == 0 else 1
    out = group * (1 + n % 4)
    inputs = [m.x, m.random(m.channels, out // group, 3, 3), m.random(out, kind="b")]
    m.x = str(m.op("ConvTranspose", inputs, group=group, pads=[1] * 4))
    m.channels = out


def norm(m: Maker, n: int) -> None:
    c = m.channels
    rng = np.random.default_rng(n)
    vectors = [m.constant(rng.uniform(0.5, 1.5, c).astype(np.float32), "bn") for _ in range(4)]
    m.x = str(m.op("BatchNormalization", [m.x, *vectors]))


def activation(m: Maker, n: int) -> None:
    m.x = str(m.op(("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Abs")[n % 5], [m.x]))


def residual(m: Maker, n: int) -> None:
    branch = m.conv(m.x, m.channels, m.channels, 3)
    m.x = str(m.op("Add", [branch, m.x] if n % 2 else [m.x, branch]))


def squeeze_excite(m: Maker, n: int) -> None:
    c, squeezed = m.channels, 1 + n % 3
    pooled = str(m.op("GlobalAveragePool", [m.x]))
    if n % 2:
        flat = m.reshape(pooled, 0, c)
        one = str(m.op("Gemm", [flat, m.random(squeezed, c), m.random(squeezed)], transB=1))
        two = str(m.op("Gemm", [str(m.op("Relu", [one])), m.random(squeezed, c), m.random(c)]))
        gate = m.reshape(two, 0, c, 1, 1)
    else:
        gate = m.conv(str(m.op("Relu", [m.conv(pooled, c, squeezed)])), squeezed, c)
    m.x = str(m.op("Mul", [m.x, str(m.op("Sigmoid", [gate]))]))


def spatial_gate(m: Maker, n: int) -> None:
    m.x = str(m.op("Mul", [m.x, m.conv(m.x, m.channels, 1)]))


def concat(m: Maker, n: int) -> None:
    out = 1 + n % 5
    other = m.conv(m.x, m.channels, out, 3)
    parts = {0: [m.x, other], 1: [other, m.x, other], 2: [m.x, m.x]}[n % 3]
    m.channels = sum(out if p == other else m.channels for p in parts)
    m.x = str(m.op("Concat", parts, axis=1))


def split(m: Maker, n: int) -> None:
    first, second = 2 + n % 3, 2 + (n % 3 if n % 2 else n % 4)
    x = m.conv(m.x, m.channels, first + second)
    if m.opset < 13:
        a, b = m.op("Split", [x], 2, axis=1, split=[first, second])
    elif first == second and m.opset < 18:
        a, b = m.op("Split", [x], 2, axis=1)
    elif first == second:
        a, b = m.op("Split", [x], 2, axis=1, num_outputs=2)
    else:
        a, b = m.op("Split", [x, m.ints(first, second)], 2, axis=1)
    if n % 4 == 0 and first == second:
        m.x, m.channels = str(m.op("Mul", [a, str(m.op("Sigmoid", [b]))])), first
    else:
        other = m.conv(b, second, second, 3)
        m.x, m.channels = str(m.op("Concat", [a, b, other], axis=1)), first + 2 * second


def slice_(m: Maker, n: int) -> None:
    c = 4 + 2 * (n % 3)
    x = m.conv(m.x, m.channels, c)
    kind = n % 4
    start, end, step = ((1, c - 1, 1), (0, 2**31 - 1, 2), (-1, -(2**31), -1), (-3, 2**31 - 1, 1))[kind]
    m.x = str(m.op("Slice", [x, m.ints(start), m.ints(end), m.ints(1), m.ints(step)]))
    m.channels = len(range(c)[start:end:step]) if step > 0 else c


def gather(m: Maker, n: int) -> None:
    c = 3 + n % 4
    x = m.conv(m.x, m.channels, c)
    rng = np.random.default_rng(n)
    picks = rng.permutation(c) if n % 2 else rng.integers(0, c, c + 1)
    m.x, m.channels = str(m.op("Gather", [x, m.ints(*picks.tolist())], axis=1)), len(picks)


def shuffle(m: Maker, n: int) -> None:
    groups, each = 2 + n % 2, 2 + n % 3
    c, s = groups * each, m.side
    x = m.conv(m.x, m.channels, c)
    x = str(m.op("Transpose", [m.reshape(x, -1, groups, each, s, s)], perm=[0, 2, 1, 3, 4]))
    m.x, m.channels = m.reshape(x, -1, c, s, s), c


def pixel_shuffle(m: Maker, n: int) -> None:
    if m.side > 16:
        return
    out = 1 + n % 3
    x = m.conv(m.x, m.channels, 4 * out)
    if n % 3 == 2:
        s = m.side
        x = str(m.op("Transpose", [m.reshape(x, -1, out, 2, 2, s, s)], perm=[0, 1, 4, 2, 5, 3]))
        m.x = m.reshape(x, -1, out, 2 * s, 2 * s)
    else:
        m.x = str(m.op("DepthToSpace", [x], blocksize=2, mode=("DCR", "CRD")[n % 3]))
    m.channels, m.side = out, 2 * m.side


def space_to_depth(m: Maker, n: int) -> None:
    if m.side % 2 or m.side < 4:
        return
    m.x = str(m.op("SpaceToDepth", [m.x], blocksize=2))
    m.channels, m.side = 4 * m.channels, m.side // 2


def pool(m: Maker, n: int) -> None:
    if m.side < 4 or m.side % 2:
        return
    m.x = str(m.op(("MaxPool", "AveragePool")[n % 2], [m.x], kernel_shape=[2, 2], strides=[2, 2]))
    m.side //= 2


def nhwc(m: Maker, n: int) -> None:
    c, out = m.channels, 2 + n % 5
    x = str(m.op("Transpose", [m.x], perm=[0, 2, 3, 1]))
    x = str(m.op("Add", [str(m.op("MatMul", [x, m.random(c, out)])), m.random(out, kind="b")]))
    m.x, m.channels = str(m.op("Transpose", [x], perm=[0, 3, 1, 2])), out


def attention(m: Maker, n: int) -> None:
    c, d, s = m.channels, 2 + n % 3, m.side
    q, k = (m.reshape(m.conv(m.x, c, d), 0, d, s * s) for _ in range(2))
    v = m.reshape(m.conv(m.x, c, c), 0, c, s * s)
    scores = str(m.op("MatMul", [str(m.op("Transpose", [q], perm=[0, 2, 1])), k]))
    out = str(m.op("MatMul", [v, str(m.op("Softmax", [scores], axis=2))]))
    m.x = m.reshape(out, 0, c, s, s)


def quantised(m: Maker, n: int) -> None:
    c, out = m.channels, 2 + n % 4
    rng = np.random.default_rng(n)
    weight = m.constant(rng.integers(-127, 128, (out, c, 1, 1)).astype(np.int8), "qw")
    if m.opset >= 13 and n % 2:
        scale = m.constant(rng.uniform(0.002, 0.01, out).astype(np.float32), "scale")
        zero = m.constant(np.zeros(out, np.int8), "zero")
        w = str(m.op("DequantizeLinear", [weight, scale, zero], axis=0))
    else:
        scale = m.constant(np.float32(0.005).reshape(()), "scale")
        w = str(m.op("DequantizeLinear", [weight, scale, m.constant(np.int8(0).reshape(()), "zero")]))
    m.x, m.channels = str(m.op("Conv", [m.x, w])), out


def shared(m: Maker, n: int) -> None:
    c = 2 + n % 4
    x = m.conv(m.x, m.channels, c)
    weight, bias = m.random(c, c, 1, 1), m.constant(np.zeros(c, np.float32), "zeros")
    x = str(m.op("Relu", [str(m.op("Conv", [x, weight, bias]))]))
    other = str(m.op("Identity", [bias])) if n % 2 else bias
    second = weight if n % 3 == 0 else m.random(c, c, 1, 1)
    m.x, m.channels = str(m.op("Conv", [x, second, other])), c


def pad_channels(m: Maker, n: int) -> None:
    before, after = n % 3, 1 + n % 2
    m.x = str(m.op("Pad", [m.x, m.ints(0, before, 0, 0, 0, after, 0, 0)]))
    m.channels += before + after


def tile(m: Maker, n: int) -> None:
    m.x, m.channels = str(m.op("Tile", [m.x, m.ints(1, 2, 1, 1)])), 2 * m.channels


def computed_reshape(m: Maker, n: int) -> None:
    size = str(m.op("Gather", [str(m.op("Shape", [m.x])), m.ints(0)], axis=0))
    target = str(m.op("Concat", [size, m.ints(m.channels, m.side * m.side)], axis=0))
    x = str(m.op("Reshape", [m.x, target]))
    m.x = m.reshape(x, 0, m.channels, m.side, m.side)


def group_norm(m: Maker, n: int) -> None:
    groups, each = 2, 1 + n % 3
    c, s = groups * each, m.side
    x = m.reshape(m.conv(m.x, m.channels, c), 0, groups, -1)
    vectors = [m.constant(np.full(groups, v, np.float32), "gn") for v in (1.0, 0.0)]
    x = m.reshape(str(m.op("InstanceNormalization", [x, *vectors])), 0, c, s, s)
    gain = m.constant(np.linspace(0.5, 1.5, c, dtype=np.float32).reshape(c, 1, 1), "gain")
    m.x, m.channels = str(m.op("Mul", [x, gain])), c


BLOCKS: tuple[Block, ...] = (
    conv, activation, norm, residual, grouped, depthwise, transposed, squeeze_excite, spatial_gate, concat,
    split, slice_, gather, shuffle, pixel_shuffle, space_to_depth, pool, nhwc, attention, quantised, shared,
    pad_channels, tile, computed_reshape, group_norm,
)  # fmt: skip


def build(opset: int, blocks: list[tuple[int, int]], head: int) -> onnx.ModelProto:
    """The network of a list of (block, number) pairs between a first convolution and a classifier."""
    m = Maker(opset)
    conv(m, 4)
    for block, number in blocks:
        BLOCKS[block](m, number)
        if m.channels > 24:
            conv(m, number)
    if head % 3 == 0:
        pool(m, 0)
        flat = str(m.op("Flatten", [m.x]))
        size = m.channels * m.side * m.side
    else:
        flat = str(m.op("Flatten", [str(m.op("GlobalAveragePool", [m.x]))]))
        size = m.channels
    transposed_ = head % 2
    weight = m.random(5, size) if transposed_ else m.random(size, 5)
    out = str(m.op("Gemm", [flat, weight, m.random(5, kind="b")], transB=transposed_))
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(m.nodes, "random", [x], [y], m.weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A random network."""
    pairs = st.tuples(st.integers(0, len(BLOCKS) - 1), st.integers(0, 11))
    blocks = draw(st.lists(pairs, min_size=1, max_size=7))
    return build(draw(st.sampled_from(OPSETS)), blocks, draw(st.integers(0, 5)))
