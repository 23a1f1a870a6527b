"""Our own invariants of a model file, as a list of small named checks.

Both onnx's full checker and ONNX Runtime's loader accept files that are wrong; and neither says in one
sentence what is wrong where. All checks are linear, none believes a size before the bytes are there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import defs, helper

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.external import resolve
from conet_graph.ir.graph import bodies
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.tensors import count, nbytes

DEEPEST = 64
LARGEST = 2**46
# Operators of the first opsets that today's onnx no longer describes.
EXPERIMENTAL = frozenset(
    {
        "ATen",
        "Affine",
        "ConstantFill",
        "Crop",
        "DynamicSlice",
        "GRUUnit",
        "GivenTensorFill",
        "ImageScaler",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
    }
)
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def check_model(loaded: LoadedModel) -> LoadedModel:
    """Check a model and return it.

    Raises:
        InvalidModel: with the first thing that is wrong, and where.

    """
    try:
        for check in CHECKS:
            check(loaded)
    except UnicodeDecodeError:
        raise InvalidModel("A name in the model is not valid UTF-8: export it again.") from None
    return loaded


def versions(loaded: LoadedModel) -> None:
    """The IR version and the opsets are there, and known."""
    proto = loaded.proto
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise InvalidModel(
            f"The model has IR version {proto.ir_version}; versions 1 to {onnx.IR_VERSION} can be read."
        )
    seen: set[str] = set()
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if domain in seen:
            raise InvalidModel(f"The model imports the domain {shown(domain)} twice.")
        seen.add(domain)
        if domain == "" and not 1 <= entry.version <= defs.onnx_opset_version():
            raise InvalidModel(
                f"The model uses opset {entry.version}; opsets 1 to {defs.onnx_opset_version()} can be read."
            )
    if "" not in seen and any(n.domain in ("", "ai.onnx") for n in proto.graph.node):
        raise InvalidModel("The model imports no opset: export it again.")


def graph_is_there(loaded: LoadedModel) -> None:
    """The graph computes something."""
    graph = loaded.proto.graph
    if not graph.output:
        raise InvalidModel("The model's graph has no outputs.")
    if not graph.node:
        raise InvalidModel("The model's graph has no operators.")
    for value in graph.input:
        shape = value.type.tensor_type.shape
        if any(d.HasField("dim_value") and d.dim_value == 0 for d in list(shape.dim)[1:]):
            raise InvalidModel(f"Graph input {shown(value.name)} is declared with a size of 0.")


def tensors(loaded: LoadedModel) -> None:
    """Every tensor has as much data as its shape says, inside the file or inside the model's folder."""
    for tensor in _all_tensors(loaded.proto):
        _check_tensor(tensor, loaded)


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    nodes: list[onnx.NodeProto] = []
    for graph, _ in _graphs(proto):
        yield from graph.initializer
        nodes.extend(graph.node)
    for function in proto.functions:
        nodes.extend(function.node)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def _graphs(proto: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """The main graph and all sub-graphs, with their depth."""
    pending = [(proto.graph, 0)]
    while pending:
        graph, depth = pending.pop()
        if depth > DEEPEST:
            raise InvalidModel(f"The model nests sub-graphs more than {DEEPEST} deep.")
        yield graph, depth
        pending.extend((body, depth + 1) for node in graph.node for body in bodies(node))


def _check_tensor(tensor: onnx.TensorProto, loaded: LoadedModel) -> None:
    name = shown(tensor.name)
    if any(d < 0 for d in tensor.dims):
        raise InvalidModel(f"Tensor {name} has a negative dimension.")
    if count(tensor) > LARGEST:
        raise InvalidModel(f"Tensor {name} claims {count(tensor)} elements, more than any file holds.")
    if tensor.data_type == onnx.TensorProto.STRING:
        if len(tensor.string_data) != count(tensor):
            raise InvalidModel(f"Tensor {name} does not hold as many strings as its shape says.")
        return
    expected = nbytes(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        resolve(tensor, loaded.folder)
        return
    typed = [f for f in _TYPED if len(getattr(tensor, f))]
    if tensor.HasField("raw_data"):
        if typed:
            raise InvalidModel(f"Tensor {name} holds its data twice: as raw_data and as {typed[0]}.")
        if len(tensor.raw_data) != expected:
            raise InvalidModel(
                f"Tensor {name} holds {len(tensor.raw_data)} bytes, but its shape needs {expected}."
            )
        return
    field = helper.tensor_dtype_to_field(tensor.data_type)
    held = len(getattr(tensor, field))
    needed = count(tensor) * (2 if "COMPLEX" in onnx.TensorProto.DataType.Name(tensor.data_type) else 1)
    if held not in (needed, expected):
        raise InvalidModel(f"Tensor {name} holds {held} numbers, but its shape needs {needed}.")


def names(loaded: LoadedModel) -> None:
    """Each value is written once, and everything that is read is written somewhere before."""
    for graph, depth in _graphs(loaded.proto):
        written: set[str] = set()
        for kind, found in (
            ("initializer", [t.name for t in graph.initializer]),
            ("sparse initializer", [t.values.name for t in graph.sparse_initializer]),
            ("node output", [o for node in graph.node for o in node.output if o]),
        ):
            for name in found:
                if name in written:
                    raise InvalidModel(f"The {kind} {shown(name)} is defined twice.")
                written.add(name)
        inputs = {v.name for v in graph.input}
        clash = inputs.intersection(o for node in graph.node for o in node.output)
        if clash:
            raise InvalidModel(f"A node writes the graph input {shown(min(clash))}.")
        if depth == 0:
            sort_nodes(graph)
            missing = [v.name for v in graph.output if v.name not in written | inputs]
            if missing:
                raise InvalidModel(f"No operator computes the graph output {shown(missing[0])}.")


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes into topological order if they are not.

    Raises:
        InvalidModel: a node reads a value that nothing writes, or a cycle.

    """
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    known.update(t.values.name for t in graph.sparse_initializer)
    produced = {o for node in graph.node for o in node.output}
    reads = [_reads(node) for node in graph.node]
    for node, needed in zip(graph.node, reads, strict=True):
        for name in node.input:
            if name not in known and name not in produced:
                raise InvalidModel(f"Node {_called(node)} reads {shown(name)}, which nothing writes.")
        needed.intersection_update(produced)
    done: set[str] = set()
    in_order = True
    for node, needed in zip(graph.node, reads, strict=True):
        in_order = in_order and needed <= done
        done.update(node.output)
    if not in_order:
        _reorder(graph, reads)


def _reads(node: onnx.NodeProto) -> set[str]:
    needed = set(node.input) - {""}
    pending = bodies(node)
    while pending:
        body = pending.pop()
        for inner in body.node:
            needed.update(inner.input)
            pending.extend(bodies(inner))
        needed.update(v.name for v in body.output)
    return needed


def _reorder(graph: onnx.GraphProto, reads: list[set[str]]) -> None:
    waiting = [len(needed) for needed in reads]
    readers: dict[str, list[int]] = {}
    for index, needed in enumerate(reads):
        for name in needed:
            readers.setdefault(name, []).append(index)
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order: list[int] = []
    for index in ready:
        order.append(index)
        for name in set(graph.node[index].output):
            for reader in readers.get(name, []):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    ready.append(reader)
    if len(order) != len(graph.node):
        stuck = next(i for i, n in enumerate(waiting) if n > 0)
        raise InvalidModel(f"The graph has a cycle through node {_called(graph.node[stuck])}.")
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _called(node: onnx.NodeProto) -> str:
    return f"{shown(node.name or next(iter(node.output), ''))} ({shown(node.op_type)[1:-1]})"


@functools.lru_cache(maxsize=4096)
def _schema(op_type: str, version: int) -> Any:
    try:
        return defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None


def operators(loaded: LoadedModel) -> None:
    """Operators of ONNX's own set exist in the model's opset and have their inputs and attributes."""
    proto = loaded.proto
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    local = {(f.domain, f.name) for f in proto.functions}
    for graph, _ in _graphs(proto):
        for node in graph.node:
            if not node.op_type:
                raise InvalidModel(f"Node {_called(node)} has no operator type.")
            _check_attributes(node)
            if node.domain in ("", "ai.onnx") and (node.domain, node.op_type) not in local:
                _check_schema(node, version)


def _check_attributes(node: onnx.NodeProto) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in seen:
            raise InvalidModel(f"Node {_called(node)} has the attribute {shown(attribute.name)} twice.")
        seen.add(attribute.name)


def _check_schema(node: onnx.NodeProto, version: int) -> None:
    schema = _schema(node.op_type, version)
    if schema is None:
        if node.op_type in EXPERIMENTAL:
            return
        raise InvalidModel(f"Node {_called(node)} is an operator that opset {version} does not have.")
    if len(node.input) < schema.min_input or len(node.input) > schema.max_input:
        raise InvalidModel(
            f"Node {_called(node)} has {len(node.input)} inputs, which its operator does not take."
        )
    for slot, formal in enumerate(schema.inputs):
        required = formal.option == defs.OpSchema.FormalParameterOption.Single
        if required and (slot >= len(node.input) or not node.input[slot]):
            raise InvalidModel(f"Node {_called(node)} lacks its input {shown(formal.name)}.")
    for attribute in node.attribute:
        wanted = schema.attributes.get(attribute.name)
        if wanted is not None and attribute.type and int(wanted.type.value) != attribute.type:
            raise InvalidModel(
                f"Node {_called(node)} has an attribute {shown(attribute.name)} of a wrong type."
            )


def functions(loaded: LoadedModel) -> None:
    """Functions of the model do not call themselves."""
    table = {(f.domain, f.name): f for f in loaded.proto.functions}
    state: dict[tuple[str, str], int] = {}
    for start in table:
        stack = [(start, False)]
        while stack:
            key, left = stack.pop()
            if left:
                state[key] = 2
            elif state.get(key) is None:
                state[key] = 1
                stack.append((key, True))
                calls = [(n.domain, n.op_type) for n in table[key].node]
                for called in calls:
                    if called in table:
                        if state.get(called) == 1:
                            raise InvalidModel(f"Function {shown(called[1])} calls itself.")
                        stack.append((called, False))


@dataclass(frozen=True)
class _Window:
    weight: int
    spatial_from: int = 2


_CONVOLUTIONS = {
    "Conv": _Window(1),
    "ConvTranspose": _Window(1),
    "ConvInteger": _Window(1),
    "QLinearConv": _Window(3),
}
_FLOATING = ("Conv", "ConvTranspose", "Gemm")


def layers(loaded: LoadedModel) -> None:
    """Convolutions: groups, strides, padding and kernel_shape agree with the weight."""
    weights = {t.name: t for t in loaded.proto.graph.initializer}
    for node in loaded.proto.graph.node:
        window = _CONVOLUTIONS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        slot = window.weight if window else 1
        if node.op_type in _FLOATING and len(node.input) > slot and node.input[slot] in weights:
            _check_weight_type(node, weights[node.input[slot]])
        if window is None:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = weights.get(node.input[slot]) if len(node.input) > slot else None
        _check_window(node, attributes, weight)


def _check_weight_type(node: onnx.NodeProto, weight: onnx.TensorProto) -> None:
    kind = onnx.TensorProto.DataType.Name(weight.data_type)
    integers_allowed = node.op_type == "Gemm"
    if "FLOAT" not in kind and kind != "DOUBLE" and not (integers_allowed and "INT" in kind):
        raise InvalidModel(f"Node {_called(node)} has a weight {shown(weight.name)} of type {kind}.")


def _check_window(node: onnx.NodeProto, attributes: dict[str, Any], weight: onnx.TensorProto | None) -> None:
    group = attributes.get("group", 1)
    if group < 1:
        raise InvalidModel(f"Node {_called(node)} has {group} groups.")
    for name in ("strides", "dilations"):
        if any(v < 1 for v in attributes.get(name, [])):
            raise InvalidModel(f"Node {_called(node)} has {name} below 1.")
    if weight is None:
        return
    dims = list(weight.dims)
    if len(dims) < 3 or 0 in dims:
        raise InvalidModel(f"The weight {shown(weight.name)} of node {_called(node)} has the shape {dims}.")
    if dims[0] % group:
        raise InvalidModel(f"Node {_called(node)}: {group} groups do not divide {dims[0]} channels.")
    kernel = attributes.get("kernel_shape")
    if kernel is not None and list(kernel) != dims[2:]:
        raise InvalidModel(
            f"Node {_called(node)} says kernel_shape {list(kernel)}, but its weight has {dims[2:]}."
        )
    spatial = len(dims) - 2
    for name, length in (("pads", 2 * spatial), ("strides", spatial), ("dilations", spatial)):
        if attributes.get(name) is not None and len(attributes[name]) != length:
            raise InvalidModel(f"Node {_called(node)} has {len(attributes[name])} {name}, not {length}.")


CHECKS = (versions, graph_is_there, tensors, operators, names, functions, layers)
