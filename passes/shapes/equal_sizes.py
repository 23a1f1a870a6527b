"""Sizes that shape inference leaves open, by the names of those that they are equal to or multiples of.

Inference gives what leaves a convolution a new name for each free size, also where as many pixels leave it
as have come. So that merged and split axes cancel, such a name stands for what it equals, until sizes are
inferred anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from conet_graph.ir.graph import Dim, Graph, Operator, Shape
from conet_graph.ir.operators import BROADCASTING
from conet_graph.passes.shapes.size_products import UNNAMED, factors, is_open, product

# Older opsets say by an attribute where the shorter shape lies.
BROADCASTS_FROM_THE_RIGHT = 7
WINDOWED = frozenset(("Conv", "MaxPool", "AveragePool", "LpPool"))


@dataclass
class EqualSizes:
    """What inference's own names stand for: numbers, other names and their products."""

    graph: Graph
    names: dict[str, Dim] = field(default_factory=dict)

    def learn(self, value: str, told: Sequence[Dim]) -> None:
        """Note that a value has this shape; what inference calls otherwise has these names from now on."""
        shape = self.graph.shapes.get(value)
        if shape is None or len(shape) != len(told):
            return
        for have, want in zip(shape, told, strict=True):
            if isinstance(have, str) and have.startswith(UNNAMED) and "*" not in have and factors(want):
                self.names[have] = want
        self.rename([value])

    def rename(self, values: Sequence[str]) -> None:
        """Say the shapes of values by what has been learned."""
        for value in values if self.names else ():
            shape = self.graph.shapes.get(value)
            if shape is not None and any(isinstance(d, str) for d in shape):
                self.graph.shapes[value] = tuple(self.meant(d) for d in shape)

    def meant(self, dim: Dim) -> Dim:
        """A size, by what its names stand for."""
        if not isinstance(dim, str) or "*" not in dim:
            return self.names.get(dim, dim) if isinstance(dim, str) else dim
        found = factors(dim)
        if found is None or not any(name in self.names for name in found[1]):
            return dim
        return product([found[0], *(self.names.get(name, name) for name in found[1].elements())])


def name_equal_sizes(graph: Graph) -> None:
    """Name free sizes behind windows that keep or multiply them, on axes not cut, and broadcast ones."""
    equal = EqualSizes(graph)
    for op in graph.operators:
        equal.rename(op.outputs)
        shape, made = graph.shape(op.input(0)), graph.shape(op.outputs[0])
        if op.domain or shape is None or made is None or not any(map(is_open, made)):
            continue
        told = _told(graph, op, shape)
        if told is not None:
            for output in op.outputs:
                equal.learn(output, told)


def _told(graph: Graph, op: Operator, shape: Shape) -> Shape | None:
    """The sizes of an operator's output that are those of its input, or multiples; None for the others."""
    if op.op_type in WINDOWED or op.op_type == "ConvTranspose":
        return None, None, *_behind_windows(graph, op, shape[2:])
    if op.op_type == "DepthToSpace":
        return shape[0], None, *(product((op.attr("blocksize", 1), d)) for d in shape[2:])
    if op.op_type in ("Split", "TopK"):
        along = op.attr("axis", 0 if op.op_type == "Split" else -1) % max(len(shape), 1)
        return tuple(None if k == along else d for k, d in enumerate(shape))
    if op.op_type == "Slice" and op.input(3) in graph.constants:
        cut = {int(axis) % max(len(shape), 1) for axis in graph.array(op.input(3)).reshape(-1).tolist()}
        return tuple(None if k in cut else d for k, d in enumerate(shape))
    if op.op_type in BROADCASTING and op.version >= BROADCASTS_FROM_THE_RIGHT:
        whole: Shape = ()
        for given in map(graph.shape, op.inputs):
            if given is None:
                return None
            whole = broadcast(whole, given)
        return whole
    return None


def broadcast(one: Shape, other: Sequence[Dim]) -> Shape:
    """Two shapes broadcast together, as far as it is known."""
    rank = max(len(one), len(other))
    out: list[Dim] = []
    for k in range(-rank, 0):
        a = one[k] if -k <= len(one) else 1
        b = other[k] if -k <= len(other) else 1
        if a == 1 or a == b:
            out.append(b)
        elif b == 1 or isinstance(a, int):
            out.append(a)
        else:
            out.append(b if isinstance(b, int) else None)
    return tuple(out)


def _behind_windows(graph: Graph, op: Operator, pixels: Shape) -> list[Dim]:
    """Numbers of pixels behind windows."""
    weight = graph.shape(op.input(1)) if op.input(1) else None
    count = len(pixels)
    kernel = op.attr("kernel_shape") or (weight[2:] if weight is not None else [None] * count)
    strides, dilations = op.attr("strides", [1] * count), op.attr("dilations", [1] * count)
    pads, more = op.attr("pads", [0] * 2 * count), op.attr("output_padding", [0] * count)
    lists = (kernel, strides, dilations, more)
    if any(len(found) != count for found in lists) or len(pads) != 2 * count or op.attr("output_shape"):
        return [None] * count
    mode, out = op.attr("auto_pad", "NOTSET"), list[Dim]()
    for k, (long, stride) in enumerate(zip(kernel, strides, strict=True)):
        reach = None if long is None else dilations[k] * (long - 1) + 1
        padding = 0 if mode == "VALID" else pads[k] + pads[k + count]
        if op.op_type == "ConvTranspose":
            fits = reach is not None and reach + more[k] - padding == stride
        else:
            fits = stride == 1 and reach is not None and reach - padding == 1
        fits = stride == 1 or op.op_type == "ConvTranspose" if mode.startswith("SAME") else fits
        size = pixels[k] if stride == 1 else product((stride, pixels[k]))
        out.append(size if fits else None)
    return out
