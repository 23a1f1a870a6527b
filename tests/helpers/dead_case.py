"""Networks in which channels were killed: zeroed filters, zeroed columns, zeroed scales, repeated filters."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from conet_graph.dead_channels.find import dead_channels
from conet_graph.ir.graph import Graph
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.verification import Report, verify

# Their second and third inputs are weights or scales, and shifts.
PLANTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization")


def planted(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy of a model with parts of its weights zeroed or repeated."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    rng = np.random.default_rng(seed)
    weights = {name for node in made.graph.node if node.op_type in PLANTED for name in node.input[1:3]}
    for tensor in made.graph.initializer:
        array = np.array(numpy_helper.to_array(tensor))
        if tensor.name not in weights or array.dtype.kind != "f" or not array.ndim or not array.size:
            continue
        for axis in range(min(array.ndim, 2)):
            lead = np.moveaxis(array, axis, 0)
            if rng.random() < 0.5:
                lead[rng.random(len(lead)) < 0.3] = 0
            if rng.random() < 0.3 and array.ndim > 1:
                lead[rng.integers(len(lead), size=len(lead) // 3)] = 2 * lead[int(rng.integers(len(lead)))]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


def without_dead(graph: Graph) -> tuple[Plan, onnx.ModelProto, Report]:
    """A network without its dead channels, and what verification says of it; through the plan's JSON."""
    copies = choose_copies(graph, WidthRequest(lossless=True))
    plan = Plan.loads(planned(graph, copies, "keep", noise=False, seed=0)[0].dumps())
    model = rewritten(graph, plan)
    return plan, model, verify(graph, model, plan)


def count_dead(graph: Graph) -> int:
    """How many classes of channels can go without loss."""
    return int(dead_channels(graph).removable().sum())
