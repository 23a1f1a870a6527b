"""Channel-Gram ridge (GRAIL, arXiv 2602.23795): the channels that stay rebuild those that went.

Written from a description of it. For each layer that reads narrowed channels, the Gram matrix G of the
original's input over all positions; the kept channels S rebuild all of them by B = (G_SS + r I)^-1 G_S.,
with r a thousandth of the mean diagonal; and the layer gets W B^T in place of W. No bias, no second look at
the narrowed network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import with_constants
from conet_graph.rewriting.plans import Plan

RIDGE = 1e-3


def folded_by_gram(graph: Graph, plan: Plan, narrow: onnx.ModelProto, x: NDArray[Any]) -> onnx.ModelProto:
    """The narrowed model with the dropped channels' part folded into the weights of those that read them."""
    places = []
    for op, slot, axis, weight in graph.result(CHANNELS).units.contractions:
        kept = None if weight is None or weight[0] not in plan.tensors else plan.tensors[weight[0]].axes
        if weight is None or kept is None or weight[1] not in kept or op.attr("group", 1) != 1:
            continue
        places.append((op.input(slot), axis, weight, kept))
    grams = _grams(graph, {(value, axis) for value, axis, _, _ in places}, x)
    tensors = {tensor.name: tensor for tensor in narrow.graph.initializer}
    for value, axis, (name, at), axes in places:
        gram, kept = grams[value, axis], axes[at]
        inner = gram[np.ix_(kept, kept)]
        rebuilt = np.linalg.solve(
            inner + RIDGE * np.diag(inner).mean() * np.eye(len(kept)), gram[kept]
        )  # [kept, all]
        weight = graph.array(name).astype(np.float64)
        for other, index in axes.items():
            if other != at:
                weight = np.take(weight, index, axis=other)
        folded = np.moveaxis(np.tensordot(weight, rebuilt, axes=(at, 1)), -1, at)
        tensors[name].CopyFrom(numpy_helper.from_array(folded.astype(np.float32), name))
    return narrow


def _grams(
    graph: Graph, places: set[tuple[str, int]], x: NDArray[Any]
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """The Gram matrix of each value's channels over all positions and inputs, in the original."""
    model = with_constants(graph, {})
    values = sorted({value for value, _ in places})
    for value in sorted(set(values) - set(graph.outputs)):
        model.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else 16
    grams: dict[tuple[str, int], Any] = {}
    for start in range(0, len(x) // size * size, size):
        found = dict(zip(values, session.run(values, {entry.name: x[start : start + size]}), strict=True))
        for value, axis in places:
            last = np.moveaxis(found[value], axis, -1).astype(np.float64)
            rows = last.reshape(-1, last.shape[-1])
            grams[value, axis] = grams.get((value, axis), 0) + rows.T @ rows
    return grams
