"""Convolutions that say nothing of their size's rank: a residual network's stem and its 1x1 shortcuts.

The published ResNet tables leave both out. A shortcut's weight is nearly square, and empirical VBMF sees a
signal in such a matrix of noise late: a 1x1 weight stays at rank 0 long after the 3x3 weights beside it have
left it, and would halve the slope of every residual size.
"""

from __future__ import annotations

from conet_graph.analysis.layers import layer_names, layers_of
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS
from conet_graph.passes.classify_edges import Layer

# Operators through which a branch's last convolution reaches the sum as it is.
_PASSES = frozenset({"BatchNormalization", "Identity", "Dropout", "Mul", "InstanceNormalization"})
_SUMS = frozenset({"Add", "Sum"})
# A residual branch has a few convolutions; beyond so many operators a way back is no branch any more.
_LONGEST = 64


def silent_layers(graph: Graph) -> frozenset[str]:
    """Names of the layers that have no voice beside others that produce the same size."""
    names = layer_names(graph)
    by_index = {layer.op.index: layer for layer in layers_of(graph)}
    found: set[str] = set()
    for op in graph.operators:
        if op.op_type not in _SUMS or len(op.inputs) != 2:
            continue
        for one, other in (op.inputs, op.inputs[::-1]):
            layer = _last_convolution(graph, by_index, one)
            if layer is None:
                continue
            source = layer.op.input(layer.data_slot)
            if _is_pointwise(graph, layer) and _branch_from(graph, by_index, other, source):
                found.add(names[layer.op.index])
    return frozenset(found | _stems(graph, names, by_index))


def _last_convolution(graph: Graph, by_index: dict[int, Layer], value: str) -> Layer | None:
    """The convolution whose output, normalised at most, a value is; it goes nowhere else."""
    for _ in range(_LONGEST):
        op = graph.producers.get(value)
        if op is None or len(graph.consumers.get(value, ())) != 1:
            return None
        layer = by_index.get(op.index)
        if layer is not None:
            return layer if op.op_type in CONVOLUTIONS and layer.kind == "conv" else None
        if op.op_type not in _PASSES:
            return None
        value = _only_map(graph, op) or ""
    return None


def _only_map(graph: Graph, op: Operator) -> str | None:
    """The one input of an operator that is no weight."""
    maps = [name for name in op.inputs if name and name not in graph.derived]
    return maps[0] if len(maps) == 1 else None


def _is_pointwise(graph: Graph, layer: Layer) -> bool:
    shape = graph.shape(layer.op.input(layer.weight_slot))
    return shape is not None and len(shape) > 2 and all(d == 1 for d in shape[2:])


def _branch_from(graph: Graph, by_index: dict[int, Layer], value: str, source: str) -> bool:
    """Whether all that a value is computed from is ``source``, by way of at least one wider convolution."""
    pending, seen, wide = [value], {value}, False
    while pending:
        name = pending.pop()
        if name == source or name in graph.derived:
            continue
        op = graph.producers.get(name)
        if op is None or len(seen) > _LONGEST:
            return False
        layer = by_index.get(op.index)
        wide |= layer is not None and op.op_type in CONVOLUTIONS and not _is_pointwise(graph, layer)
        for read in op.inputs:
            if read and read not in seen:
                seen.add(read)
                pending.append(read)
    return wide


def _stems(graph: Graph, names: dict[int, str], by_index: dict[int, Layer]) -> set[str]:
    """Convolutions that read an input of the graph; they are silent beside other producers of their size."""
    inputs = set(graph.inputs)
    return {
        names[index]
        for index, layer in by_index.items()
        if layer.kind == "conv" and layer.op.input(layer.data_slot) in inputs
    }
