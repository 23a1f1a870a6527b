"""What a network costs: parameters and multiply-accumulates, read off shapes alone."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from math import prod

from conet_graph.analysis.layers import (
    InnerNode,
    inner_facts,
    inner_nodes,
    is_generated,
    layers_of,
    root_constant,
    stored_size,
)
from conet_graph.costs.products import OPERATORS, Place, multiplied
from conet_graph.ir.graph import Dim, Graph, Operator
from conet_graph.ir.operators import (
    CONVOLUTIONS,
    KNOWN_DOMAINS,
    PRODUCTS,
    RECURRENT,
    WEIGHTED,
    channel_axis,
    summed_axis,
)
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.shapes.size_products import factors

_NORMS = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "SkipLayerNormalization",
    "RMSNormalization",
)
# Inputs that hold settings or statistics, not weights.
_SETTINGS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
    "Pad": frozenset({1, 2}),
    "Clip": frozenset({1, 2}),
    "Pow": frozenset({1}),
    "OneHot": frozenset({2}),
    "LSTM": frozenset({4, 5, 6}),
    "GRU": frozenset({4, 5}),
    "RNN": frozenset({4, 5}),
}
_NO_WEIGHTS = frozenset(
    {
        "Where",
        "Range",
        "Min",
        "Max",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "NonMaxSuppression",
        "Dropout",
    }
)
# Inputs that are weights also where they hold a single number.
_WEIGHTS: dict[str, frozenset[int]] = {
    **{name: frozenset({1, 2}) for name in _NORMS},
    **{name: frozenset({1, 2, 3, 7}) for name in RECURRENT},
    "PRelu": frozenset({1}),
}


@dataclass(frozen=True)
class LayerCost:
    """Parameters of a layer, and its multiply-accumulates for one input (None: size unknown)."""

    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    ``known_macs`` is the sum over what can be counted; ``uncounted`` names the operators that
    cannot.
    """

    parameters: int
    known_macs: int
    uncounted: tuple[str, ...]
    layers: dict[int, LayerCost]

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one input; None if some operator's cannot be known."""
        return None if self.uncounted else self.known_macs


def cost(graph: Graph) -> Cost:
    """Parameters and multiply-accumulates of a network whose layers and shapes are known.

    A free batch counts as one. Only convolutions, matrix products and recurrent layers count as
    multiply-accumulates, as fvcore and the literature count them; biases and norms do not.
    """
    layers = layers_of(graph)
    macs: dict[int, int | None] = {layer.op.index: layer_macs(graph, layer) for layer in layers}
    costs = {
        layer.op.index: LayerCost(layer_parameters(graph, layer), macs[layer.op.index]) for layer in layers
    }
    macs |= {op.index: _macs_of_maps(graph, op) for op in products_of_maps(graph, frozenset(macs))}
    uncounted = [graph.operators[k].name for k in sorted(macs) if macs[k] is None]
    for inner in inner_nodes(graph):
        found = inner_facts(inner)
        if found is not None:
            uncounted.append(found.name)  # how often a body runs is not known
    known = sum(m for m in macs.values() if m is not None)
    return Cost(parameters(graph), known, tuple(uncounted), costs)


# -- multiply-accumulates --------------------------------------------------------------------------


def layer_macs(graph: Graph, layer: Layer) -> int | None:
    """Multiply-accumulates of a layer for one input; None where a size is unknown."""
    op = layer.op
    if op.op_type in CONVOLUTIONS:
        weight = graph.shape(op.input(layer.weight_slot))
        # Each weight works once a position: of the output, or of the input when transposed.
        transposed = CONVOLUTIONS[op.op_type].transposed
        at = op.input(layer.data_slot) if transposed else op.outputs[0]
        positions = graph.shape(at)
        if weight is None or positions is None:
            return None
        channels = channel_axis(op, len(positions))
        pixels = (size for axis, size in enumerate(positions) if axis not in (0, channels))
        return _product([_batch(positions[:1]), *pixels, *weight])
    if op.op_type in RECURRENT:
        x, w, r = (graph.shape(op.input(k)) for k in range(3))
        if x is None or w is None or r is None or len(x) < 2:
            return None
        steps = _product([x[0], _batch(x[1:2])])
        each_w, each_r = _product(w), _product(r)
        if steps is None or each_w is None or each_r is None:
            return None
        return steps * (each_w + each_r)
    if op.op_type == "Einsum":
        return _macs_of_maps(graph, op)
    return product_macs(graph, op, layer.data_slot, layer.weight_slot)


def product_macs(graph: Graph, op: Operator, data: int, weight: int) -> int | None:
    """Multiply-accumulates of a matrix product: numbers in its output times the inner length."""
    first, second = sorted((data, weight))
    left, right = graph.shape(op.input(first)), graph.shape(op.input(second))
    out = graph.shape(op.outputs[0])
    if not left or not right or out is None:
        return None
    inner = left[summed_axis(op, first, len(left))]
    if not isinstance(inner, int):
        inner = right[summed_axis(op, second, len(right))]
    # A vector has no rows; what a product with one leaves may have no batch axis.
    return _product([_batch(out[:1]) if len(left) > 1 else 1, *out[1:], inner])


def products_of_maps(graph: Graph, layers: Container[int]) -> Iterator[Operator]:
    """Products of two feature maps, of attention, and of every Einsum that is no layer.

    Args:
        graph: the network.
        layers: the numbers of the operators that are layers.

    """
    for op in graph.operators:
        if op.op_type not in PRODUCTS and op.op_type not in OPERATORS:
            continue
        # What makes a weight is done once, not for each input.
        if op.index not in layers and op.domain in KNOWN_DOMAINS and op.outputs[0] not in graph.derived:
            yield op


def _macs_of_maps(graph: Graph, op: Operator) -> int | None:
    """Multiply-accumulates of what ``products_of_maps`` finds."""
    known = PRODUCTS.get(op.op_type)
    if known is not None:
        return product_macs(graph, op, known.data, known.weight)
    products = multiplied(graph, op)
    found = [None] if products is None else [places_macs(graph, places) for places in products]
    return None if None in found else sum(n for n in found if n is not None)


def places_macs(graph: Graph, places: Iterable[Place]) -> int | None:
    """The lengths of some axes, multiplied for one input; None where one is not known."""
    sizes: list[Dim] = []
    for value, axis in places:
        shape = graph.shape(value)
        if shape is None or axis >= len(shape):
            return None
        sizes.append(shape[axis] if axis else _batch(shape[:1]))
    return _product(sizes)


def _batch(first: tuple[Dim, ...]) -> int:
    """A batch size: the number, or what stands beside a free one: 4 of '4*n', one where nothing does."""
    if first and isinstance(first[0], int):
        return first[0]
    found = factors(first[0]) if first else None
    return 1 if found is None else found[0]


def _product(dims: Iterable[Dim]) -> int | None:
    known = list(dims)
    return prod(d for d in known if isinstance(d, int)) if all(isinstance(d, int) for d in known) else None


# -- parameters ------------------------------------------------------------------------------------


def layer_parameters(graph: Graph, layer: Layer) -> int:
    """Numbers in a layer's weight and bias; a weight that two layers share counts in both."""
    op = layer.op
    slots = [layer.weight_slot]
    if op.op_type in RECURRENT:
        slots = [1, 2, 3, 7]
    elif (bias := WEIGHTED[op.op_type].bias) is not None:
        slots.append(bias)
    roots = [root_constant(graph, op.input(slot)) for slot in slots if op.input(slot)]
    return sum(stored_size(graph, root) for root in roots if root is not None)


def parameters(graph: Graph) -> int:
    """Numbers in all weights of a network.

    Weights are the floating-point constants that operators compute with, and the integers of
    quantised layers; running statistics, quantisation scales and single numbers written into the
    graph are not. A tensor that several operators read counts once. A bias that an exporter stored
    once for several layers because its values are equal counts once a layer.
    """
    counted = {key: stored_size(graph, name) for key, name in weights_of(graph).items()}
    for inner in inner_nodes(graph):
        _count_inner(counted, inner)
    return sum(counted.values())


def weights_of(graph: Graph) -> dict[tuple[str, ...], str]:
    """The tensors that ``parameters`` counts, each under the key by which it counts once."""
    found: dict[tuple[str, ...], str] = {}
    layer_slots: dict[tuple[int, int], str] = {}
    for layer in layers_of(graph):
        slots = _layer_slots(graph, layer)
        layer_slots |= slots
        for (_, slot), key_root in slots.items():
            # Behind a decoding or transposing operator: found from here, not at its own reader.
            root = root_constant(graph, layer.op.input(slot))
            if root is not None:
                found[_key(graph, root, key_root)] = root
    for op in graph.operators:
        for slot, value in enumerate(op.inputs):
            constant = graph.constants.get(value)
            if constant is None and not is_generated(graph, value):
                continue
            if (op.index, slot) in layer_slots or (constant is not None and not constant.is_float):
                continue
            sure = slot in _WEIGHTS.get(op.op_type, ())
            if sure or (constant is not None and is_weight(op.op_type, slot, stored_size(graph, value))):
                found[(value,)] = value
    return found


def _layer_slots(graph: Graph, layer: Layer) -> dict[tuple[int, int], str]:
    """Weight and bias of a layer by operator and slot: '' for the weight, its name for the bias."""
    op = layer.op
    slots = {(op.index, layer.weight_slot): ""}
    bias = WEIGHTED[op.op_type].bias
    if bias is not None and op.op_type not in RECURRENT and op.input(bias):
        slots[op.index, bias] = root_constant(graph, op.input(layer.weight_slot)) or op.name
    return slots


def _key(graph: Graph, root: str, weight: str) -> tuple[str, ...]:
    """What makes a weight one: its name; for a bias where it was stored, and whose it is."""
    if not weight:
        return (root,)
    constant = graph.constants.get(root)
    return (root if constant is None else constant.source, weight)


def is_weight(op_type: str, slot: int, size: int) -> bool:
    """Whether a floating-point constant at an operator's input is a weight."""
    if slot in _SETTINGS.get(op_type, ()) or op_type in _NO_WEIGHTS:
        return False
    record = WEIGHTED.get(op_type)
    if op_type.startswith("QLinear") or (record and record.is_quantised and slot != record.bias):
        return False  # scales: the weights are integers
    return size > 1 or slot in _WEIGHTS.get(op_type, ())


def inner_parameters(inner: InnerNode) -> int:
    """Numbers in the weight and bias of a layer inside a sub-graph."""
    known = WEIGHTED[inner.node.op_type]
    if inner.node.op_type in RECURRENT:
        slots: tuple[int | None, ...] = (1, 2, 3, 7)
    else:
        slots = (known.weight, known.bias)
    names = [inner.node.input[s] for s in slots if s is not None and s < len(inner.node.input)]
    return sum(prod(inner.scope[name].dims) for name in names if name in inner.scope)


def _count_inner(counted: dict[tuple[str, ...], int], inner: InnerNode) -> None:
    """Weights that a node inside a sub-graph reads."""
    known = WEIGHTED.get(inner.node.op_type)
    for slot, value in enumerate(inner.node.input):
        stored = inner.scope.get(value)
        if stored is None:
            continue
        size = prod(stored.dims)
        of_layer = known is not None and slot in (known.weight, known.bias)
        if of_layer or (stored.is_float and is_weight(inner.node.op_type, slot, size)):
            counted[stored.key] = size
