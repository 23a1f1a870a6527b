"""Each node by itself: its operator exists, with these inputs, outputs and attributes."""

from __future__ import annotations

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.order import called
from conet_graph.ir.schemas import EXPERIMENTAL, Schema, schema_of
from conet_graph.ir.scopes import scopes

# Where the value of an attribute lies, by its type.
_FIELDS = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}
_NO_VALUE = {"name", "type", "doc_string", "ref_attr_name"}
# Attributes that are sizes or switches: all real ones fit 32 bits, and runtimes cut larger ones off.
_SIZES = frozenset(
    (
        *("blocksize", "dilations", "group", "hidden_size", "kernel_shape", "num_groups", "num_outputs"),
        *("output_padding", "output_shape", "pads", "size", "strides", "transA", "transB", "allowzero"),
    )
)
_LARGEST_SIZE = 2**31 - 1
# Writers that leave out default values leave out zeros, but cannot mean an absent message.
_MESSAGES = {"t", "g", "sparse_tensor", "tp"}


def check_nodes(proto: onnx.ModelProto) -> None:
    """Check operators, inputs, outputs and attributes of all nodes.

    Raises:
        InvalidModel: naming the node.

    """
    local = {(f.domain, f.name) for f in proto.functions}
    for scope in scopes(proto):
        for node in scope.nodes:
            if not node.op_type:
                raise InvalidModel(f"Node {called(node)} has no operator type.")
            _attributes(node, scope.in_function)
            if node.domain in ("", "ai.onnx") and (node.domain, node.op_type) not in local:
                _standard(node, scope.opset)


def _attributes(node: onnx.NodeProto, in_function: bool) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        what = f"Node {called(node)} has an attribute {shown(attribute.name)}"
        if attribute.name in seen:
            raise InvalidModel(f"{what} twice.")
        seen.add(attribute.name)
        field = _FIELDS.get(attribute.type)
        if field is None:
            raise InvalidModel(f"{what} without a type.")
        present = {descriptor.name for descriptor, _ in attribute.ListFields()} - _NO_VALUE
        if attribute.ref_attr_name:
            if not in_function:
                raise InvalidModel(f"{what} that refers to a function's, but is in none.")
        elif not present <= {field} or (field in _MESSAGES and not present):
            raise InvalidModel(f"{what} whose value is not of its type.")


def _standard(node: onnx.NodeProto, opset: int) -> None:
    schema = schema_of(node.op_type, opset)
    if schema is None:
        if node.op_type in EXPERIMENTAL:
            return
        raise InvalidModel(f"Node {called(node)} is an operator that opset {opset} does not have.")
    for what, there, (least, most) in (
        ("inputs", len(node.input), schema.input_counts),
        ("outputs", len(node.output), schema.output_counts),
    ):
        if not least <= there <= most:
            raise InvalidModel(f"Node {called(node)} has {there} {what}, which its operator does not take.")
    for slot, formal in enumerate(schema.inputs):
        if formal.required and not node.input[slot]:
            raise InvalidModel(f"Node {called(node)} lacks its input {shown(formal.name)}.")
    _standard_attributes(node, schema)


def _standard_attributes(node: onnx.NodeProto, schema: Schema) -> None:
    for attribute in node.attribute:
        wanted = schema.attributes.get(attribute.name)
        if wanted is None and not attribute.name.startswith("__"):
            raise InvalidModel(
                f"Node {called(node)} has an attribute {shown(attribute.name)}, which its operator has not."
            )
        if wanted is not None and wanted != attribute.type:
            raise InvalidModel(
                f"Node {called(node)} has an attribute {shown(attribute.name)} of a wrong type."
            )
        _sane_size(node, attribute)
    given = {attribute.name for attribute in node.attribute}
    for name in schema.required:
        if name not in given:
            raise InvalidModel(f"Node {called(node)} lacks its attribute {shown(name)}.")


def _sane_size(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if attribute.name not in _SIZES:
        return
    what = f"Node {called(node)} has the attribute {shown(attribute.name)}"
    if any(abs(n) > _LARGEST_SIZE for n in (attribute.i, *attribute.ints)):
        raise InvalidModel(f"{what} with a number beyond {_LARGEST_SIZE}, which no network has.")
    if attribute.name == "allowzero" and not attribute.ref_attr_name and attribute.i not in (0, 1):
        raise InvalidModel(f"{what} of {attribute.i}, which is neither 0 nor 1.")
    if attribute.name == "num_outputs" and not attribute.ref_attr_name and attribute.i != len(node.output):
        raise InvalidModel(f"{what} of {attribute.i}, but {len(node.output)} outputs.")
