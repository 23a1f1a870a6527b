"""An If whose condition the file holds: the nodes of the branch that runs take its place."""

from __future__ import annotations

import onnx
from onnx import helper

from conet_graph.ir.graph import Constant, Graph, Operator, bodies, constant_tensor


def inline_branches(graph: Graph) -> bool:
    """Put the branches of all Ifs with a constant condition in their place; whether there were any."""
    nodes: list[onnx.NodeProto] = []
    inlined = False
    for op in graph.operators:
        branch = _chosen(graph, op)
        if branch is None:
            nodes.append(op.proto)
        else:
            nodes += _unfolded(graph, op, branch)
            inlined = True
    if inlined:
        graph.keep_nodes(nodes)
    return inlined


def _chosen(graph: Graph, op: Operator) -> onnx.GraphProto | None:
    """The branch that an If always takes, None where only the run knows."""
    condition = graph.constants.get(op.input(0))
    if op.op_type != "If" or op.domain or condition is None or condition.size != 1:
        return None
    taken = bool(graph.array(op.input(0)).reshape(-1)[0])
    branch: onnx.GraphProto | None = op.attr("then_branch" if taken else "else_branch")
    if branch is None or branch.sparse_initializer or len(branch.output) != len(op.outputs):
        return None
    return branch


def _unfolded(graph: Graph, op: Operator, branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a branch under names that the main graph does not have; its constants become ours."""
    inside = [t.name for t in branch.initializer]
    inside += [name for node in branch.node for name in node.output if name]
    taken = {*graph.constants, *graph.producers, *graph.inputs, *inside}
    names: dict[str, str] = {}
    for name in inside:
        names[name] = _unused(f"{op.outputs[0]}/{name}", taken)
    last: list[onnx.NodeProto] = []
    for value, output in zip(branch.output, op.outputs, strict=True):
        computed = any(value.name in node.output for node in branch.node)
        if output and computed and value.name not in (n.input[0] for n in last):
            names[value.name] = output
        if output and names.get(value.name) != output:
            last.append(helper.make_node("Identity", [value.name], [output]))
    for tensor in branch.initializer:
        graph.constants[names[tensor.name]] = Constant(tensor, names[tensor.name])
    nodes: list[onnx.NodeProto] = []
    for node in [*branch.node, *last]:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        _rename(copy, names)
        held = constant_tensor(copy)
        if held is None:
            nodes.append(copy)
        else:
            graph.constants[copy.output[0]] = Constant(held, copy.output[0])
    return nodes


def _unused(base: str, taken: set[str]) -> str:
    name = base
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Rename what a node, and the bodies that it runs, read and write (ONNX forbids shadowing)."""
    for field in (node.input, node.output):
        for slot, name in enumerate(field):
            field[slot] = names.get(name, name)
    for body in bodies(node):
        for inner in body.node:
            _rename(inner, names)
        for value in body.output:
            value.name = names.get(value.name, value.name)
