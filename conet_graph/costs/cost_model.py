"""What a network would cost at other widths, without rewriting it.

The length of every axis is a fixed part plus, for each group on it, (positions a class) x (classes kept): so
parameters and multiply-accumulates are sums of products of such lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.analysis.layers import root_constant
from conet_graph.costs.cost import (
    is_weight,
    layer_macs,
    parameters,
    places_macs,
    product_macs,
    products_of_maps,
    weights_of,
)
from conet_graph.costs.input_shapes import Counting, InputShapes, fed_shapes
from conet_graph.costs.products import multiplied
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import (
    CONVOLUTIONS,
    PRODUCTS,
    RECURRENT,
    WEIGHTED,
    summed_axis,
)
from conet_graph.ir.tensors import nbytes
from conet_graph.passes.channels.units import Axis, Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.tie_channels import CHANNELS, Channels

Counts = NDArray[np.float64]
# A product of lengths: its factor, and the rows of the lengths.
Term = tuple[float, list[int]]


class CostModel:
    """Parameters, MACs and bytes as functions of the number of classes that each group keeps.

    They equal what ``conet_graph.costs.cost`` finds in the rewritten network.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels = graph.result(CHANNELS)
        now = np.array([len(g.classes) for g in self.channels.groups], np.float64)
        self._lengths = Lengths(graph, self.channels, now)
        names = [*weights_of(graph).values()]
        names += _numbers_that_may_grow(graph, self.channels, set(names))
        of_layers = _weights_of_layers(graph)
        # A bias stored once for two layers of one weight is one parameter, until a rewrite writes it twice.
        twice = [name for name in of_layers if name not in names]
        names += twice
        self._weights = _Sum([self._tensor_term(name) for name in names])
        self._only_if_changed = np.array([name in twice for name in names], np.bool_)
        # A number that stands alone in the graph is no parameter, unless an operator says it is a weight.
        self._only_if_several = np.array(
            [not _is_always_weight(graph, name, of_layers) for name in names], np.bool_
        )
        self._bytes = np.array([_item_bytes(graph, name) for name in names], np.float64)
        self._macs = _Sum([*self._layer_terms(), *self._other_products()])
        # From here on all lengths are known.
        self._sizes_now = self._weights.terms(self._lengths.at(now))
        self._in_bodies = parameters(graph) - float(self._sizes(now).sum())

    def parameters(self, counts: Counts) -> float:
        """Parameters when each group keeps ``counts`` classes."""
        return float(self._sizes(counts).sum()) + self._in_bodies

    def weight_bytes(self, counts: Counts) -> float:
        """Bytes of the parameters, as the file stores them; weights inside sub-graphs are left out."""
        return float(np.ceil(self._sizes(counts) * self._bytes).sum())

    def macs(self, counts: Counts) -> float:
        """Multiply-accumulates when each group keeps ``counts`` classes (unknown ones left out)."""
        # Rounded: they are whole, and a target that is met exactly must not be missed by 1e-10.
        return float(np.rint(self._macs.terms(self._lengths.at(counts))).sum())

    def macs_along(self, counts: Counts, group: int, kept: Counts) -> Counts:
        """MACs less those at ``counts``, where one group keeps each of some numbers of classes."""
        terms = self._macs_of[group]
        rows, lengths = self._macs.rows[terms], self._lengths.at(counts)
        more = np.append(self._lengths.gains[:, group], 0.0)[rows] * (kept - counts[group])[:, None, None]
        products = np.prod(np.rint(lengths[rows] + more), axis=-1)
        now = np.prod(lengths[rows], axis=-1)
        found: Counts = (products - now) @ self._macs.factors[terms]
        return found

    def neighbours(self, group: int) -> list[int]:
        """The groups that layers share with a group, itself among them."""
        rows = np.unique(self._macs.rows[self._macs_of[group]])
        moving = np.flatnonzero(np.any(self._lengths.gains[rows[rows >= 0]] != 0, axis=0))
        return sorted({group, *moving.tolist()})

    @cached_property
    def _macs_of(self) -> list[Ids]:
        """For each group the layers whose MACs change with it."""
        moves = np.concatenate([self._lengths.gains != 0, np.zeros((1, len(self.channels.groups)), np.bool_)])
        touched = np.asarray(moves[self._macs.rows].any(axis=1))
        return [np.flatnonzero(touched[:, group]) for group in range(len(self.channels.groups))]

    def _sizes(self, counts: Counts) -> Counts:
        sizes = self._weights.terms(self._lengths.at(counts))
        left_out = self._only_if_several & (sizes <= 1)
        left_out |= self._only_if_changed & (sizes == self._sizes_now)
        return np.where(left_out, 0.0, sizes)

    # -- terms -------------------------------------------------------------------------------------

    def _tensor_term(self, name: str) -> Term:
        return 1.0, [self._lengths.row(name, k) for k in range(len(self.graph.shape(name) or ()))]

    def _layer_terms(self) -> list[Term]:
        terms: list[Term] = []
        for layer in self.graph.result(LAYERS):
            macs = layer_macs(self.graph, layer)
            if macs is None:
                continue
            if layer.op.op_type in CONVOLUTIONS:
                terms.append(self._scaled(macs, self._tensor_term(layer.op.input(layer.weight_slot))[1]))
            elif layer.op.op_type in RECURRENT:
                terms += self._recurrent_terms(layer.op, macs)
            elif layer.op.op_type == "Einsum":
                terms += self._multiplied(layer.op)
            else:
                terms.append(self._product_term(layer, macs))
        return terms

    def _recurrent_terms(self, op: Operator, macs: int) -> list[Term]:
        """The matrices W and R work once a step each."""
        rows = [self._tensor_term(op.input(slot))[1] for slot in (1, 2)]
        sizes = [self._lengths.now(r) for r in rows]
        steps = macs / sum(sizes) if sum(sizes) else 0.0
        return [(steps, r) for r in rows]

    def _product_term(self, layer: Layer, macs: int) -> Term:
        return self._product(layer.op, layer.data_slot, macs)

    def _product(self, op: Operator, slot: int, macs: int) -> Term:
        """Numbers in a product's output times the length that the input at ``slot`` is summed over."""
        rows = [self._lengths.row(op.outputs[0], k) for k in range(1, self._rank(op.outputs[0]))]
        inner = summed_axis(op, slot, self._rank(op.input(slot)))
        return self._scaled(macs, [*rows, self._lengths.row(op.input(slot), inner)])

    def _other_products(self) -> list[Term]:
        """Products of two feature maps."""
        layers = {layer.op.index for layer in self.graph.result(LAYERS)}
        terms: list[Term] = []
        for op in products_of_maps(self.graph, layers):
            facts = PRODUCTS.get(op.op_type)
            if facts is None:
                terms += self._multiplied(op)
                continue
            macs = product_macs(self.graph, op, facts.data, facts.weight)
            if macs is not None:
                terms.append(self._product(op, facts.data, macs))
        return terms

    def _multiplied(self, op: Operator) -> list[Term]:
        """The products of an Attention or an Einsum; none of those of which a size is not known."""
        terms: list[Term] = []
        for places in multiplied(self.graph, op) or ():
            macs = places_macs(self.graph, places)
            if macs is not None:
                terms.append(self._scaled(macs, [self._lengths.row(*place) for place in places]))
        return terms

    def _rank(self, value: str) -> int:
        return len(self.graph.shape(value) or ())

    def _scaled(self, macs: int, rows: list[int]) -> Term:
        """A term whose value at the widths of today is ``macs``."""
        now = self._lengths.now(rows)
        return (macs / now if now else 0.0), rows


@dataclass
class Lengths:
    """The lengths of axes; each has a row."""

    graph: Graph
    channels: Channels
    counts: Counts
    fixed: list[float] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    current: list[float] = field(default_factory=list)
    rows: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note which groups are free."""
        self.free = np.array([g.free for g in self.channels.groups], np.bool_)

    def row(self, value: str, axis: int) -> int:
        """The row of an axis's length; a free dimension counts as one."""
        key = (value, axis)
        if key in self.rows:
            return self.rows[key]
        row = self.rows[key] = len(self.fixed)
        units = self._axis(value, axis)
        if isinstance(units, int):
            shape = self.graph.shape(value)
            size = shape[axis] if shape else 1
            self.fixed.append(float(size) if isinstance(size, int) else 1.0)
            self.current.append(self.fixed[-1])
            return row
        numbers = self.channels.group_of_class[self.channels.units.classes[units]]
        numbers = numbers[numbers >= 0]
        moving = numbers[self.free[numbers]]
        self.fixed.append(float(len(units) - len(moving)))
        self.current.append(float(len(units)))
        for number, times in zip(*np.unique(moving, return_counts=True), strict=True):
            self.entries.append((row, int(number), float(times / self.counts[number])))
        return row

    def _axis(self, value: str, axis: int) -> Axis:
        units = self.channels.units
        if (value, axis) in units.stored:
            return units.stored[value, axis]
        axes = units.values.get(value)
        return axes[axis] if axes is not None and axis < len(axes) else 0

    def now(self, rows: list[int]) -> float:
        """The product of some lengths in the network as it is."""
        return float(np.prod([self.current[row] for row in rows]))

    def at(self, counts: Counts) -> Counts:
        """All lengths at other widths, and a one behind them."""
        rows, columns, classes = self._entries
        moving = np.bincount(rows, classes * counts[columns], len(self.fixed))
        lengths = np.asarray(self.fixed) + moving
        return np.append(np.rint(lengths), 1.0)

    @cached_property
    def gains(self) -> Counts:
        """Positions of each length that a class of each group brings, once all lengths are known."""
        gains = np.zeros((len(self.fixed), len(self.channels.groups)))
        for row, group, positions in self.entries:
            gains[row, group] += positions
        return gains

    @cached_property
    def _entries(self) -> tuple[Ids, Ids, Counts]:
        """Rows, groups and positions a class, once all lengths are known."""
        rows, groups, positions = zip(*self.entries, strict=True) if self.entries else ((), (), ())
        return np.array(rows, np.int64), np.array(groups, np.int64), np.array(positions, np.float64)


class _Sum:
    """Terms, so laid out that all products are taken at once."""

    def __init__(self, terms: list[Term]) -> None:
        self.factors = np.array([factor for factor, _ in terms], np.float64)
        longest = max((len(rows) for _, rows in terms), default=0)
        # Short terms are filled up with the one behind the lengths.
        self.rows = np.array([rows + [-1] * (longest - len(rows)) for _, rows in terms], np.int64)
        self.rows = self.rows.reshape(len(terms), longest)

    def terms(self, lengths: Counts) -> Counts:
        """The value of each term."""
        values: Counts = self.factors * np.prod(lengths[self.rows], axis=1)
        return values


def _numbers_that_may_grow(graph: Graph, channels: Channels, known: set[str]) -> list[str]:
    """Single numbers on the axis of a free group of one channel: parameters once it is wider."""
    units, groups = channels.units, channels.groups
    found: list[str] = []
    for (name, _), axis in units.stored.items():
        constant = graph.constants.get(name)
        if constant is None or constant.size != 1 or not constant.is_float or name in known:
            continue
        number = -1 if isinstance(axis, int) else int(channels.group_of_class[units.classes[axis[0]]])
        read = any(is_weight(op.op_type, slot, 2) for op, slot in graph.consumers.get(name, []))
        if number >= 0 and groups[number].free and read:
            found.append(name)
    return list(dict.fromkeys(found))


def _weights_of_layers(graph: Graph) -> list[str]:
    """The tensors behind the weights and biases of all layers, each once."""
    roots: dict[str, None] = {}
    for layer in graph.result(LAYERS):
        bias = WEIGHTED[layer.op.op_type].bias
        for slot in [layer.weight_slot] if bias is None else [layer.weight_slot, bias]:
            root = root_constant(graph, layer.op.input(slot)) if layer.op.input(slot) else None
            if root is not None:
                roots.setdefault(root)
    return list(roots)


def _is_always_weight(graph: Graph, name: str, of_layers: list[str]) -> bool:
    """Whether a tensor is a weight also where it holds a single number."""
    readers = graph.consumers.get(name, [])
    return name in of_layers or any(is_weight(op.op_type, slot, 1) for op, slot in readers)


def _item_bytes(graph: Graph, name: str) -> float:
    """Bytes of one number of a tensor; less than one where several are packed into a byte."""
    constant = graph.constants.get(name)
    # A weight that an operator makes is taken for float32.
    kind = onnx.TensorProto.FLOAT if constant is None else constant.tensor.data_type
    return nbytes(onnx.TensorProto(data_type=kind, dims=[8])) / 8


def costs_at(graph: Graph, sizes: InputShapes) -> CostModel | None:
    """The costs of a network as inputs of such sizes are fed; None where the file tells all sizes."""
    shapes = fed_shapes(graph, sizes)
    return CostModel(Counting(shapes).of(graph)) if shapes else None
