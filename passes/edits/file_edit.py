"""Small changes to the graph of a file, with all else left exactly as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from conet_graph.ir.check import check_model
from conet_graph.ir.graph import Constant, Operator, inlined, read_inside
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.overridable import drop_inputs
from conet_graph.ir.save import has_external
from conet_graph.ir.scopes import scopes
from conet_graph.ir.wire import copy_without
from conet_graph.passes import structured


@dataclass(frozen=True, slots=True)
class EditedNode:
    """A node of the file, and the operator that stands for it in the simplified graph."""

    node: onnx.NodeProto
    op: Operator


class FileEdit:
    """The nodes and weights of a file while a pass changes a few of them.

    What a file says is read off ``graph``, where constants behind Identity are constants and shapes are
    known; what changes, changes in the file's own nodes and weights, so that its Constant nodes, names,
    sub-graphs and metadata stay. Calls of the model's own functions are replaced by their bodies.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = check_model(loaded)
        proto = inlined(loaded.proto) if loaded.proto.functions else loaded.proto
        self.source = proto
        self.graph = structured(LoadedModel(proto, loaded.path, loaded.external, checked=True))
        self.model = onnx.ModelProto()
        copy_without(proto, self.model, "graph")
        copy_without(proto.graph, self.model.graph, "initializer")
        self.nodes: list[onnx.NodeProto] = list(self.model.graph.node)
        # How many times each value of the main graph is read; as an output of the graph, too.
        self.reads = Counter(name for n in self.nodes for name in (*n.input, *read_inside(n)))
        self.reads.update(value.name for value in proto.graph.output)
        self._stored = {tensor.name for tensor in proto.graph.initializer}
        self._stored |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._ops = dict(self.graph.producers)
        self._names = _all_names(proto)
        self._weights: dict[str, NDArray[Any]] = {}
        self._gone: set[str] = set()
        self._removed: set[int] = set()
        self._added: dict[int, onnx.NodeProto] = {}

    def made(self, value: str) -> EditedNode | None:
        """The node that writes a value; None where no node does, or nothing needs it."""
        node, op = self._makers.get(value), self._ops.get(value)
        return None if node is None or op is None else EditedNode(node, op)

    def constant(self, made: EditedNode, slot: int) -> Constant | None:
        """The constant at an input of a node, None where it is computed or absent."""
        return self.graph.constants.get(made.op.input(slot))

    def array(self, made: EditedNode, slot: int) -> NDArray[Any]:
        """The value of the constant at an input of a node, as the changes so far left it."""
        changed = self._weights.get(made.node.input[slot])
        return self.graph.array(made.op.input(slot)) if changed is None else changed

    def fresh_name(self, base: str) -> str:
        """A name that nothing in the model has, its sub-graphs included."""
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return name

    def set_weight(self, name: str, array: NDArray[Any]) -> None:
        """Make a value an initializer with this value, whatever it was (a Constant node, an Identity)."""
        self._weights[name] = array
        node = self._makers.pop(name, None)
        if node is not None:
            self._remove(node)

    def set_input(self, node: onnx.NodeProto, slot: int, name: str) -> None:
        """Let a node read another value; '' takes the last input away."""
        old = node.input[slot] if slot < len(node.input) else ""
        if name:
            while len(node.input) <= slot:
                node.input.append("")
            node.input[slot] = name
            self.reads[name] += 1
        else:
            del node.input[slot:]
        if old:
            self._release([old])

    def rename_output(self, made: EditedNode, name: str) -> None:
        """Give the first output of a node another name; its readers are the caller's to care for."""
        old = made.node.output[0]
        made.node.output[0] = name
        self._gone.add(old)
        self._makers.pop(old)
        self._ops.pop(old)
        self._makers[name], self._ops[name] = made.node, made.op

    def add(self, node: onnx.NodeProto, after: onnx.NodeProto) -> None:
        """Put a new node behind another."""
        self.reads.update(node.input)
        self._added[id(after)] = node

    def remove(self, made: EditedNode) -> None:
        """Take a node out, and the weights that nothing else reads."""
        self._remove(made.node)

    def _remove(self, node: onnx.NodeProto) -> None:
        self._removed.add(id(node))
        self._release(name for name in node.input if name)

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            self.reads[name] -= 1
            if self.reads[name]:
                continue
            if name in self._stored:
                self._gone.add(name)
            self._weights.pop(name, None)
            maker = self._makers.get(name)
            if maker is not None and not any(self.reads[o] for o in maker.output if o):
                self._makers.pop(name)
                self._remove(maker)

    def finished(self) -> LoadedModel:
        """The changed model; its weights lie where the original's do: inside, or beside it."""
        body = self.model.graph
        del body.node[:]
        for node in self.nodes:
            if id(node) not in self._removed:
                body.node.append(node)
            if id(node) in self._added:
                body.node.append(self._added[id(node)])
        changed = self._gone.union(self._weights)
        infos = [v for v in body.value_info if v.name not in changed]
        if len(infos) != len(body.value_info):
            del body.value_info[:]
            body.value_info.extend(infos)
        for place in reversed(range(len(body.sparse_initializer))):
            if body.sparse_initializer[place].values.name in changed:
                del body.sparse_initializer[place]
        for tensor in self.source.graph.initializer:
            if tensor.name in self._weights:
                array = self._weights.pop(tensor.name)
                body.initializer.append(numpy_helper.from_array(array, tensor.name))
            elif tensor.name not in self._gone:
                body.initializer.append(tensor)
        for name, array in self._weights.items():
            body.initializer.append(numpy_helper.from_array(array, name))
        drop_inputs(self.model, changed)
        beside = has_external(self.loaded.proto) or None
        return LoadedModel(self.model, self.loaded.path, beside)


def _all_names(proto: onnx.ModelProto) -> set[str]:
    """Every name in a model, of values and of nodes."""
    names: set[str] = set()
    for scope in scopes(proto):
        names.update(scope.inputs, scope.constants)
        for node in scope.nodes:
            names.update(node.output, (node.name,))
    return names
