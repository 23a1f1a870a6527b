"""ONNX: the original with the dropped channels masked, which a pruned network must equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from weight_match import kept_channels

Array = NDArray[Any]
CONVS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVS, "Gemm", "MatMul")


def weights_of(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, onnx.TensorProto]]:
    """The layers whose weight is stored, by the name of their output."""
    stored = {t.name: t for t in model.graph.initializer}
    return {
        node.output[0]: (node, stored[node.input[1]])
        for node in model.graph.node
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in stored
    }


def conv_widths(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of every convolution, by the name of its output, its weight stored or computed."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.initializer[:]
    for tensor in model.graph.initializer:
        # Inference needs the numbers of shapes and indices, and no weights.
        if tensor.data_type == onnx.TensorProto.INT64:
            light.graph.initializer.append(tensor)
        else:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    shapes = {v.name: v.type.tensor_type.shape.dim for v in [*graph.value_info, *graph.output]}
    found = {}
    for node in model.graph.node:
        if node.op_type in CONVS:
            shape = shapes.get(node.output[0], ())
            found[node.output[0]] = shape[1].dim_value if len(shape) > 1 else 0
    stored = weights_of(model)
    return {name: width or _stored_width(stored, name) for name, width in found.items()}


def _stored_width(stored: dict[str, tuple[onnx.NodeProto, onnx.TensorProto]], name: str) -> int:
    """Outputs of a convolution whose shape inference could not tell; 0 where its weight is computed too."""
    if name not in stored:
        return 0
    node, tensor = stored[name]
    return int(tensor.dims[0] if node.op_type == "Conv" else tensor.dims[1] * _attribute(node, "group", 1))


def parameters(model: onnx.ModelProto) -> int:
    """Numbers in floating-point initializers."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _output_first(node: onnx.NodeProto, weight: Array) -> Array:
    """The weight as ``[outputs, inputs, ...]``."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB", 0)):
        return weight
    return weight.swapaxes(0, 1)


def masked(original: onnx.ModelProto, pruned: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """The original with masks wherever a layer of ``pruned`` lost channels; or None and why not."""
    others = weights_of(pruned)
    before, after = conv_widths(original), conv_widths(pruned)
    computed = [
        name for name in before.keys() - weights_of(original).keys() if before[name] != after.get(name)
    ]
    if computed:
        return None, f"the weight of {computed[0]} is computed"
    model = onnx.ModelProto()
    model.CopyFrom(original)
    nodes: list[onnx.NodeProto] = []
    layers = weights_of(model)
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        if name not in layers:
            nodes.append(node)
            continue
        if name not in others:
            return None, f"layer {name} is gone"
        old, new = (numpy_helper.to_array(each[name][1]) for each in (layers, others))
        if old.shape == new.shape:
            nodes.append(node)
            continue
        if old.ndim < 2 or (node.op_type == "MatMul" and old.ndim != 2):
            return None, f"the weight of {name} is no matrix"
        found = _kept(node, old, new)
        if found is None:
            return None, f"the weight of {name} does not say which channels stayed"
        nodes.extend(_with_masks(model, node, found, _output_first(node, old)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, ""


def _kept(node: onnx.NodeProto, before: Array, after: Array) -> tuple[Array, Array] | None:
    groups = _attribute(node, "group", 1)
    if node.op_type == "ConvTranspose" and groups != 1:
        return None
    return kept_channels(_output_first(node, before), _output_first(node, after), groups)


def _with_masks(
    model: onnx.ModelProto, node: onnx.NodeProto, kept: tuple[Array, Array], weight: Array
) -> list[onnx.NodeProto]:
    """The node with a mask before it and one behind it."""
    name = node.output[0]
    last = node.op_type in ("Gemm", "MatMul")
    counts = (weight.shape[0], weight.shape[1] * _attribute(node, "group", 1))
    for role, indices, count in zip(("out", "in"), kept, counts, strict=True):
        mask = np.zeros(count, np.float32)
        mask[indices] = 1
        shape = (count,) if last else (count, *[1] * (weight.ndim - 2))
        model.graph.initializer.append(numpy_helper.from_array(mask.reshape(shape), f"{name}_mask_{role}"))
    first = helper.make_node("Mul", [node.input[0], f"{name}_mask_in"], [f"{name}_masked_in"])
    behind = helper.make_node("Mul", [f"{name}_unmasked", f"{name}_mask_out"], [name])
    node.input[0] = f"{name}_masked_in"
    node.output[0] = f"{name}_unmasked"
    return [first, node, behind]


def run(path: Path, image: Array) -> Array:
    """The file's first output in ONNX Runtime, without fusions, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def relative(got: Array, wanted: Array) -> float:
    """Largest difference as a share of the largest magnitude."""
    return float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))


def difference(
    original: onnx.ModelProto, pruned: onnx.ModelProto, image: Array, folder: Path
) -> tuple[float | None, float, str]:
    """Largest relative difference, what a nudge of the input by a millionth does, and why not."""
    reference, why = masked(original, pruned)
    if reference is None:
        return None, 0.0, why
    onnx.save(reference, folder / "masked.onnx")
    onnx.save(pruned, folder / "pruned.onnx")
    wanted = run(folder / "masked.onnx", image)
    nudged = run(folder / "masked.onnx", image * np.float32(1 + 1e-6))
    got = run(folder / "pruned.onnx", image)
    if got.shape != wanted.shape:
        return None, 0.0, f"the output is {got.shape} and was {wanted.shape}"
    return relative(got, wanted), relative(nudged, wanted), ""
