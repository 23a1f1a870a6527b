"""What ONNX says of its own operators, as plain data that is looked up once for each operator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import defs

# Operators of the first opsets that today's onnx no longer describes.
EXPERIMENTAL = frozenset(
    (
        *("ATen", "Affine", "ConstantFill", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill"),
        *("ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization"),
    )
)
# Operators that a newer opset redefined and onnx then called deprecated in the older one, where runtimes go
# on running them: GroupNormalization of opsets 18 to 20 has a scale for each group.
STILL_RUN = frozenset({"GroupNormalization"})
# Operators that ONNX Runtime's optimiser writes, and runs, at opsets before the one that brought them.
EARLY = {"LayerNormalization": 17}
# Element types by the name they have in ONNX's operator descriptions.
ELEMENT_TYPES = {
    f"tensor({name.lower()})": value for name, value in onnx.TensorProto.DataType.items() if value
}


@dataclass(frozen=True)
class Formal:
    """One input or output; ``same`` is False where a variadic one takes tensors of different types."""

    name: str
    type_name: str
    types: frozenset[int]
    required: bool
    same: bool


@dataclass(frozen=True)
class Schema:
    """One operator of one opset."""

    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    input_counts: tuple[int, int]
    output_counts: tuple[int, int]
    attributes: dict[str, int]
    required: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def schema_of(op_type: str, opset: int) -> Schema | None:
    """The description of an operator of ONNX's own domain; None where that opset does not have it."""
    try:
        found = defs.get_schema(op_type, max(opset, EARLY.get(op_type, 0)), "")
    except defs.SchemaError:
        return None
    if found.deprecated and op_type not in STILL_RUN:
        return None
    return Schema(
        inputs=tuple(_formal(f) for f in found.inputs),
        outputs=tuple(_formal(f) for f in found.outputs),
        input_counts=(found.min_input, found.max_input),
        output_counts=(found.min_output, found.max_output),
        attributes={name: _attribute_type(a) for name, a in found.attributes.items()},
        required=tuple(name for name, a in found.attributes.items() if a.required),
    )


def _attribute_type(attribute: defs.OpSchema.Attribute) -> int:
    kind: Any = attribute.type  # an enum at run time, which onnx's stubs do not say
    return int(kind.value)


def _formal(parameter: defs.OpSchema.FormalParameter) -> Formal:
    options = defs.OpSchema.FormalParameterOption
    return Formal(
        name=parameter.name,
        type_name=parameter.type_str,
        types=frozenset(ELEMENT_TYPES[t] for t in parameter.types if t in ELEMENT_TYPES),
        required=parameter.option == options.Single,
        same=parameter.option != options.Variadic or parameter.is_homogeneous,
    )


def formal_at(formals: tuple[Formal, ...], slot: int) -> Formal:
    """The description of one input or output; the last one stands for all further ones."""
    return formals[min(slot, len(formals) - 1)]
