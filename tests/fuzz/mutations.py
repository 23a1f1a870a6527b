"""Mutations that know what a model is: nodes, attributes, tensors, declarations, scopes.

Each changes a model in place, in one way that a broken exporter, a bad merge or an attacker might, and does
nothing where the model has nothing of that kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from conet_graph.ir.graph import bodies

Mutation = Callable[[random.Random, onnx.ModelProto], None]
MUTATIONS: list[Mutation] = []

# Sizes and numbers at which arithmetic, allocations and comparisons go wrong.
NUMBERS = (
    *(0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 63, 64, 65, 127, 255, 1000, 65535, 65536, 10**6),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**53, 2**62, 2**63 - 1, -(2**63)),
)
NAMES = (
    *("", " ", "\0", "a\nb", "\u202e", "é" * 40, "../../etc/passwd", "<script>alert(1)</script>", "%s%n{0}"),
    *("__2", "conet_graph_masked_0", "x__2", "'; DROP TABLE sizes; --", "-o", "n" * 70_000, "\ud7ff"),
)
LOCATIONS = (
    "",
    ".",
    "..",
    "../w.bin",
    "/dev/zero",
    "w.bin",
    "w.bin\0",
    "link.bin",
    "a/../w.bin",
    "\\\\w.bin",
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), float("-inf"))
TYPES = sorted(TensorProto.DataType.values())
OPERATORS = sorted({schema.name for schema in defs.get_all_schemas()})


def mutation(change: Mutation) -> Mutation:
    MUTATIONS.append(change)
    return change


def graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and all sub-graphs (of the functions too)."""
    found = [model.graph]
    pending = [node for function in model.functions for node in function.node]
    for graph in found:  # grows while it is walked
        found.extend(body for node in graph.node for body in bodies(node))
        while pending:
            found.extend(bodies(pending.pop()))
    return found


def a_graph(rng: random.Random, model: onnx.ModelProto) -> onnx.GraphProto:
    found = graphs(model)
    return found[0] if rng.random() < 0.6 else rng.choice(found)


def nodes(rng: random.Random, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    if model.functions and rng.random() < 0.3:
        return list(rng.choice(model.functions).node)
    return list(a_graph(rng, model).node)


def values(graph: onnx.GraphProto) -> list[str]:
    """All names that a graph defines."""
    made = [o for node in graph.node for o in node.output]
    return [v.name for v in graph.input] + [t.name for t in graph.initializer] + made


def tensors(rng: random.Random, model: onnx.ModelProto) -> list[TensorProto]:
    graph = a_graph(rng, model)
    inside = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    return [*graph.initializer, *inside]


def a_number(rng: random.Random, near: int = 1) -> int:
    how = rng.random()
    if how < 0.4:
        return rng.choice(NUMBERS)
    changed = near + rng.choice((-1, 1)) if how < 0.7 else near * rng.choice((2, 3, -1))
    return max(-(2**63), min(changed, 2**63 - 1))


# Nodes.


@mutation
def drop_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    if graph.node:
        del graph.node[rng.randrange(len(graph.node))]


@mutation
def bypass_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    if graph.node:
        number = rng.randrange(len(graph.node))
        node = graph.node[number]
        if node.input and node.output:
            rename_reads(graph, node.output[0], node.input[0])
            del graph.node[number]


def rename_reads(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
    for value in graph.output:
        if value.name == old:
            value.name = new


@mutation
def duplicate_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    if not graph.node:
        return
    copy = onnx.NodeProto()
    copy.CopyFrom(rng.choice(graph.node))
    if rng.random() < 0.8:
        old = list(copy.output)
        copy.output[:] = [f"{name}_again" for name in old]
        if old and rng.random() < 0.5:
            rename_reads(graph, old[0], copy.output[0])
    graph.node.append(copy)


@mutation
def move_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    if len(graph.node) > 1:
        a, b = rng.sample(range(len(graph.node)), 2)
        first = graph.node[a].SerializeToString()
        graph.node[a].CopyFrom(graph.node[b])
        graph.node[b].ParseFromString(first)


@mutation
def retype_node(rng: random.Random, model: onnx.ModelProto) -> None:
    found = nodes(rng, model)
    if found:
        node = rng.choice(found)
        node.op_type = rng.choice(OPERATORS) if rng.random() < 0.7 else rng.choice(found).op_type
        if rng.random() < 0.6:
            del node.attribute[:]


@mutation
def change_domain(rng: random.Random, model: onnx.ModelProto) -> None:
    found = nodes(rng, model)
    if found:
        rng.choice(found).domain = rng.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "private", ""))
    if rng.random() < 0.7:
        model.opset_import.add(domain=rng.choice(("com.microsoft", "private", "ai.onnx.ml")), version=1)


@mutation
def insert_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    named = values(graph)
    if not named:
        return
    read = rng.choice(named)
    kind = rng.choice((*OPERATORS, *["Identity", "Relu", "Softmax", "Transpose", "Flatten", "Shape"] * 20))
    rename_reads(graph, read, "inserted")
    others = [rng.choice(named) for _ in range(rng.choice((0, 0, 1, 2)))]
    graph.node.append(helper.make_node(kind, [read, *others], ["inserted"]))


@mutation
def rewire(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    node = rng.choice(graph.node) if graph.node else None
    if node is not None and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*values(graph), "", "nowhere"])


@mutation
def change_slots(rng: random.Random, model: onnx.ModelProto) -> None:
    found = nodes(rng, model)
    if not found:
        return
    node = rng.choice(found)
    slots = rng.choice((node.input, node.output))
    how = rng.randrange(5)
    if how == 0 and slots:
        del slots[rng.randrange(len(slots))]
    elif how == 1:
        slots.append(rng.choice(("", "extra", *rng.choice(found).output)))
    elif how == 2 and slots:
        slots[rng.randrange(len(slots))] = ""
    elif how == 3 and len(slots) > 1:
        slots[:] = rng.sample(list(slots), len(slots))
    else:
        slots.extend([rng.choice((*slots, ""))] * rng.choice((1, 5, 300)))


# Attributes.


def an_attribute(rng: random.Random, model: onnx.ModelProto) -> AttributeProto | None:
    found = [a for node in nodes(rng, model) for a in node.attribute]
    return rng.choice(found) if found else None


@mutation
def change_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    attribute = an_attribute(rng, model)
    if attribute is None:
        return
    if attribute.type == AttributeProto.INT:
        attribute.i = a_number(rng, attribute.i)
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        place = rng.randrange(len(attribute.ints))
        attribute.ints[place] = a_number(rng, attribute.ints[place])
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice(
            (b"", b"\xff\xfe", b"SAME_UPPER", b"VALID", b"reflect", b"linear", b"x" * 5000)
        )


@mutation
def change_length(rng: random.Random, model: onnx.ModelProto) -> None:
    attribute = an_attribute(rng, model)
    if attribute is None:
        return
    for numbers in (attribute.ints, attribute.floats, attribute.strings):
        if len(numbers):
            if rng.random() < 0.5:
                del numbers[rng.randrange(len(numbers))]
            else:
                numbers.extend([numbers[-1]] * rng.choice((1, 2, 2, 1000)))


@mutation
def drop_or_double_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    found = [node for node in nodes(rng, model) if node.attribute]
    if found:
        node = rng.choice(found)
        number = rng.randrange(len(node.attribute))
        if rng.random() < 0.7:
            del node.attribute[number]
        else:
            node.attribute.append(node.attribute[number])


@mutation
def add_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    """An attribute that the operator knows, with a value of its type."""
    found = nodes(rng, model)
    node = rng.choice(found) if found else None
    if node is None or not defs.has(node.op_type):
        return
    known = sorted(defs.get_schema(node.op_type).attributes.items())
    if not known:
        return
    name, schema = rng.choice(known)
    for k in reversed([k for k, a in enumerate(node.attribute) if a.name == name]):
        del node.attribute[k]
    made = node.attribute.add(name=name, type=int(schema.type.value))
    made.i, made.f, made.s = a_number(rng), rng.choice(FLOATS), b"none"
    made.ints.extend(a_number(rng) for _ in range(rng.choice((1, 2, 4))))
    keep = {AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.STRING: "s"}
    for field in {"i", "f", "s", "ints"} - {keep.get(made.type, "ints")}:
        made.ClearField(field)


@mutation
def retype_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    attribute = an_attribute(rng, model)
    if attribute is not None:
        attribute.type = rng.choice(sorted(AttributeProto.AttributeType.values()))
        if rng.random() < 0.5:
            attribute.ref_attr_name = rng.choice(("", attribute.name))


# Tensors.


def a_tensor(rng: random.Random, model: onnx.ModelProto) -> TensorProto | None:
    found = tensors(rng, model)
    return rng.choice(found) if found else None


@mutation
def claim_other_dims(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_tensor(rng, model)
    if tensor is not None and tensor.dims:
        place = rng.randrange(len(tensor.dims))
        tensor.dims[place] = a_number(rng, tensor.dims[place])


@mutation
def reshape_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    """Other dimensions for the same data."""
    tensor = a_tensor(rng, model)
    if tensor is None:
        return
    dims = list(tensor.dims)
    how = rng.randrange(4)
    if how == 0:
        rng.shuffle(dims)
    elif how == 1:
        dims.insert(rng.randint(0, len(dims)), 1)
    elif how == 2 and len(dims) > 1:
        last = dims.pop()
        dims[-1] *= last
    elif dims and dims[-1] % 2 == 0:
        dims[-1:] = [dims[-1] // 2, 2]
    if all(-(2**63) <= d < 2**63 for d in dims):
        tensor.dims[:] = dims


@mutation
def resize_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    """Another length along one axis, and the data for it."""
    tensor = a_tensor(rng, model)
    if tensor is None or not tensor.dims or not tensor.HasField("raw_data") or not all(tensor.dims):
        return
    axis = rng.randrange(len(tensor.dims))
    old, new = tensor.dims[axis], rng.choice((0, 1, 2, tensor.dims[axis] + 1, 2 * tensor.dims[axis]))
    size = len(tensor.raw_data) // old * new
    if size <= 2**20:
        tensor.raw_data = (tensor.raw_data * (new // old + 1))[:size]
        tensor.dims[axis] = new


@mutation
def retype_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_tensor(rng, model)
    if tensor is None:
        return
    wanted = rng.choice((*TYPES, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8))
    if rng.random() < 0.4:
        tensor.data_type = wanted
        return
    try:
        array = numpy_helper.to_array(tensor)
        made = numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(wanted)), tensor.name)
    except Exception:
        tensor.data_type = wanted
    else:
        tensor.CopyFrom(made)


@mutation
def change_numbers(rng: random.Random, model: onnx.ModelProto) -> None:
    """Numbers of a small integer tensor (a shape, axes, pads), or a special value in a weight."""
    found = tensors(rng, model)
    small = [t for t in found if t.data_type in (TensorProto.INT64, TensorProto.INT32)]
    tensor = rng.choice(small or found) if found else None
    if tensor is None or not 0 < len(tensor.raw_data) <= 2**20:
        return
    try:
        array = numpy_helper.to_array(tensor).copy()
        place = rng.randrange(array.size)
        if array.dtype.kind in "iu":
            array.reshape(-1)[place] = a_number(rng, int(array.reshape(-1)[place]))
        else:
            array.reshape(-1)[place] = rng.choice(FLOATS)
    except (ValueError, OverflowError, TypeError):
        return
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@mutation
def put_outside(rng: random.Random, model: onnx.ModelProto) -> None:
    """A tensor's data claimed to lie beside the model (where there is a file w.bin of 64 KiB)."""
    tensor = a_tensor(rng, model)
    if tensor is None:
        return
    length = len(tensor.raw_data)
    for field in ("raw_data", "float_data", "int64_data", "int32_data"):
        if rng.random() < 0.95:
            tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    plain = rng.random() < 0.5
    tensor.external_data.add(key="location", value="w.bin" if plain else rng.choice(LOCATIONS))
    if rng.random() < 0.7:
        offset = rng.choice((0, 1, 64)) if plain else a_number(rng)
        tensor.external_data.add(key="offset", value=str(offset))
    if rng.random() < 0.5:
        tensor.external_data.add(key="length", value=str(length if plain else a_number(rng, length)))


@mutation
def drop_or_double_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    weights = a_graph(rng, model).initializer
    if weights:
        number = rng.randrange(len(weights))
        if rng.random() < 0.5:
            del weights[number]
        else:
            weights.append(weights[number])
            if rng.random() < 0.7:
                weights[-1].name += "_again"


@mutation
def share_weight(rng: random.Random, model: onnx.ModelProto) -> None:
    """Two operators read one weight."""
    graph = a_graph(rng, model)
    names = {t.name for t in graph.initializer}
    reads = [(n, k) for n in graph.node for k, name in enumerate(n.input) if name in names]
    if len(reads) > 1:
        (node, slot), (other, there) = rng.sample(reads, 2)
        node.input[slot] = other.input[there]


# Declarations.


@mutation
def declare_otherwise(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    found = [*graph.input, *graph.output, *graph.value_info]
    if not found:
        return
    value = rng.choice(found)
    kind = value.type.tensor_type
    how = rng.randrange(6)
    if how <= 2 and kind.shape.dim:
        dim = rng.choice(kind.shape.dim)
        dim.dim_value = a_number(rng, dim.dim_value)
        if how == 2:
            dim.dim_param = rng.choice(("N", "", "H W", "?", "batch"))
    elif how == 3:
        kind.elem_type = rng.choice(TYPES)
    elif how == 4:
        kind.shape.dim.add(dim_value=a_number(rng))
    else:
        rng.choice((value.type.ClearField, value.ClearField))("type" if rng.random() < 0 else "tensor_type")


@mutation
def change_outputs(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    how = rng.randrange(4)
    named = values(graph)
    if how == 0 and graph.output:
        del graph.output[rng.randrange(len(graph.output))]
    elif how == 1 and named:
        graph.output.add(name=rng.choice(named))
    elif how == 2 and graph.output:
        graph.output.append(graph.output[0])
    elif graph.output and named:
        rng.choice(graph.output).name = rng.choice(named)


@mutation
def change_inputs(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    how = rng.randrange(4)
    if how == 0 and graph.input:
        del graph.input[rng.randrange(len(graph.input))]
    elif how == 1 and graph.initializer:
        weight = rng.choice(graph.initializer)
        graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    elif how == 2 and graph.input:
        graph.input.append(rng.choice(graph.input))
    elif graph.initializer:
        number = rng.randrange(len(graph.initializer))
        weight = graph.initializer[number]
        graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
        del graph.initializer[number]


@mutation
def lie_about_a_value(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = a_graph(rng, model)
    named = values(graph)
    if named:
        dims = [rng.choice((1, 2, 8, a_number(rng), "N")) for _ in range(rng.randint(0, 5))]
        made = helper.make_tensor_value_info(rng.choice(named), rng.choice(TYPES), dims)
        graph.value_info.append(made)


@mutation
def change_versions(rng: random.Random, model: onnx.ModelProto) -> None:
    how = rng.randrange(5)
    if how <= 2 and model.opset_import:
        entry = rng.choice(model.opset_import)
        entry.version = rng.choice((*range(1, 28), 0, -1, 999, 2**40))
    elif how == 3:
        model.ir_version = rng.choice((*range(1, 14), 0, -1, 2**40))
    elif model.opset_import and rng.random() < 0.5:
        del model.opset_import[rng.randrange(len(model.opset_import))]
    else:
        model.opset_import.add(domain=rng.choice(("", "ai.onnx", "private")), version=rng.choice((9, 13, 17)))


# Names.


@mutation
def rename(rng: random.Random, model: onnx.ModelProto) -> None:
    """One value gets another name everywhere in its graph."""
    graph = a_graph(rng, model)
    named = values(graph)
    if not named:
        return
    old, new = rng.choice(named), rng.choice((*NAMES, rng.choice(named)))
    rename_reads(graph, old, new)
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    for entry in (*graph.input, *graph.initializer, *graph.value_info):
        if entry.name == old:
            entry.name = new


@mutation
def rename_node(rng: random.Random, model: onnx.ModelProto) -> None:
    found = nodes(rng, model)
    if found:
        rng.choice(found).name = rng.choice(NAMES)
    if rng.random() < 0.2:
        model.graph.name = model.producer_name = rng.choice(NAMES)
        model.graph.doc_string = "long " * 20_000


# Scopes.


@mutation
def wrap_in_if(rng: random.Random, model: onnx.ModelProto) -> None:
    """One node moves into both branches of an If, once or many times over."""
    graph = a_graph(rng, model)
    found = [k for k, node in enumerate(graph.node) if node.output]
    if not found:
        return
    number = rng.choice(found)
    inner = onnx.NodeProto()
    inner.CopyFrom(graph.node[number])
    outputs = list(inner.output)
    condition = numpy_helper.from_array(__import__("numpy").array(rng.random() < 0.5), "condition_of_if")
    for level in range(rng.choice((1, 1, 1, 2, 5))):
        inner.output[:] = [f"{name}_in{level}" for name in outputs]
        declared = [onnx.ValueInfoProto(name=name) for name in inner.output]
        branch = helper.make_graph([inner], f"branch{level}", [], declared)
        inner = helper.make_node("If", ["condition_of_if"], outputs, then_branch=branch, else_branch=branch)
    graph.node[number].CopyFrom(inner)
    if all(t.name != condition.name for t in graph.initializer):
        graph.initializer.append(condition)


@mutation
def wrap_in_function(rng: random.Random, model: onnx.ModelProto) -> None:
    """One node becomes a call of a function of the model that holds it."""
    graph = a_graph(rng, model)
    if not graph.node:
        return
    node = rng.choice(graph.node)
    body = onnx.NodeProto()
    body.CopyFrom(node)
    inputs = list(dict.fromkeys(name for name in node.input if name))
    body.input[:] = [f"i{inputs.index(name)}" if name else "" for name in node.input]
    body.output[:] = [f"o{k}" for k in range(len(node.output))]
    opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    name = f"Made{len(model.functions)}"
    formal = [f"i{k}" for k in range(len(inputs))]
    made = helper.make_function("made", name, formal, list(body.output), [body], opsets)
    if rng.random() < 0.15:
        made.node.append(helper.make_node(name, formal, ["again"], domain="made"))
    if rng.random() < 0.15:
        made.input.append("more")
    model.functions.append(made)
    node.domain, node.op_type = "made", name
    node.input[:] = inputs
    del node.attribute[:]
    if all(o.domain != "made" for o in model.opset_import):
        model.opset_import.add(domain="made", version=1)


@mutation
def make_sparse(rng: random.Random, model: onnx.ModelProto) -> None:
    """A weight as a sparse one, sometimes with indices that lie."""
    graph = a_graph(rng, model)
    if not graph.initializer:
        return
    number = rng.randrange(len(graph.initializer))
    weight = graph.initializer[number]
    count = rng.choice((0, 1, 3))
    sparse = graph.sparse_initializer.add(dims=weight.dims)
    sparse.values.CopyFrom(helper.make_tensor(weight.name, TensorProto.FLOAT, [count], [0.5] * count))
    index = [0, 1, 2][:count] if rng.random() < 0.7 else [a_number(rng) for _ in range(count)]
    sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [count], index))
    del graph.initializer[number]
