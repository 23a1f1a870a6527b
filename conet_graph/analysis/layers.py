"""Facts about the layers of a network, also those inside sub-graphs: names, channels, kernels."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import FLOATS, Graph, Shape, bodies
from conet_graph.ir.operators import CONVOLUTIONS, KNOWN_DOMAINS, PRODUCTS, RECURRENT, WEIGHTED
from conet_graph.passes.classify_edges import LAYERS, Layer

# Decoding, transposing or standardising a weight takes a few operators, never this many.
_TRACE_LIMIT = 64
# Operators that make a tensor out of a shape: where weights come from in a file without weights.
_GENERATORS = ("ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a person wants to know of a layer; sizes that cannot be known are None.

    ``weight`` names the constant that holds the weight, or the computed value where there is none.
    """

    name: str
    op: str
    kind: str
    weight: str
    in_channels: int | None
    out_channels: int | None
    conv_groups: int
    kernel: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a node in a sub-graph sees it: something unique to it, its shape, its type."""

    key: tuple[str, ...]
    dims: tuple[int, ...]
    is_float: bool


@dataclass(frozen=True, slots=True)
class InnerNode:
    """A node inside the body of If, Loop, Scan and the like; ``owner`` says whose body."""

    node: onnx.NodeProto
    owner: str
    scope: Mapping[str, Stored]


def layers_of(graph: Graph) -> list[Layer]:
    """The layers of the main graph, in order."""
    found: list[Layer] = graph.result(LAYERS)
    return found


def layer_names(graph: Graph) -> dict[int, str]:
    """Name of each layer by its operator's index; its first output's where nodes share a name."""
    layers = layers_of(graph)
    times = Counter(layer.op.name for layer in layers)
    return {
        layer.op.index: layer.op.name if times[layer.op.name] == 1 else layer.op.outputs[0]
        for layer in layers
    }


def layers_by_name(graph: Graph) -> dict[str, Layer]:
    """Every name that a layer goes by: its own, its node's, its weight's (with or without '.weight')."""
    names = layer_names(graph)
    known: dict[str, Layer] = {}
    for layer in layers_of(graph):
        weight = root_constant(graph, layer.op.input(layer.weight_slot)) or ""
        known.setdefault(weight, layer)
        known.setdefault(weight.removesuffix(".weight"), layer)
    known |= {layer.op.name: layer for layer in reversed(layers_of(graph))}
    known |= {names[layer.op.index]: layer for layer in layers_of(graph)}
    known.pop("", None)
    return known


def find_layer(graph: Graph, name: str) -> Layer:
    """The layer of that name, as `layers_by_name` knows it.

    Raises:
        BadUsage: there is none; the message names the closest ones.

    """
    known = layers_by_name(graph)
    if name in known:
        return known[name]
    names = layer_names(graph)
    close = difflib.get_close_matches(name, list(names.values()), n=3, cutoff=0.0)
    hint = f": did you mean {' or '.join(shown(c) for c in close)}?" if close else ": it has none."
    raise BadUsage(f"The network has no layer {shown(name)}{hint}")


def stored_size(graph: Graph, name: str) -> int:
    """Number of elements of a tensor; 0 where its shape is not known."""
    shape = graph.shape(name)
    if shape is None:
        return 0
    return prod(d if isinstance(d, int) else 0 for d in shape)


def is_generated(graph: Graph, name: str) -> bool:
    """Whether a value is made out of nothing but its shape."""
    return name in graph.producers and graph.producers[name].op_type in _GENERATORS


def root_constant(graph: Graph, value: str) -> str | None:
    """The largest constant from which a weight is computed, or what stands in for one.

    Files without weights generate them by ConstantOfShape or at random: then it is that output.
    None where there is neither.
    """
    pending, found, steps = [value], "", 0
    while pending and steps < _TRACE_LIMIT:
        name = pending.pop()
        steps += 1
        if name in graph.constants or is_generated(graph, name):
            if not found or stored_size(graph, name) > stored_size(graph, found):
                found = name
        elif name in graph.producers:
            pending.extend(graph.producers[name].inputs)
    return found or None


def facts(graph: Graph) -> dict[int, Facts]:
    """Facts of each layer of the main graph, by its operator's index."""
    names = layer_names(graph)
    return {layer.op.index: _facts(graph, layer, names[layer.op.index]) for layer in layers_of(graph)}


def _facts(graph: Graph, layer: Layer, name: str) -> Facts:
    op = layer.op
    value = op.input(layer.weight_slot)
    first = layer.weight_slot < layer.data_slot
    turned = bool(op.attr("transA" if first else "transB", 0))
    ins, outs, kernel = _channels(op.op_type, graph.shape(value), layer.groups, first, turned)
    if op.op_type in RECURRENT:
        outs = op.attr("hidden_size")
    weight = root_constant(graph, value) or value
    return Facts(name, op.op_type, layer.kind, weight, ins, outs, layer.groups, kernel)


def _channels(
    op_type: str, shape: Shape | None, groups: int, first: bool, turned: bool
) -> tuple[int | None, int | None, tuple[int, ...] | None]:
    """Channels in and out, and kernel, read off a weight's shape."""
    if shape is None or any(not isinstance(d, int) for d in shape) or not shape:
        return None, None, None
    dims = [d for d in shape if isinstance(d, int)]
    if op_type in CONVOLUTIONS:
        if len(dims) < 2:
            return None, None, None
        if op_type == "ConvTranspose":
            return dims[0], dims[1] * groups, tuple(dims[2:])
        return dims[1] * groups, dims[0], tuple(dims[2:])
    if op_type in RECURRENT:
        return dims[-1], None, None
    if len(dims) == 1:
        return dims[0], 1, None
    # A weight on the right is [in, out], one on the left [out, in]; a transposed one the other way.
    rows_are_inputs = first == turned
    return (dims[-2], dims[-1], None) if rows_are_inputs else (dims[-1], dims[-2], None)


def inner_nodes(graph: Graph) -> Iterator[InnerNode]:
    """All nodes inside sub-graphs, each with the tensors it can see."""
    outer = (
        {name: Stored((name,), c.dims, c.is_float) for name, c in graph.constants.items()}
        if any(op.subgraphs() for op in graph.operators)
        else {}
    )
    pending: list[tuple[onnx.NodeProto, dict[str, Stored], tuple[str, ...]]] = [
        (op.proto, outer, (str(op.index),)) for op in reversed(graph.operators) if op.subgraphs()
    ]
    while pending:
        node, scope, path = pending.pop()
        name = node.name or next((o for o in node.output if o), "")
        owner = f"{node.op_type} node {shown(name)}"
        for number, body in enumerate(bodies(node)):
            inner = (*path, str(number))
            seen = _with_tensors_of(body, scope, inner)
            for place, child in enumerate(body.node):
                yield InnerNode(child, owner, seen)
                if bodies(child):
                    pending.append((child, seen, (*inner, str(place))))


def _with_tensors_of(
    body: onnx.GraphProto, scope: dict[str, Stored], path: tuple[str, ...]
) -> dict[str, Stored]:
    tensors = {t.name: t for t in body.initializer}
    for node in body.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    if not tensors:
        return scope
    own = {name: Stored((*path, name), tuple(t.dims), t.data_type in FLOATS) for name, t in tensors.items()}
    return scope | own


def inner_facts(inner: InnerNode) -> Facts | None:
    """Facts of a layer inside a sub-graph; None for a node that is no layer."""
    node = inner.node
    known = WEIGHTED.get(node.op_type)
    if known is None or node.domain not in KNOWN_DOMAINS or known.weight >= len(node.input):
        return None
    numbers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    slot = known.weight
    if node.op_type in PRODUCTS and node.input[slot] not in inner.scope:
        slot = known.data
        if node.input[slot] not in inner.scope:
            return None
    stored = inner.scope.get(node.input[slot])
    groups = numbers.get("group", 1) if node.op_type in CONVOLUTIONS else 1
    first = slot < known.weight
    turned = bool(numbers.get("transA" if first else "transB", 0))
    shape = None if stored is None else stored.dims
    ins, outs, kernel = _channels(node.op_type, shape, groups, first, turned)
    if node.op_type in RECURRENT:
        outs = numbers.get("hidden_size")
    name = node.name or next((o for o in node.output if o), node.op_type)
    depthwise = groups > 1 and ins == groups
    kind = "non-conv" if depthwise else "conv"
    return Facts(name, node.op_type, kind, node.input[slot], ins, outs, groups, kernel)
