"""Our own invariants of a model file, as a list of small named checks.

Both onnx's full checker and ONNX Runtime's loader accept files that are wrong; and neither says in one
sentence what is wrong where. All checks are linear, none believes a size before the bytes are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import onnx
from onnx import defs, helper

from conet_graph.ir.assumed_opset import assume_opset
from conet_graph.ir.check_layers import check_layers
from conet_graph.ir.check_nodes import check_nodes
from conet_graph.ir.check_values import check_values
from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.external import resolve
from conet_graph.ir.graph import bodies, inlined
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.ir.order import called, check_names
from conet_graph.ir.save import copy_light
from conet_graph.ir.scopes import all_tensors, scopes, sparse_tensors
from conet_graph.ir.tensors import count, field_length, nbytes

# Elements of one tensor, and axes (numpy's own limit is 64).
LARGEST = 2**46
MOST_AXES = 32
# Elements of a sparse tensor written out in full: nothing in the file stands for them.
LARGEST_SPARSE = 2**28
# Nodes after all functions are put in place of their calls: functions that call each other twice each
# grow without bound in a file of a few lines.
MOST_NODES = 1_000_000
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def load(path: str | Path) -> LoadedModel:
    """Read an ONNX file and check it; external data is not read.

    Raises:
        InvalidModel: there is no such file, or it is not a valid network.

    """
    return check_model(load_model(path))


def check_model(loaded: LoadedModel) -> LoadedModel:
    """Check a model, once, and return it; nodes that are not in order are put into order.

    Raises:
        InvalidModel: with the first thing that is wrong, and where.

    """
    if loaded.checked:
        return loaded
    try:
        assume_opset(loaded)
        for check in CHECKS:
            check(loaded)
    except UnicodeDecodeError:
        raise InvalidModel("A name in the model is not valid UTF-8: export it again.") from None
    loaded.checked = True
    return loaded


def versions(loaded: LoadedModel) -> None:
    """The IR version and the opsets are there, and known."""
    proto = loaded.proto
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise InvalidModel(
            f"The model has IR version {proto.ir_version}; versions 1 to {onnx.IR_VERSION} can be read."
        )
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        seen: set[str] = set()
        for entry in imports:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if domain in seen:
                raise InvalidModel(f"The model imports the domain {shown(domain)} twice.")
            seen.add(domain)
            if domain == "" and not 1 <= entry.version <= defs.onnx_opset_version():
                raise InvalidModel(
                    f"The model uses opset {entry.version};"
                    f" opsets 1 to {defs.onnx_opset_version()} can be read."
                )
    imported = {entry.domain for entry in proto.opset_import}
    for scope in scopes(proto):
        for node in scope.nodes:
            if node.domain in ("", "ai.onnx"):
                if scope.opset == 0:
                    raise InvalidModel("The model imports no opset: export it again.")
            elif not scope.in_function and node.domain not in imported:
                raise InvalidModel(
                    f"The model does not import the domain {shown(node.domain)} of its operators."
                )


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


def texts(loaded: LoadedModel) -> None:
    """Every text of the file is valid UTF-8 (protobuf itself hands out bytes where it is not)."""
    for text in _texts(loaded.proto):
        if not isinstance(text, str):
            raise InvalidModel(
                f"The text {str(text[:40])[1:]} in the model is not valid UTF-8: export it again."
            )


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    yield from (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)
    for imported in proto.opset_import:
        yield imported.domain
    for scope in scopes(proto):
        yield from (scope.owner.name, scope.owner.doc_string)
        if scope.graph is None:
            yield from (scope.owner.domain, *scope.inputs, *scope.outputs, *scope.owner.attribute)
        else:
            for declared in (scope.graph.input, scope.graph.output, scope.graph.value_info):
                for value in declared:
                    yield from (value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim))
        for node in scope.nodes:
            yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
            for attribute in node.attribute:
                yield from (attribute.name, attribute.ref_attr_name)
    for tensor in all_tensors(proto):
        yield from (tensor.name, tensor.doc_string)
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def tensors(loaded: LoadedModel) -> None:
    """Every tensor has as much data as its shape says, inside the file or inside the model's folder."""
    # The main graph's weights come first; of a file it is known how long they are.
    for tensor, length in zip_longest(all_tensors(loaded.proto), loaded.raw_lengths):
        if length is None or not _fits(tensor, length):
            _check_tensor(tensor, loaded)
    for sparse in sparse_tensors(loaded.proto):
        name = shown(sparse.values.name)
        _check_dims(list(sparse.dims), name)
        if count(sparse) > LARGEST_SPARSE:
            raise InvalidModel(
                f"Sparse tensor {name} stands for {count(sparse)} elements, which is too many."
            )
        stored = count(sparse.values)
        if count(sparse.indices) not in (stored, stored * len(sparse.dims)):
            raise InvalidModel(f"Sparse tensor {name} does not have one index for each value.")


def _check_dims(dims: list[int], name: str) -> None:
    if len(dims) > MOST_AXES:
        raise InvalidModel(f"Tensor {name} has {len(dims)} axes; {MOST_AXES} can be read.")
    if any(d < 0 for d in dims):
        raise InvalidModel(f"Tensor {name} has a negative dimension.")


def _fits(tensor: onnx.TensorProto, length: int) -> bool:
    """Whether a tensor that holds nothing but raw data holds as much as its shape says."""
    dims = tensor.dims
    plain = (
        tensor.data_type != onnx.TensorProto.STRING and len(dims) <= MOST_AXES and min(dims, default=0) >= 0
    )
    return plain and nbytes(tensor) == length


def _check_tensor(tensor: onnx.TensorProto, loaded: LoadedModel) -> None:
    name = shown(tensor.name)
    _check_dims(list(tensor.dims), name)
    if count(tensor) > LARGEST:
        raise InvalidModel(f"Tensor {name} claims {count(tensor)} elements, more than any file holds.")
    typed = [field for field in _TYPED if len(getattr(tensor, field))]
    if tensor.data_type == onnx.TensorProto.STRING:
        plain = typed in ([], ["string_data"]) and not tensor.HasField("raw_data")
        if not plain or len(tensor.string_data) != count(tensor):
            raise InvalidModel(f"Tensor {name} does not hold as many strings as its shape says.")
        return
    expected = nbytes(tensor)
    raw = tensor.HasField("raw_data")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if raw or typed:
            raise InvalidModel(f"Tensor {name} holds its data twice: in the model and beside it.")
        resolve(tensor, loaded.folder)
        return
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if raw + len(typed) > 1:
        raise InvalidModel(f"Tensor {name} holds its data twice: as raw_data or in several fields.")
    if raw and len(tensor.raw_data) != expected:
        raise InvalidModel(
            f"Tensor {name} holds {len(tensor.raw_data)} bytes, but its shape needs {expected}."
        )
    held, needed = len(getattr(tensor, field)), field_length(tensor)
    if not raw and (held != needed or typed not in ([], [field])):
        raise InvalidModel(f"Tensor {name} holds {held} numbers, but its shape needs {needed}.")


def values(loaded: LoadedModel) -> None:
    """What is declared of inputs, outputs and values exists, and agrees with the initializers."""
    check_values(loaded.proto)


def nodes(loaded: LoadedModel) -> None:
    """Operators of ONNX's own set exist in the model's opset and have their inputs and attributes."""
    check_nodes(loaded.proto)


def names(loaded: LoadedModel) -> None:
    """Each value is written once, and everything that is read is written somewhere before."""
    check_names(loaded.proto)


def calls(loaded: LoadedModel) -> None:
    """Functions of the model are called with no more inputs and outputs than they have."""
    formal = {(f.domain, f.name): (len(f.input), len(f.output)) for f in loaded.proto.functions}
    for scope in scopes(loaded.proto) if formal else ():
        for node in scope.nodes:
            most_in, most_out = formal.get((node.domain, node.op_type), (len(node.input), len(node.output)))
            if len(node.input) > most_in or len(node.output) > most_out:
                raise InvalidModel(
                    f"Node {called(node)} has more inputs or outputs than the function that it calls."
                )


def functions(loaded: LoadedModel) -> None:
    """Functions of the model do not call themselves, and put in place they stay of a sane size."""
    table = {(f.domain, f.name): _calls(f) for f in loaded.proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    for start in table:
        open_now: set[tuple[str, str]] = set()
        stack = [start]
        while stack:
            key = stack[-1]
            if key in sizes:
                stack.pop()
                continue
            waiting = [c for c in dict.fromkeys(table[key]) if c in table and c not in sizes]
            if not waiting:
                sizes[key] = sum(sizes.get(c, 1) for c in table[key])
                open_now.discard(key)
                stack.pop()
                continue
            open_now.add(key)
            if not open_now.isdisjoint(waiting):
                raise InvalidModel(f"Function {shown(key[1])} calls itself.")
            stack.extend(waiting)
    total = sum(sizes.get(c, 1) for c in _calls(loaded.proto.graph)) if table else 0
    if total > MOST_NODES:
        raise InvalidModel(f"The model's functions stand for more than {MOST_NODES} operators.")


def _calls(owner: onnx.GraphProto | onnx.FunctionProto) -> list[tuple[str, str]]:
    """What the nodes of a function or graph run, those in its sub-graphs too."""
    found: list[tuple[str, str]] = []
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [owner]
    while pending:
        for node in pending.pop().node:
            found.append((node.domain, node.op_type))
            pending.extend(bodies(node))
    return found


def layers(loaded: LoadedModel) -> None:
    """Layers: types, groups, strides, padding and channel counts agree with the weights."""
    proto = loaded.proto
    if proto.functions:
        light = onnx.ModelProto()
        copy_light(proto, light)
        proto = inlined(light)
    check_layers(proto)


CHECKS = (texts, versions, graph_is_there, tensors, values, nodes, names, calls, functions, layers)
