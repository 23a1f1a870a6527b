"""Weights that the rewritten file holds as numbers, where the file computes them from its constants.

A standardised weight is made of means over its channels: at other widths the same operators would give other
weights. Its numbers are what was trained, so they are evaluated once, and cut or copied like any weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from conet_graph.ir.dead_code import live_nodes
from conet_graph.ir.graph import Graph, Operator, read_inside
from conet_graph.passes.shapes.constant_values import computable
from conet_graph.passes.widths.sharing import Use

# What stands for a use that is no operator's: the value is an output, or is read inside a branch.
OUTSIDE: Use = (-1, 0)


def ends_behind(graph: Graph, op: Operator, slot: int) -> set[Use]:
    """Where a constant that is read at a slot meets data, behind all that is made of constants."""
    pending, found, seen = [(op, slot)], set[Use](), set[int]()
    while pending:
        reader, at = pending.pop()
        made = [name for name in reader.outputs if name in graph.derived]
        if not made:
            found.add((reader.index, at))
        elif reader.index not in seen:
            seen.add(reader.index)
            pending += [use for name in made for use in graph.consumers.get(name, [])]
            if any(name in graph.outputs or name in graph.captured for name in made):
                found.add(OUTSIDE)
    return found


def evaluated_uses(graph: Graph, op: Operator) -> set[Use]:
    """Where numbers take the place of what an operator makes of constants; empty where they cannot."""
    if not any(name in graph.derived for name in op.outputs):
        return set()
    found = ends_behind(graph, op, 0)
    values = [graph.operators[index].input(slot) for index, slot in found if index >= 0]
    if OUTSIDE in found or not all(computable(graph, value) for value in values):
        return set()
    return found


def drop_dead_code(model: onnx.ModelProto) -> None:
    """Drop the operators and constants that computed what is held as numbers now."""
    body = model.graph
    kept = {
        name for node in live_nodes(list(body.node), {v.name for v in body.output}) for name in node.output
    }
    _drop(body.node, lambda node: not any(name in kept for name in node.output))
    used = {v.name for v in (*body.input, *body.output)} | kept
    for node in body.node:
        used.update(node.input)
        used |= read_inside(node)
    _drop(body.initializer, lambda tensor: tensor.name not in used)
    _drop(body.value_info, lambda value: value.name not in used)


def in_places(graph: Graph, model: onnx.ModelProto) -> onnx.ModelProto:
    """A rewritten model whose nodes have their operators' numbers, with empty nodes where some went."""
    if len(model.graph.node) == len(graph.operators):
        return model
    left = {node.output[0]: node for node in model.graph.node}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(left.get(op.outputs[0], onnx.NodeProto()) for op in graph.operators)
    return made


def _drop(field: Any, dead: Callable[[Any], bool]) -> None:
    for place in reversed([k for k, entry in enumerate(field) if dead(entry)]):
        del field[place]
