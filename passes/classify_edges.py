"""Which edges of the DAG are conv edges, and which layers the network has."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import ClassVar

from conet_graph.ir.graph import EDGE_KINDS, Graph, Operator, Result
from conet_graph.ir.operators import (
    CONCATENATIONS,
    CONVOLUTIONS,
    KNOWN_DOMAINS,
    PRODUCTS,
    SUMMATIONS,
    WEIGHTED,
    channels_of_weight,
    einsum_layer,
)


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator with a weight. ``kind`` is 'conv' if it can change the depth, else 'non-conv'."""

    op: Operator
    kind: str
    data_slot: int
    weight_slot: int
    groups: int


LAYERS: Result[list[Layer]] = Result("layers", "classify_edges")


@dataclass(frozen=True)
class ClassifyEdges:
    """Mark every edge as conv or non-conv and list the layers in ``LAYERS``.

    An edge is a conv edge if its operator can change the depth: a convolution with more than one channel
    a group, or a product with a weight. A depthwise convolution is a non-conv edge (paper, section 3.1).
    """

    name: ClassVar[str] = "classify_edges"

    def run(self, graph: Graph) -> None:
        """Find the layers; ``EDGE_KINDS`` says what each operator's edges are."""
        weights = graph.derived
        layers = [layer for op in graph.operators if (layer := _layer(graph, op, weights)) is not None]
        graph.keep(LAYERS, layers)
        conv = {layer.op.index for layer in layers if layer.kind == "conv"}
        graph.keep(
            EDGE_KINDS,
            {op.index: "conv" if op.index in conv else _kind(op, weights) for op in graph.operators},
        )
        graph.__dict__.pop("dag", None)  # its edges have no kinds yet


def _kind(op: Operator, weights: set[str]) -> str:
    """What a non-conv operator's edges are, and how several feature maps meet in it."""
    maps = [name for name in op.inputs if name and name not in weights]
    if not maps and not op.subgraphs():
        return "weight"
    if op.domain in KNOWN_DOMAINS and len(maps) > 1:
        if op.op_type in SUMMATIONS:
            return "non-conv sum"
        if op.op_type in CONCATENATIONS:
            return "non-conv concat"
    return "non-conv"


def _layer(graph: Graph, op: Operator, weights: set[str]) -> Layer | None:
    if weights.issuperset(o for o in op.outputs if o):
        return None  # it computes a weight: no feature map goes in
    return layer_of(op, weights, graph.shape)


def layer_of(
    op: Operator, weights: Container[str], shape_of: Callable[[str], Sequence[object] | None]
) -> Layer | None:
    """What an operator is as a layer; None where it is none.

    Args:
        op: an operator, of a sub-graph, too.
        weights: the values that depend on no input.
        shape_of: the shape of a value by its name, None where it is not known.

    """
    facts = WEIGHTED.get(op.op_type)
    if op.domain not in KNOWN_DOMAINS or facts is None or not op.input(facts.weight):
        return None
    data, weight = facts.data, facts.weight
    if (op.op_type in PRODUCTS or op.op_type == "Einsum") and op.input(weight) not in weights:
        if op.input(data) not in weights:
            return None  # a product of two feature maps
        data, weight = weight, data
    if op.op_type == "Einsum" and einsum_layer(op, weight) is None:
        return None
    groups = int(op.attr("group", 1)) if op.op_type in CONVOLUTIONS else 1
    shape = shape_of(op.input(weight))
    # One input channel a group, and more than one group.
    depthwise = groups > 1 and shape is not None and channels_of_weight(op, weight, shape)[0] == groups
    return Layer(op, "non-conv" if depthwise else "conv", data, weight, groups)
