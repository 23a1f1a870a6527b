"""Shape inference on a copy of the graph without its weight bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
from onnx import helper

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.graph import Constant, Dim, Graph, Shape
from conet_graph.ir.inference import infer
from conet_graph.ir.operators import CONVOLUTIONS, KNOWN_DOMAINS, channels_of_weight
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.wire import add_inputs, copy_without
from conet_graph.passes.shapes.equal_sizes import name_equal_sizes
from conet_graph.passes.shapes.stand_ins import stand_in

# Shapes depend on the *values* of small integer tensors only (Reshape targets, Split sizes, ...).
SMALL = 4096


@dataclass(frozen=True)
class InferShapes:
    """Fill ``graph.shapes`` and ``graph.dtypes`` by ONNX shape inference; free dims stay free."""

    name: ClassVar[str] = "infer_shapes"

    def run(self, graph: Graph) -> None:
        """Infer the shapes of all values of the main graph."""
        if not graph.shapes_stale:
            return
        graph.shapes_stale = False
        model = light_copy(graph)
        read_shapes(_inferred(model), graph)
        told = [*_by_their_readers(graph), *_by_computed_numbers(graph)]
        if told:
            model.graph.value_info.extend(told)
            read_shapes(_inferred(model), graph)
        drop_false(graph, graph.skeleton.graph)
        name_equal_sizes(graph)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return infer(model)
    except InvalidModel:
        raise
    except Exception:
        # Values whose shape stays unknown are frozen by the rules; nothing else depends on it.
        return model


def _by_their_readers(graph: Graph) -> list[onnx.ValueInfoProto]:
    """Values of unknown shape (what a private operator computes) whose rank a convolution's weight tells.

    Without this, everything behind such a value would stay unknown, and so be frozen.
    """
    told: dict[str, onnx.ValueInfoProto] = {}
    for op in graph.operators:
        record = CONVOLUTIONS.get(op.op_type)
        if record is None or record.is_quantised or op.domain not in KNOWN_DOMAINS:
            continue
        value, weight = op.input(record.data), graph.constants.get(op.input(record.weight))
        if weight is None or value in told or graph.shape(value) is not None:
            continue
        if value not in graph.producers or value in graph.outputs:
            continue
        reads, _ = channels_of_weight(op, record.weight, weight.dims)
        dims = [None, reads, *[None] * (len(weight.dims) - 2)]
        told[value] = helper.make_tensor_value_info(value, weight.tensor.data_type, dims)
    return list(told.values())


def _by_computed_numbers(graph: Graph) -> list[onnx.ValueInfoProto]:
    """Values whose shape the numbers that it is computed from tell, where inference left sizes open."""
    return [
        helper.make_tensor_value_info(name, graph.dtypes[name], shape)
        for name, shape in graph.told.items()
        if name in graph.producers and name in graph.dtypes and graph.shape(name) != shape
    ]


def drop_false(graph: Graph, body: onnx.GraphProto) -> None:
    """Drop the declarations of values that are not what their operators give: a runtime may believe them.

    Outputs have to be declared: theirs are corrected.
    """
    true = [value for value in body.value_info if not _is_false(graph, value)]
    if len(true) < len(body.value_info):
        del body.value_info[:]
        body.value_info.extend(true)
    for value in body.output:
        shape, declared = graph.shape(value.name), value.type.tensor_type
        if shape is not None and _has_other_sizes(declared, shape):
            declared.shape.CopyFrom(helper.make_tensor_type_proto(1, shape).tensor_type.shape)


def _is_false(graph: Graph, value: onnx.ValueInfoProto) -> bool:
    """Whether a value is declared without a type, or with another type or other sizes than it has."""
    kind, declared = value.type.WhichOneof("value"), value.type.tensor_type
    if kind != "tensor_type":
        return kind is None
    if declared.elem_type != graph.dtypes.get(value.name, declared.elem_type):
        return True
    shape = graph.shape(value.name)
    return shape is not None and _has_other_sizes(declared, shape)


def _has_other_sizes(declared: onnx.TypeProto.Tensor, shape: Shape) -> bool:
    if not declared.HasField("shape"):
        return False
    pairs = zip(shape_of(declared.shape), shape, strict=False)
    others = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    return others or len(declared.shape.dim) != len(shape) or any(d.dim_value < 0 for d in declared.shape.dim)


def light_copy(graph: Graph) -> onnx.ModelProto:
    """The model with weights turned into graph inputs and private operators into stand-ins."""
    model = onnx.ModelProto()
    copy_without(graph.skeleton, model, "graph")
    body = model.graph
    copy_without(graph.skeleton.graph, body, "node")
    private: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for op in graph.operators:
        instead = stand_in(op)
        nodes += [op.proto] if instead is None else instead
        if op.domain and instead is None:
            private.update(op.outputs)
    body.node.extend(nodes)
    declared = [v for v in body.value_info if v.name in private]
    del body.value_info[:]
    body.value_info.extend(declared)
    given = {v.name: v for v in body.input}
    for value in body.output:
        # What a file declares for its outputs may be wrong; the operators say what is true.
        if value.name in given:
            value.CopyFrom(given[value.name])
        elif value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    kept = [v for v in body.input if v.name not in graph.constants]
    del body.input[:]
    body.input.extend(kept)
    for value in body.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")  # -1 or 0 stands for "unknown" in some exporters' files
    types: dict[tuple[int, tuple[int, ...]], onnx.TypeProto] = {}  # few kinds, for many weights
    weights: list[tuple[str, onnx.TypeProto]] = []
    for name, constant in graph.constants.items():
        if is_small_int(constant):
            tensor = body.initializer.add()
            tensor.CopyFrom(constant.tensor)
            tensor.name = name
        else:
            key = constant.tensor.data_type, constant.dims
            if key not in types:
                types[key] = helper.make_tensor_type_proto(*key)
            weights.append((name, types[key]))
    add_inputs(body, weights)
    model.ir_version = max(model.ir_version, FIRST_FREE_IR)
    return model


def is_small_int(constant: Constant) -> bool:
    """Whether a constant may be a shape, an axis list or the like."""
    return (
        constant.tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        and constant.size <= SMALL
        and constant.tensor.data_location != onnx.TensorProto.EXTERNAL
    ) or (
        # Resize and Upsample scales, and the arithmetic some exporters do on them.
        constant.tensor.data_type == onnx.TensorProto.FLOAT
        and constant.size <= 8
        and constant.tensor.data_location != onnx.TensorProto.EXTERNAL
    )


def read_shapes(model: onnx.ModelProto, graph: Graph) -> None:
    """Copy the inferred shapes into the graph."""
    body = model.graph
    graph.shapes = {name: constant.dims for name, constant in graph.constants.items()}
    graph.dtypes.update((name, constant.tensor.data_type) for name, constant in graph.constants.items())
    for value in [*body.input, *body.value_info, *body.output]:
        if value.name in graph.constants:
            continue
        kind = value.type
        if not kind.HasField("tensor_type"):
            continue
        graph.dtypes[value.name] = kind.tensor_type.elem_type
        if kind.tensor_type.HasField("shape"):
            graph.shapes[value.name] = shape_of(kind.tensor_type.shape)


def shape_of(proto: onnx.TensorShapeProto) -> Shape:
    """A shape as a tuple."""
    lengths = tuple([dim.dim_value for dim in proto.dim])  # 0 where it is not set
    return lengths if min(lengths, default=1) > 0 else tuple(_dim(d) for d in proto.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
