"""The graph of one network: operators in order, constants, shapes, and the DAG of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import LoadedModel, tensor_array
from conet_graph.ir.operators import TELLS_SIZES
from conet_graph.ir.sparse import dense_tensor
from conet_graph.ir.wire import copy_without

if TYPE_CHECKING:
    import networkx as nx

Dim = int | str | None
Shape = tuple[Dim, ...]


Found = TypeVar("Found")


@dataclass(frozen=True)
class Result(Generic[Found]):
    """What a pass finds out about a graph, by name and type; each is declared beside its pass."""

    name: str
    made_by: str


# Of each operator, by its index: 'conv', 'non-conv', 'non-conv sum', 'non-conv concat' or 'weight'.
EDGE_KINDS: Result[dict[int, str]] = Result("edge_kinds", "classify_edges")


@dataclass(slots=True)
class Operator:
    """One operator of the graph.

    ``op_type`` is ONNX's, e.g. ``Conv``; of ``domain`` '' is ONNX's own. ``inputs`` and ``outputs`` hold ''
    where an optional one is absent. They are read off ``proto`` once, for a message's fields are slow to
    read: change an input by ``set_input``, and all of it by ``become``.
    """

    index: int
    proto: onnx.NodeProto
    version: int
    op_type: str = field(init=False, compare=False)
    domain: str = field(init=False, compare=False)
    inputs: list[str] = field(init=False, compare=False)
    outputs: list[str] = field(init=False, compare=False)
    _values: dict[str, Any] | None = field(init=False, compare=False, repr=False)
    _has_bodies: bool | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Read what is asked for often off the message."""
        proto = self.proto
        self.op_type = proto.op_type
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self._values = self._has_bodies = None  # not asked for yet

    def become(self, proto: onnx.NodeProto) -> None:
        """Be what another node says."""
        self.proto.CopyFrom(proto)
        self.__post_init__()

    @property
    def name(self) -> str:
        """The node's name, or one made of its type and first output where it has none."""
        return self.proto.name or next((o for o in self.outputs if o), self.op_type)

    def input(self, slot: int) -> str:
        """Name of one input, '' when it is absent."""
        names = self.inputs
        return names[slot] if slot < len(names) else ""

    def set_input(self, slot: int, name: str) -> None:
        """Let it read another value at a slot that it has."""
        self.proto.input[slot] = self.inputs[slot] = name

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, or ``default``."""
        if self._values is None:
            # Of several with one name the first counts.
            self._values = {each.name: each for each in reversed(self.proto.attribute)}
        value = self._values.get(name, default)
        if isinstance(value, onnx.AttributeProto):
            value = self._values[name] = _value(value)
        return value.copy() if isinstance(value, list) else value

    def set_attr(self, name: str, value: Any) -> None:
        """Replace or add an attribute."""
        set_attribute(self.proto, name, value)
        self.__post_init__()

    def subgraphs(self) -> list[onnx.GraphProto]:
        """Bodies of If, Loop, Scan and the like."""
        if self._has_bodies is None:
            self._has_bodies = any(each.type in (_GRAPH, _GRAPHS) for each in self.proto.attribute)
        return bodies(self.proto) if self._has_bodies else []


@dataclass
class Constant:
    """A tensor whose value the file holds, never changed; ``source`` is its name in the file it came from."""

    tensor: onnx.TensorProto
    source: str
    dims: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Read the tensor's shape, which is asked for often."""
        self.dims = tuple(self.tensor.dims)

    @property
    def is_float(self) -> bool:
        """Whether it holds floating point numbers (float8 and float4 left out)."""
        return self.tensor.data_type in FLOATS

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)


FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
)


def _value(attribute: onnx.AttributeProto) -> Any:
    """What an attribute says; a text as such."""
    value = helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# ONNX's own operators that run sub-graphs.
WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})

_GRAPH, _GRAPHS = onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS

# How several inbound edges meet at a node, by the word behind an operator's kind.
_MEETS = {"sum": "summation", "concat": "concatenation"}


@dataclass(frozen=True, slots=True)
class ShapeNumber:
    """One number of a shape computed in the graph: its value if known, and where it comes from.

    ``source`` is ('const', name, position) for a number that stands in a constant, ('dim', value, axis)
    for one read off a value's shape at run time, ('size', '4*n', 1) for a product of such ones and of numbers
    in the file (0: of none), None for the result of other arithmetic.
    """

    value: float | int | None
    source: tuple[str, str, int] | None = None


@dataclass
class Graph:
    """A network taken from an ONNX model, its weights left where they are.

    ``skeleton`` is the model without its initializers; the passes change it and ``constants``.
    ``shapes`` is filled by the pass ``infer_shapes``, with the help of ``told``, what folding found out;
    later passes ``keep`` what they find out, typed.
    """

    loaded: LoadedModel
    skeleton: onnx.ModelProto
    constants: dict[str, Constant]
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    shapes_stale: bool = True
    known: dict[str, list[ShapeNumber]] = field(default_factory=dict)
    told: dict[str, Shape] = field(default_factory=dict)
    _results: dict[Result[Any], Any] = field(default_factory=dict)
    _promised: dict[Result[Any], Callable[[], Any]] = field(default_factory=dict)

    @staticmethod
    def of(loaded: LoadedModel) -> Graph:
        """Make the graph of a loaded model; Constant nodes and sparse tensors become constants at once."""
        proto = loaded.proto
        if proto.functions:
            proto = inlined(proto)
        constants = {(name := t.name): Constant(t, name) for t in proto.graph.initializer}
        skeleton = onnx.ModelProto()
        copy_without(proto, skeleton, "graph")
        copy_without(proto.graph, skeleton.graph, "initializer", "sparse_initializer", "node")
        for sparse in proto.graph.sparse_initializer:
            whole = dense_tensor(sparse)
            if whole is None:
                skeleton.graph.sparse_initializer.append(sparse)
            else:
                constants[whole.name] = Constant(whole, whole.name)
        for node in proto.graph.node:
            tensor = constant_tensor(node)
            if tensor is None:
                skeleton.graph.node.append(node)
            else:
                constants[node.output[0]] = Constant(tensor, node.output[0])
        _name_domain_plainly(skeleton)
        return Graph(loaded, skeleton, constants)

    def keep(self, what: Result[Found], found: Found) -> None:
        """Note what a pass found out."""
        self._results[what] = found

    def promise(self, what: Result[Found], find: Callable[[], Found]) -> None:
        """Note how to find out what few ask for: it is found when it is first asked for."""
        self._promised[what] = find

    def result(self, what: Result[Found]) -> Found:
        """What a pass found out.

        Raises:
            LookupError: that pass has not run.

        """
        if what not in self._results and what in self._promised:
            self._results[what] = self._promised.pop(what)()
        if what not in self._results:
            raise LookupError(f"{what.name} is not known before the pass {what.made_by} has run")
        found: Found = self._results[what]
        return found

    def has(self, what: Result[Any]) -> bool:
        """Whether the pass that finds this out has run."""
        return what in self._results or what in self._promised

    @cached_property
    def folder(self) -> Path | None:
        """The folder in which external data lies."""
        return self.loaded.folder

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Value of a constant (read-only; large external ones are mapped, not read)."""
        return tensor_array(self.constants[name].tensor, self.folder)

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Opset version of each imported domain."""
        return {o.domain: o.version for o in self.skeleton.opset_import}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return self.opsets.get("", 1)

    @cached_property
    def operators(self) -> list[Operator]:
        """All operators, in the file's (topological) order."""
        return [
            Operator(i, node, self.opsets.get(node.domain, 1))
            for i, node in enumerate(self.skeleton.graph.node)
        ]

    @cached_property
    def producers(self) -> dict[str, Operator]:
        """The operator that writes each value."""
        return {value: op for op in self.operators for value in op.outputs if value}

    @cached_property
    def consumers(self) -> dict[str, list[tuple[Operator, int]]]:
        """The operators, and their input slots, that read each value."""
        found: dict[str, list[tuple[Operator, int]]] = {}
        for op in self.operators:
            for slot, value in enumerate(op.inputs):
                if value:
                    found.setdefault(value, []).append((op, slot))
        return found

    @property
    def inputs(self) -> list[str]:
        """Graph inputs that have no default value."""
        return [v.name for v in self.skeleton.graph.input if v.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """Graph outputs."""
        return [v.name for v in self.skeleton.graph.output]

    def shape(self, value: str) -> Shape | None:
        """Shape of a value: numbers, names of free dimensions, None where unknown."""
        constant = self.constants.get(value)
        return constant.dims if constant is not None else self.shapes.get(value)

    def keep_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        """Replace the list of nodes and forget what was derived from it."""
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del self.skeleton.graph.node[:]
        self.skeleton.graph.node.extend(copies)
        self.structure_changed()

    @cached_property
    def captured(self) -> set[str]:
        """Values of the main graph that bodies of If, Loop, Scan and the like read."""
        return {name for op in self.operators if op.subgraphs() for name in read_inside(op.proto)}

    @cached_property
    def derived(self) -> set[str]:
        """Constants, and values computed from constants alone: the weights."""
        derived = set(self.constants)
        for op in self.operators:
            if not op.subgraphs() and all(not n or n in derived for n in op.inputs):
                derived.update(o for o in op.outputs if o)
        return derived

    @cached_property
    def counted(self) -> set[str]:
        """Values computed from constants and from sizes alone, such as the places of a window's pixels."""
        counted = set(self.constants)
        for op in self.operators:
            made_of = [] if op.op_type in TELLS_SIZES else op.inputs
            if not op.subgraphs() and all(not n or n in counted for n in made_of):
                counted.update(o for o in op.outputs if o)
        return counted

    def fresh_name(self, base: str) -> str:
        """A constant's name that nothing in the graph has yet."""
        number = 2
        while (name := f"{base}__{number}") in self.constants or name in self.producers:
            number += 1
        return name

    def structure_changed(self) -> None:
        """Forget what was derived from the list of nodes; call after changing it."""
        self.shapes_stale = True
        for name in ("operators", "producers", "captured"):
            self.__dict__.pop(name, None)
        self.uses_changed()

    def uses_changed(self) -> None:
        """Forget what was derived from which operator reads what; call after changing an input."""
        for name in ("consumers", "derived", "counted", "dag"):
            self.__dict__.pop(name, None)

    @cached_property
    def dag(self) -> nx.MultiDiGraph[str]:
        """The DAG: a node for every value, an edge from each input to each output of an operator.

        Once ``classify_edges`` has run, an edge has its ``kind`` (conv or non-conv; weight where no
        feature map goes in), and a node says how its inbound edges ``meet``.
        """
        import networkx as nx  # slow to import, and the passes need no DAG

        kinds = self.result(EDGE_KINDS) if self.has(EDGE_KINDS) else {}
        dag: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        for name in [*self.inputs, *self.constants]:
            dag.add_node(name, shape=self.shape(name))
        for op in self.operators:
            kind, _, meet = kinds.get(op.index, "").partition(" ")
            for output in op.outputs:
                if output:
                    shape = self.shape(output)
                    dag.add_node(output, shape=shape, producer=op, meet=_MEETS.get(meet, "single"))
            for slot, value in enumerate(op.inputs):
                if not value:
                    continue
                for output in op.outputs:
                    if output:
                        dag.add_edge(value, output, op=op, slot=slot, kind=kind or None)
        return dag


def _name_domain_plainly(model: onnx.ModelProto) -> None:
    """Call ONNX's own domain '' everywhere: onnx does not find an operator under its other name."""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    pending = [node for node in model.graph.node if node.domain == "ai.onnx" or node.op_type in WITH_BODIES]
    while pending:
        node = pending.pop()
        if node.domain == "ai.onnx":
            node.domain = ""
        pending += [inner for body in bodies(node) for inner in body.node]


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The sub-graphs a node runs."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        kind = attribute.type
        if kind == _GRAPH:
            found.append(attribute.g)
        elif kind == _GRAPHS:
            found.extend(attribute.graphs)
    return found


def read_inside(node: onnx.NodeProto) -> set[str]:
    """All names that the sub-graphs of a node read, those of their own values too."""
    names: set[str] = set()
    pending = bodies(node)
    while pending:
        body = pending.pop()
        names.update(v.name for v in body.output)
        for inner in body.node:
            names.update(inner.input)
            pending.extend(bodies(inner))
    return names


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Replace or add an attribute of a node."""
    made = helper.make_attribute(name, value)
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.CopyFrom(made)
            return
    node.attribute.append(made)


def literals(name: str, array: np.ndarray[Any, Any]) -> list[ShapeNumber]:
    """The numbers of a constant, each with the place where it stands."""
    return [ShapeNumber(v, ("const", name, k)) for k, v in enumerate(array.reshape(-1).tolist())]


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the calls of its own functions replaced by their bodies.

    Raises:
        InvalidModel: a call does not fit its function.

    """
    from onnx import inliner

    try:
        return inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError):
        raise InvalidModel(
            "The functions of the model cannot be put in place of their calls: export it again."
        ) from None


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor; None for other nodes and for strings."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    if attribute.name == "sparse_value":
        return dense_tensor(attribute.sparse_tensor)
    if attribute.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        return None
    kind = np.float32 if "float" in attribute.name else np.int64
    array = np.array(helper.get_attribute_value(attribute), kind)
    return numpy_helper.from_array(array, node.output[0])
