"""Fresh weights for every layer, drawn as PyTorch draws them, each from its own name.

A weight is uniform with variance 1 / (3 fan_in), as in ``torch.nn.init.kaiming_uniform_(a=sqrt(5))``, the
default of PyTorch's layers and of the published CONet code; a bias is uniform within 1 / sqrt(fan_in), or
zero where a BatchNormalization takes it away again. With the draw "kaiming" weights are normal with variance
2 / fan_in (He et al. 2015), and biases zero. Two things differ from PyTorch: a transposed convolution
counts what it adds up (PyTorch counts its outputs), and so does the input weight of a recurrent layer
(PyTorch: the hidden size). Norms become neutral and slopes 0.25. What belongs to no layer stays.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import NEUTRAL, RECURRENT, WEIGHTED, fan_in
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.widths.relabel import Labels

Array = np.ndarray[Any, Any]

# What a vector is where it multiplies or is added, before training.
_FACTORS = frozenset({"Mul", "Div"})
_SUMMANDS = frozenset({"Add", "Sub", "Sum", "BiasAdd", "BiasGelu"})
# Operators that hand a vector on as it is, or turn one into one and nothing into nothing.
_PASSING = frozenset(
    (
        *("Cast", "Identity", "Neg", "Reshape", "Reciprocal", "Sqrt", "Squeeze", "Transpose", "Unsqueeze"),
        *("Flatten", "Expand", "Abs"),
    )
)


@dataclass(frozen=True)
class Fresh:
    """How weights are drawn: 'default' or 'kaiming', and from which seed."""

    seed: int
    draw: str = "default"


def draw_weights(graph: Graph, labels: Labels, arrays: dict[str, Array], fresh: Fresh) -> None:
    """Put fresh weights into ``arrays``: every layer's, and what norms and activations learn.

    Args:
        graph: the analysed original.
        labels: its new layout.
        arrays: constants that change so far, by name; takes the drawn ones.
        fresh: how to draw.

    """
    drawing = _Drawing(graph, labels, arrays, fresh)
    for layer in graph.result(LAYERS):
        drawing.layer(layer)
    behind = _behind_layers(graph)
    for op in graph.operators:
        for slot, value in NEUTRAL.get(op.op_type, {}).items():
            drawing.fill(op.input(slot), value)
        if op.op_type in _FACTORS | _SUMMANDS and any(name in behind for name in op.inputs):
            for name in op.inputs:
                if name in graph.derived:
                    drawing.neutral(name, 1.0 if op.op_type in _FACTORS else 0.0)


def _behind_layers(graph: Graph) -> set[str]:
    """Values that a layer has touched: what scales or shifts the network's input is no weight."""
    layers = {layer.op.index for layer in graph.result(LAYERS)}
    found: set[str] = set()
    for op in graph.operators:
        if op.index in layers or any(name in found for name in op.inputs):
            found.update(name for name in op.outputs if name)
    return found - graph.derived


class _Drawing:
    """Draws each constant once."""

    def __init__(self, graph: Graph, labels: Labels, arrays: dict[str, Array], fresh: Fresh) -> None:
        self.graph, self.labels, self.arrays, self.fresh = graph, labels, arrays, fresh
        self.done: set[str] = set()

    def layer(self, layer: Layer) -> None:
        """The weight, the recurrent weight and the bias of a layer."""
        op, record = layer.op, WEIGHTED[layer.op.op_type]
        weight = op.input(layer.weight_slot)
        inputs = fan_in(op, layer.weight_slot, self._shape(weight))
        for name in self._matrices(weight):
            self._draw(name, inputs)
        if op.op_type in RECURRENT:
            hidden = max(1, int(self._shape(op.input(2))[-1]))
            self._draw(op.input(2), hidden)
            for slot in (3, 7):
                self._bias(op.input(slot), hidden)
        elif record.bias is not None and op.input(record.bias):
            self._bias(op.input(record.bias), 0 if self._is_normalised(op) else inputs)
        for reader, _ in self.graph.consumers.get(op.outputs[0], []):
            if reader.op_type in _SUMMANDS:
                self._added(reader, op.outputs[0], 0 if self._is_normalised(reader) else inputs)

    def fill(self, name: str, value: float) -> None:
        """Let a constant be ``value`` everywhere."""
        if self._is_new(name):
            self._put(name, np.full(self._shape(name), value))

    def neutral(self, name: str, value: float) -> None:
        """Let a vector be ``value`` everywhere, through what the graph makes of it."""
        if name in self.graph.constants:
            if self._is_vector(name):
                self.fill(name, value)
            return
        op = self.graph.producers.get(name)
        if op is None or name not in self.graph.derived:
            return
        if op.op_type in _FACTORS:
            self.neutral(op.input(0), value)
            self.neutral(op.input(1), 1.0)
        elif op.op_type in _SUMMANDS:
            # A small number against division by zero stays; of two vectors the second is nothing.
            first = 0 if self._is_long(op.input(0)) else 1
            self.neutral(op.input(first), value)
            self.neutral(op.input(1 - first), 0.0)
        elif op.op_type in _PASSING:
            self.neutral(op.input(0), value)

    def _is_normalised(self, op: Operator) -> bool:
        """Whether all that reads an operator is a BatchNormalization, which takes a bias away."""
        readers = self.graph.consumers.get(op.outputs[0], [])
        return bool(readers) and all(reader.op_type == "BatchNormalization" for reader, _ in readers)

    def _added(self, op: Operator, data: str, inputs: int) -> None:
        """A vector that is added to a layer's output is its bias."""
        for name in op.inputs:
            if name != data and name in self.graph.constants and self._is_vector(name):
                self._bias(name, inputs)

    def _matrices(self, name: str) -> Iterator[str]:
        """The constants that a weight is made of: itself, or all that have several long axes."""
        if name in self.graph.constants:
            yield name
            return
        pending, seen = [name], {name}
        while pending:
            op = self.graph.producers.get(pending.pop())
            for source in () if op is None else op.inputs:
                if source in seen or not source:
                    continue
                seen.add(source)
                if source not in self.graph.constants:
                    pending.append(source)
                elif sum(length > 1 for length in self._shape(source)) > 1:
                    yield source

    def _draw(self, name: str, inputs: int) -> None:
        if not self._is_new(name):
            return
        rng, shape = self._rng(name), self._shape(name)
        if self.fresh.draw == "kaiming":
            self._put(name, rng.standard_normal(shape) * math.sqrt(2.0 / inputs))
        else:
            bound = 1.0 / math.sqrt(inputs)
            self._put(name, rng.uniform(-bound, bound, shape))

    def _bias(self, name: str, inputs: int) -> None:
        """Draw a bias; with no ``inputs`` it is zero."""
        if not self._is_new(name):
            return
        bound = 0.0 if self.fresh.draw == "kaiming" or not inputs else 1.0 / math.sqrt(inputs)
        self._put(name, self._rng(name).uniform(-bound, bound, self._shape(name)))

    def _is_new(self, name: str) -> bool:
        return name in self.graph.constants and name not in self.done

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.fresh.seed, zlib.crc32(name.encode())])

    def _put(self, name: str, values: Array) -> None:
        self.done.add(name)
        if self.graph.constants[name].is_float:
            dtype = (self.arrays[name] if name in self.arrays else self.graph.array(name)).dtype
            self.arrays[name] = np.asarray(values, dtype)

    def _is_vector(self, name: str) -> bool:
        """Whether one axis at most is long; a single number is no weight."""
        shape = self._shape(name)
        return math.prod(shape) > 1 and sum(length > 1 for length in shape) == 1

    def _is_long(self, name: str) -> bool:
        return math.prod(self._shape(name)) > 1

    def _shape(self, name: str) -> tuple[int, ...]:
        """The new shape of a constant, or of a value made of constants."""
        if name in self.arrays:
            return tuple(self.arrays[name].shape)
        old = self.graph.shape(name) or ()
        axes = self.labels.values.get(name, [0] * len(old))
        if name in self.graph.constants:
            axes = [self.labels.stored.get((name, k), 0) for k in range(len(old))]
        sizes = zip(old, axes, strict=True)
        return tuple((d if isinstance(d, int) else 1) if isinstance(a, int) else len(a) for d, a in sizes)
