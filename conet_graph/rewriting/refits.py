"""What a refit changed: new values of a rewritten model's tensors, beside the plan that made its shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.load import LoadedModel, tensor_array, tensor_bytes
from conet_graph.ir.save import atomic_write

if TYPE_CHECKING:
    from conet_graph.rewriting.plans import Plan

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerFit:
    """What became of a layer: errors are shares of its target's variance, on inputs the fit did not see.

    ``ridge`` is None for a layer that keeps its weights, since no fit helped.
    """

    name: str
    before: float
    after: float
    ridge: float | None


@dataclass
class Refit:
    """New values of initializers by their names in the rewritten model.

    Attributes:
        tensors: the values, float32; empty where only the plan was read and not the file beside it.
        names: of all these tensors.
        biases: inputs that nodes (by their number) get, or get anew: (node, slot) to the tensor's name.
        layers: what became of each layer.
        errors: of the outputs on inputs kept aside, in units of the original's variance.
        left: sentences about layers that could not be refitted.
        before: checksums (CRC-32, as float32) of the tensors before; new ones have none.

    """

    tensors: dict[str, Array] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    biases: dict[tuple[int, int], str] = field(default_factory=dict)
    layers: list[LayerFit] = field(default_factory=list)
    errors: dict[str, float | None] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)

    def applied(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The exactly rewritten model with these values.

        Raises:
            BadUsage: the values are not there: the file beside the plan is missing.

        """
        if len(self.tensors) != len(self.names):
            raise BadUsage("The plan's refitted tensors are missing: keep its .safetensors file beside it.")
        made = onnx.ModelProto()
        made.CopyFrom(model)
        stored = {t.name: t for t in made.graph.initializer}
        for name, array in self.tensors.items():
            tensor = stored.get(name) or made.graph.initializer.add(data_type=onnx.TensorProto.FLOAT)
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            raw = np.ascontiguousarray(array).astype(dtype).tobytes()
            tensor.CopyFrom(helper.make_tensor(name, tensor.data_type, array.shape, raw, raw=True))
        for (index, slot), name in self.biases.items():
            made.graph.node[index].CopyFrom(_with_inputs(made.graph.node[index], [(slot, name)]))
        return made

    def to_json(self, file: str | None) -> dict[str, Any]:
        """Plain data, but for the values."""
        return {
            "file": file,
            "tensors": self.names,
            "biases": [{"node": n, "slot": s, "tensor": name} for (n, s), name in self.biases.items()],
            "errors": self.errors,
            "layers": [
                {"name": fit.name, "before": fit.before, "after": fit.after, "ridge": fit.ridge}
                for fit in self.layers
            ],
            "left": self.left,
            "before": self.before,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Refit:
        """What ``to_json`` gave; the values are not there."""
        return Refit(
            names=[str(n) for n in data["tensors"]],
            biases={(int(b["node"]), int(b["slot"])): str(b["tensor"]) for b in data["biases"]},
            layers=[
                LayerFit(
                    str(fit["name"]),
                    float(fit["before"]),
                    float(fit["after"]),
                    None if fit["ridge"] is None else float(fit["ridge"]),
                )
                for fit in data["layers"]
            ],
            errors={str(k): None if v is None else float(v) for k, v in data["errors"].items()},
            left=[str(sentence) for sentence in data["left"]],
            before={str(name): int(number) for name, number in data["before"].items()},
        )

    def packed(self) -> bytes:
        """All of it as the bytes of a safetensors file."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(a, np.float32) for name, a in self.tensors.items()}
        return save(arrays, {"refit": json.dumps(self.to_json(None))})

    @staticmethod
    def unpacked(data: bytes) -> Refit:
        """What ``packed`` gave."""
        from safetensors.numpy import load

        length = int.from_bytes(data[:8], "little")
        made = Refit.from_json(json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["refit"]))
        made.tensors = load(data)
        return made


def differences(exact: LoadedModel, given: LoadedModel, refit: Refit) -> list[str]:
    """Sentences about where a model is not the exactly rewritten one with the refitted tensors.

    The values of those are compared where they are known.
    """
    model = given.proto
    names = set(refit.names)
    biases: dict[int, list[tuple[int, str]]] = {}
    for (index, slot), name in refit.biases.items():
        biases.setdefault(index, []).append((slot, name))
    if len(model.graph.node) != len(exact.proto.graph.node):
        return ["the refitted network has other nodes than the exact rewrite"]
    for index, (want, have) in enumerate(zip(exact.proto.graph.node, model.graph.node, strict=True)):
        if _with_inputs(want, biases.get(index, [])) != have:
            return [f"node {shown(have.name)} is not that of the exact rewrite"]
    wanted = {t.name: t for t in exact.proto.graph.initializer}
    faults = []
    for tensor in model.graph.initializer:
        want = wanted.pop(tensor.name, None)
        if tensor.name not in names and (want is None or not _equal(tensor, given, want, exact)):
            faults.append(f"tensor {shown(tensor.name)} is not that of the exact rewrite")
        elif tensor.name in refit.tensors:
            known = refit.tensors[tensor.name].astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            if not np.array_equal(known, tensor_array(tensor, given.folder)):
                faults.append(f"tensor {shown(tensor.name)} is not that of the plan's refit")
    return faults + [f"tensor {shown(name)} is missing" for name in wanted if name not in names]


def _equal(one: onnx.TensorProto, of: LoadedModel, other: onnx.TensorProto, its: LoadedModel) -> bool:
    """Whether two tensors hold the same, each in its own place."""
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    return one == other or b"".join(tensor_bytes(one, of.folder)) == b"".join(tensor_bytes(other, its.folder))


def _with_inputs(node: onnx.NodeProto, inputs: list[tuple[int, str]]) -> onnx.NodeProto:
    """A node with other names at some of its slots."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for slot, name in inputs:
        while len(made.input) <= slot:
            made.input.append("")
        made.input[slot] = name
    return made


def tensors_path(plan: Path) -> Path:
    """Where the tensors of a plan's refit lie."""
    return plan.with_suffix(".safetensors")


def write_plan(made: Plan, path: Path) -> None:
    """Write a plan, and its refitted tensors beside it.

    Raises:
        BadUsage: the folder cannot be written.

    """
    if made.refit is not None:
        atomic_write(tensors_path(path), [made.refit.packed()])
    atomic_write(path, [made.dumps(tensors_path(path).name).encode()])


def read_plan(path: Path) -> Plan:
    """Read a plan, and its refitted tensors where they lie beside it.

    Raises:
        BadUsage: it is not a plan of a version that is understood, or its tensors are damaged.

    """
    from conet_graph.regular_file import read_text
    from conet_graph.rewriting.plans import Plan

    made = Plan.loads(read_text(path, "plan"))
    file = tensors_path(path)
    if made.refit is None or not file.is_file():
        return made
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        made.refit.tensors = load(file.read_bytes())
    except (SafetensorError, OSError, ValueError):
        raise BadUsage(f"{shown(str(file))} is no intact safetensors file: make the plan again.") from None
    if set(made.refit.tensors) != set(made.refit.names):
        raise BadUsage(f"{shown(str(file))} belongs to another plan: make the plan again.")
    return made
