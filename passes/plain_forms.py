"""What exporters write in a roundabout way, in its plain form.

The dynamo-based exporter without its optimiser writes a missing bias as an Expand of one zero, and
``chunk`` as a sequence of pieces.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import drop_unused_constants, keep_live
from conet_graph.ir.graph import Constant, Graph, Operator, Shape

# A longer vector of one value than this is no bias.
LONGEST_FILLED = 2**16


def fill_vectors(graph: Graph) -> int:
    """Make an Expand of one constant value to a vector a constant; how many there were."""
    made = 0
    for op in graph.operators:
        if op.op_type != "Expand" or op.domain or op.outputs[0] in graph.outputs:
            continue
        data, shape = graph.constants.get(op.input(0)), graph.shape(op.outputs[0])
        if data is None or data.size != 1 or op.input(1) not in graph.constants or shape is None:
            continue
        sizes = [d for d in shape if isinstance(d, int)]
        if len(sizes) != len(shape) or sum(d > 1 for d in sizes) > 1:
            continue
        if math.prod(sizes) > LONGEST_FILLED:
            continue
        name = op.outputs[0]
        array = np.broadcast_to(graph.array(op.input(0)).reshape(-1)[:1], (math.prod(sizes),))
        tensor = numpy_helper.from_array(array.reshape(sizes).copy(), name)
        graph.constants[name] = Constant(tensor, name)
        made += 1
    return made


BROADCASTING = frozenset(["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where"])


def drop_expands(graph: Graph) -> bool:
    """Let operators that broadcast read what was expanded for them; whether any did.

    ``x / norm.expand_as(x)`` freezes nothing then: the number of channels stands in no shape.
    """
    changed = False
    for op in graph.operators:
        if op.op_type != "Expand" or op.domain or op.outputs[0] in graph.captured:
            continue
        shape = _expanded(graph, op)
        if shape is None or None in shape or graph.opset < 7:
            continue
        for use, slot in graph.consumers.get(op.outputs[0], []):
            if use.op_type not in BROADCASTING or use.domain:
                continue
            others = [n for k, n in enumerate(use.inputs) if k != slot and n != op.outputs[0]]
            if any(graph.shape(n) == shape for n in others):
                use.set_input(slot, op.input(0))
                changed = True
    if changed:
        keep_live(graph, [op.proto for op in graph.operators])
    return changed


def _expanded(graph: Graph, op: Operator) -> Shape | None:
    """The output shape of an Expand; a size read off another value goes by that value's name for it."""
    shape, entries = graph.shape(op.outputs[0]), graph.known.get(op.input(1))
    if shape is None or entries is None or len(entries) != len(shape):
        return shape
    named = list(shape)
    for axis, entry in enumerate(entries):
        if entry.value is None and entry.source is not None and entry.source[0] == "dim":
            source = graph.shape(entry.source[1])
            named[axis] = None if source is None else source[entry.source[2]]
    return tuple(named)


def write_full_gathers(graph: Graph) -> bool:
    """Write a Gather of all of a vector, in order, as Reshape; whether there was any.

    torch writes ``as_strided`` of a tensor so, with the places of its elements as the index.
    """
    changed = False
    for op in graph.operators:
        index = graph.constants.get(op.input(1))
        shape = graph.shape(op.input(0))
        if op.op_type != "Gather" or op.domain or index is None or len(index.dims) < 2:
            continue
        if shape != (index.size,) or index.size > LONGEST_FILLED:
            continue
        if not np.array_equal(graph.array(op.input(1)).reshape(-1), np.arange(index.size)):
            continue
        name = graph.fresh_name(f"{op.outputs[0]}_shape")
        target = numpy_helper.from_array(np.array(index.dims, np.int64), name)
        graph.constants[name] = Constant(target, name)
        op.become(helper.make_node("Reshape", [op.input(0), name], op.outputs[:1], name=op.proto.name))
        changed = True
    if changed:
        graph.keep_nodes([op.proto for op in graph.operators])
        drop_unused_constants(graph)
    return changed


def split_sequences(graph: Graph) -> bool:
    """Write SplitToSequence as Split where its readers pick single pieces; whether any was."""
    splits: dict[str, onnx.NodeProto] = {}
    for op in graph.operators:
        if op.op_type == "SplitToSequence" and not op.domain:
            made = _as_split(graph, op)
            if made is not None:
                splits[op.outputs[0]] = made
    if not splits:
        return False
    nodes: list[onnx.NodeProto] = []
    for op in graph.operators:
        if op.outputs[0] in splits:
            nodes.append(splits[op.outputs[0]])
        elif op.op_type == "SequenceAt" and op.input(0) in splits:
            piece = splits[op.input(0)].output[int(graph.array(op.input(1)).item())]
            nodes.append(helper.make_node("Identity", [piece], op.outputs[:1], name=op.proto.name))
        else:
            nodes.append(op.proto)
    graph.keep_nodes(nodes)
    return True


def _as_split(graph: Graph, op: Operator) -> onnx.NodeProto | None:
    """The Split with the pieces of a SplitToSequence, None where it says something else."""
    if op.outputs[0] in graph.outputs or graph.opset < 13:
        return None
    sizes = _piece_sizes(graph, op)
    count = sizes if isinstance(sizes, int) else len(sizes)
    for use, _ in graph.consumers.get(op.outputs[0], []):
        index = graph.constants.get(use.input(1))
        if use.op_type != "SequenceAt" or index is None:
            return None
        if not -count <= int(graph.array(use.input(1)).item()) < count:
            return None
    outputs = [f"{op.outputs[0]}_{k}" for k in range(count)]
    if not outputs or any(name in graph.producers or name in graph.constants for name in outputs):
        return None
    vector = op.input(1)
    if not isinstance(sizes, int):
        vector = graph.fresh_name(f"{op.outputs[0]}_sizes")
        graph.constants[vector] = Constant(numpy_helper.from_array(np.array(sizes, np.int64), vector), vector)
    return helper.make_node(
        "Split", [op.input(0), vector], outputs, name=op.proto.name, axis=op.attr("axis", 0)
    )


def _piece_sizes(graph: Graph, op: Operator) -> list[int] | int:
    """The sizes of a SplitToSequence's pieces; their number where the run computes them, 0 if unknown."""
    shape, given = graph.shape(op.input(0)), graph.shape(op.input(1))
    if shape is None or given is None:
        return 0
    if op.input(1) not in graph.constants:
        return given[0] if len(given) == 1 and isinstance(given[0], int) else 0
    each = [int(n) for n in graph.array(op.input(1)).reshape(-1).tolist()]
    length = shape[op.attr("axis", 0)]
    if given:
        return each
    if not isinstance(length, int) or each[0] < 1:
        return 0
    full, rest = divmod(length, each[0])
    return [each[0]] * full + [rest] * (rest > 0)
