"""Facts about the layers of a network, also those inside sub-graphs: names, channels, kernels."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import FLOATS, Graph, Operator, Shape, bodies
from conet_graph.ir.operators import CONVOLUTIONS, RECURRENT, channels_of_weight
from conet_graph.passes.classify_edges import LAYERS, Layer, layer_of

# Decoding, transposing or standardising a weight takes a few operators, never this many.
_TRACE_LIMIT = 64
# Operators that make a tensor out of a shape: where weights come from in a file without weights.
_GENERATORS = ("ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform")


@dataclass(frozen=True, slots=True)
class LayerFacts:
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


def facts(graph: Graph) -> dict[int, LayerFacts]:
    """Facts of each layer of the main graph, by its operator's index."""
    names = layer_names(graph)
    return {layer.op.index: _facts(graph, layer, names[layer.op.index]) for layer in layers_of(graph)}


def _facts(graph: Graph, layer: Layer, name: str) -> LayerFacts:
    value = layer.op.input(layer.weight_slot)
    return _read_off(layer, name, root_constant(graph, value) or value, graph.shape(value))


def _read_off(layer: Layer, name: str, weight: str, shape: Shape | None) -> LayerFacts:
    """Facts of a layer whose weight has such a shape."""
    op, (ins, outs), kernel = layer.op, (None, None), None
    if shape and all(isinstance(d, int) for d in shape):
        is_convolution = op.op_type in CONVOLUTIONS
        if not is_convolution or len(shape) > 1:
            ins, outs = channels_of_weight(op, layer.weight_slot, shape)
            kernel = tuple(d for d in shape[2:] if isinstance(d, int)) if is_convolution else None
    if op.op_type in RECURRENT:
        outs = op.attr("hidden_size")
    return LayerFacts(name, op.op_type, layer.kind, weight, ins, outs, layer.groups, kernel)


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


def inner_facts(inner: InnerNode) -> LayerFacts | None:
    """Facts of a layer inside a sub-graph; None for a node that is no layer."""
    op = Operator(-1, inner.node, 1)
    layer = layer_of(op, inner.scope, lambda name: inner.scope[name].dims if name in inner.scope else None)
    if layer is None:
        return None
    weight = op.input(layer.weight_slot)
    stored = inner.scope.get(weight)
    return _read_off(layer, op.name, weight, None if stored is None else stored.dims)
