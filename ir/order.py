"""Names and order of the nodes: everything is written once, and before it is read."""

from __future__ import annotations

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.graph import bodies
from conet_graph.ir.scopes import Scope, scopes


def called(node: onnx.NodeProto) -> str:
    """A node as messages name it."""
    return f"{shown(node.name or next(iter(node.output), ''))} ({shown(node.op_type)[1:-1]})"


def check_names(proto: onnx.ModelProto) -> None:
    """Check that each value is written once and that everything read is written; sort what is unsorted.

    Raises:
        InvalidModel: a name is defined twice or not at all, or there is a cycle.

    """
    known: dict[Scope, set[str]] = {}
    for scope in scopes(proto):
        known[scope] = _defined_once(scope)
        chain = [known[scope]]
        outer = scope.outer
        while outer is not None:
            chain.append(known[outer])
            outer = outer.outer
        for node in scope.nodes:
            for name in node.input:
                if name and not any(name in names for names in chain):
                    raise InvalidModel(f"Node {called(node)} reads {shown(name)}, which nothing writes.")
        for name in scope.outputs:
            if not any(name in names for names in chain):
                raise InvalidModel(f"No operator computes the graph output {shown(name)}.")
        sort_nodes(scope.owner)


def _defined_once(scope: Scope) -> set[str]:
    """All names that a scope defines."""
    written: set[str] = set()
    for kind, names in (
        ("initializer", scope.constants),
        ("node output", [o for node in scope.nodes for o in node.output if o]),
    ):
        for name in names:
            if name in written:
                raise InvalidModel(f"The {kind} {shown(name)} is defined twice.")
            written.add(name)
    inputs = set(scope.inputs)
    if len(inputs) < len(scope.inputs):
        twice = next(n for n in scope.inputs if scope.inputs.count(n) > 1)
        raise InvalidModel(f"The graph input {shown(twice)} is defined twice.")
    clash = inputs.intersection(o for node in scope.nodes for o in node.output)
    if clash:
        raise InvalidModel(f"A node writes the graph input {shown(min(clash))}.")
    return written | inputs


def sort_nodes(owner: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Put the nodes into topological order if they are not; sorted ones keep their order.

    Raises:
        InvalidModel: there is a cycle.

    """
    produced = {o for node in owner.node for o in node.output if o}
    reads = [_reads(node) & produced for node in owner.node]
    done: set[str] = set()
    for node, needed in zip(owner.node, reads, strict=True):
        if not needed <= done:
            _reorder(owner, reads)
            return
        done.update(node.output)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node needs: its inputs, and what its sub-graphs take from around them."""
    needed = set(node.input)
    pending: list[tuple[onnx.GraphProto, tuple[set[str], ...]]] = [(body, ()) for body in bodies(node)]
    while pending:
        body, around = pending.pop()
        scope = Scope(body, 0)
        own = {*scope.constants, *scope.inputs, *(o for inner in body.node for o in inner.output)}
        chain = (own, *around)
        names = [name for inner in body.node for name in inner.input] + scope.outputs
        needed.update(name for name in names if not any(name in known for known in chain))
        pending.extend((deeper, chain) for inner in body.node for deeper in bodies(inner))
    return needed


def _reorder(owner: onnx.GraphProto | onnx.FunctionProto, reads: list[set[str]]) -> None:
    waiting = [len(needed) for needed in reads]
    readers: dict[str, list[int]] = {}
    for index, needed in enumerate(reads):
        for name in needed:
            readers.setdefault(name, []).append(index)
    order = [index for index, count in enumerate(waiting) if count == 0]
    for index in order:  # grows while it is walked
        for name in owner.node[index].output:
            for reader in readers.get(name, []):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    order.append(reader)
    if len(order) != len(owner.node):
        stuck = next(index for index, count in enumerate(waiting) if count > 0)
        raise InvalidModel(f"The graph has a cycle through node {called(owner.node[stuck])}.")
    nodes = [onnx.NodeProto.FromString(owner.node[index].SerializeToString()) for index in order]
    del owner.node[:]
    owner.node.extend(nodes)
