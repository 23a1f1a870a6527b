"""A layer as a linear model: the rows of features it multiplies, the matrix it multiplies them by.

Whatever an operator is - a strided, dilated, grouped, depthwise or transposed convolution of any number of
dimensions, a Gemm, a MatMul with its weight on either side, the input side of a recurrent layer - its output
is a table of features times a matrix. ``form_of`` finds both, so that statistics and refitting know one case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from conet_graph.ir.einsum import EinsumLayer, axes_of, letters_of
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import (
    CONVOLUTIONS,
    RECURRENT,
    WEIGHTED,
    einsum_layer,
    is_turned,
    product_factor,
)
from conet_graph.passes.classify_edges import Layer

Array = NDArray[Any]
Floats = NDArray[np.float32]
Picker = Callable[[int], NDArray[np.int64] | None]


@dataclass(frozen=True)
class Form:
    """How a layer's weight and feature maps read as blocks of tables.

    Attributes:
        blocks: independent linear models (the groups of a grouped convolution).
        rows: features [blocks, n, F] of an input; ``pick`` names the rows (of ``n``) that are wanted, or all.
        targets: outputs [blocks, n, O] of an output; the same rows.
        matrix: the weight as [blocks, F, O].
        weight: such a matrix as a weight of the shape given.
        per_channel: features that belong to one input channel, side by side (a kernel's positions).
        gain: the output is the product times this (Gemm's alpha).

    """

    blocks: int
    rows: Callable[[Array, tuple[int, ...], Picker], Floats]
    targets: Callable[[Array, Picker], Floats]
    matrix: Callable[[Array], Floats]
    weight: Callable[[Floats, tuple[int, ...]], Floats]
    per_channel: int
    gain: float = 1.0


def form_of(graph: Graph, layer: Layer, weight: Array, node: onnx.NodeProto | None = None) -> Form | None:
    """The form of a layer with such a weight; None where it has none (quantised, deformable, batched).

    ``node``: the layer in a narrowed network, where a depthwise convolution has fewer groups.
    """
    op, record = layer.op, WEIGHTED[layer.op.op_type]
    if record.is_quantised or record.activated:
        return None
    if op.op_type in RECURRENT:
        return _recurrent(weight)
    if op.op_type == "Einsum":
        return _einsum(op, layer, weight)
    if op.op_type not in CONVOLUTIONS:
        return _product(op, layer, weight)
    if record.transposed:
        return _transposed(op, weight, _groups(op, node))
    return _convolution(op, weight, _groups(op, node)) if record.plain == "Conv" else None


def _groups(op: Operator, node: onnx.NodeProto | None) -> int:
    if node is None:
        return int(op.attr("group", 1))
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _taken(table: Array, pick: Picker) -> Floats:
    """The picked rows of [n, ...] as float32."""
    wanted = pick(len(table))
    return np.ascontiguousarray(table if wanted is None else table[wanted], np.float32)


def places_of(maps: Array, axis: int, pick: Picker) -> Floats:
    """The picked places [n, channels] of maps with their channels on an axis; nothing else is copied."""
    last = np.moveaxis(maps, axis, -1)
    wanted = pick(math.prod(last.shape[:-1]))
    if wanted is not None:
        last = last[np.unravel_index(wanted, last.shape[:-1])]
    return np.ascontiguousarray(last.reshape(-1, last.shape[-1]), np.float32)


# -- convolutions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """Where a convolution looks: kernel sizes, strides, dilations, and padding as ONNX attributes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto: str

    @staticmethod
    def of(op: Operator, kernel: tuple[int, ...]) -> _Window:
        rank = len(kernel)
        return _Window(
            kernel,
            tuple(op.attr("strides", [1] * rank)),
            tuple(op.attr("dilations", [1] * rank)),
            tuple(op.attr("pads", [0] * 2 * rank)),
            str(op.attr("auto_pad", "NOTSET")),
        )

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def padding(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Zeros before and after, for each axis of such sizes."""
        rank = len(self.kernel)
        if self.auto == "VALID":
            return [(0, 0)] * rank
        if self.auto not in ("SAME_UPPER", "SAME_LOWER"):
            return [(self.pads[k], self.pads[rank + k]) for k in range(rank)]
        found = []
        for size, extent, stride in zip(sizes, self.extents, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if self.auto == "SAME_UPPER" else (more, less))
        return found


def _patches(x: Array, window: _Window, groups: int, pads: list[tuple[int, int]], pick: Picker) -> Floats:
    """Patches [groups, n, channels a group * kernel] of maps [N, C, ...]; n counts images, then positions."""
    rank = len(window.kernel)
    if any(max(pair) > 0 for pair in pads):
        x = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)])
    for axis, (a, b) in enumerate(pads, 2):  # negative padding crops
        if a < 0 or b < 0:
            x = x[(slice(None),) * axis + (slice(max(-a, 0), x.shape[axis] - max(-b, 0)),)]
    views = sliding_window_view(x, window.extents, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, s) for s in window.strides)
    holes = tuple(slice(None, None, d) for d in window.dilations)
    views = views[(slice(None), slice(None), *steps, *holes)]
    out = views.shape[2 : 2 + rank]
    views = np.moveaxis(views, 1, 1 + rank)  # [N, *out, C, *kernel]
    count, channels = views.shape[0] * math.prod(out), views.shape[1 + rank]
    wanted = pick(count)
    if wanted is None:
        table = views.reshape(count, groups, -1)
    else:
        table = views[np.unravel_index(wanted, (views.shape[0], *out))].reshape(len(wanted), groups, -1)
    assert channels % groups == 0
    return np.ascontiguousarray(np.moveaxis(table, 1, 0), np.float32)


def _map_rows(y: Array, groups: int, pick: Picker) -> Floats:
    """Maps [N, C, ...] as [groups, n, channels a group]; n counts images, then positions."""
    table = places_of(y, 1, pick)
    return np.ascontiguousarray(np.moveaxis(table.reshape(len(table), groups, -1), 1, 0))


def _convolution(op: Operator, weight: Array, groups: int) -> Form | None:
    kernel = tuple(weight.shape[2:])
    if not kernel or weight.shape[0] % groups:
        return None
    window = _Window.of(op, kernel)

    def matrix(w: Array) -> Floats:
        table = np.asarray(w, np.float32).reshape(groups, w.shape[0] // groups, -1)
        return np.ascontiguousarray(table.transpose(0, 2, 1))

    return Form(
        groups,
        lambda x, _, pick: _patches(x, window, groups, window.padding(x.shape[2:]), pick),
        lambda y, pick: _map_rows(y, groups, pick),
        matrix,
        lambda m, shape: np.ascontiguousarray(m.transpose(0, 2, 1)).reshape(shape),
        math.prod(kernel),
    )


def _transposed(op: Operator, weight: Array, groups: int) -> Form | None:
    """A transposed convolution is a plain one over the input with zeros between its entries."""
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    if not kernel or weight.shape[0] % groups:
        return None
    window = _Window.of(op, kernel)
    plain = _Window(kernel, (1,) * rank, window.dilations, (0,) * 2 * rank, "NOTSET")

    def rows(x: Array, out: tuple[int, ...], pick: Picker) -> Floats:
        wide = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], window.strides, strict=True)]
        spread = np.zeros((*x.shape[:2], *wide), np.float32)
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in window.strides))] = x
        begins = _begins(op, window, x.shape[2:], out[2:])
        pads = []
        for extent, begin, size, length in zip(window.extents, begins, wide, out[2:], strict=True):
            before = extent - 1 - begin
            pads.append((before, length + extent - 1 - size - before))
        return _patches(spread, plain, groups, pads, pick)

    flip = tuple(slice(None, None, -1) for _ in kernel)

    def matrix(w: Array) -> Floats:
        table = np.asarray(w, np.float32)[(slice(None), slice(None), *flip)]
        table = table.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        return np.ascontiguousarray(table.transpose(0, 1, 3, 2)).reshape(groups, -1, w.shape[1])

    def back(m: Floats, shape: tuple[int, ...]) -> Floats:
        table = m.reshape(groups, shape[0] // groups, math.prod(kernel), shape[1]).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(table.reshape(shape)[(slice(None), slice(None), *flip)])

    return Form(groups, rows, lambda y, pick: _map_rows(y, groups, pick), matrix, back, math.prod(kernel))


def _begins(op: Operator, window: _Window, sizes: tuple[int, ...], out: tuple[int, ...]) -> list[int]:
    """How much a transposed convolution cuts off before each axis (ONNX operator spec, ConvTranspose)."""
    rank = len(sizes)
    extra = op.attr("output_padding", [0] * rank)
    if window.auto == "NOTSET" and not op.attr("output_shape"):
        return list(window.pads[:rank])
    if window.auto == "VALID":
        return [0] * rank
    begins = []
    for k in range(rank):
        total = window.strides[k] * (sizes[k] - 1) + extra[k] + window.extents[k] - out[k]
        begins.append(total // 2 if window.auto == "SAME_UPPER" else total - total // 2)
    return begins


# -- products ----------------------------------------------------------------------------------------


def _product(op: Operator, layer: Layer, weight: Array) -> Form | None:
    if weight.ndim != 2 or op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        return None
    on_the_left = layer.weight_slot < layer.data_slot
    inputs_first = is_turned(op, layer.weight_slot) == on_the_left
    data_turned = is_turned(op, layer.data_slot)

    def table(x: Array, lay: bool) -> Array:
        x = np.swapaxes(x, -1, -2) if lay and x.ndim > 1 else x
        return x.reshape(-1, x.shape[-1])

    return Form(
        1,
        lambda x, _, pick: _taken(table(x, data_turned != on_the_left), pick)[None],
        lambda y, pick: _taken(table(y, on_the_left), pick)[None],
        lambda w: np.ascontiguousarray(w if inputs_first else w.T, np.float32)[None],
        lambda m, _: np.ascontiguousarray(m[0] if inputs_first else m[0].T),
        1,
        product_factor(op),
    )


def _einsum(op: Operator, layer: Layer, weight: Array) -> Form | None:
    """A matrix whose axes, and those of the maps, lie in any order: one is summed over, and one made."""
    written = einsum_layer(op, layer.weight_slot)
    if written is None or weight.ndim != 2 or len(written.summed) != 1 or len(written.made) != 1:
        return None
    if set(written.data) - {written.summed} != set(written.result) - {written.made}:
        return None  # it sums over places, too
    inputs_first = written.weight == written.summed + written.made

    def laid(w: Array) -> Array:
        return w if inputs_first else w.T

    return Form(
        1,
        lambda x, _, pick: places_of(x, axes_of(written.summed, written.data, x.ndim)[0], pick)[None],
        lambda y, pick: _taken(_in_order(written, y), pick)[None],
        lambda w: np.ascontiguousarray(laid(w), np.float32)[None],
        lambda m, _: np.ascontiguousarray(laid(m[0])),
        1,
    )


def _in_order(written: EinsumLayer, y: Array) -> Array:
    """An Einsum's result as [places in the order of its data, channels]."""
    data, result = letters_of(written.data, y.ndim), letters_of(written.result, y.ndim)
    order = data.replace(written.summed, "") + written.made
    last = y.transpose([result.index(letter) for letter in order])
    return last.reshape(-1, last.shape[-1])


def _recurrent(weight: Array) -> Form | None:
    """The input side: W [directions, gates, input]; the targets are products of the original's own."""
    if weight.ndim != 3:
        return None
    return Form(
        1,
        lambda x, _, pick: _taken(x.reshape(-1, x.shape[-1]), pick)[None],
        lambda y, pick: _taken(y.reshape(-1, y.shape[-1]), pick)[None],
        lambda w: np.ascontiguousarray(np.asarray(w, np.float32).reshape(-1, w.shape[2]).T)[None],
        lambda m, shape: np.ascontiguousarray(m[0].T).reshape(shape),
        1,
    )
