"""What it means when a rule fails: the file contradicts itself, or the rule is wrong.

Rules raise ``NoRule`` where they refuse. Anything else is a fault of ours, unless ONNX's own description of
the operator says that the node makes no sense (an axis beyond the rank, a step of zero).
"""

from __future__ import annotations

import os

import onnx

from conet_graph.ir.errors import RAISING, shown
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.inference import infer
from conet_graph.passes.channels.units import CONTRADICTION, Tracker

OUR_FAULT = "a fault of conet-graph in its rule: please report it"
# Constants up to this size are shown to ONNX: they are axes, shapes, steps.
LARGEST_SHOWN = 4096


def why_it_failed(tracker: Tracker, op: Operator, error: Exception) -> str:
    """Why a rule that failed with ``error`` says nothing of an operator: what is frozen is told so.

    Raises:
        Exception: ``error`` itself, where it is ours and ``CONET_GRAPH_RAISE`` is set.

    """
    if _names_no_axis(tracker, op) or contradicts_itself(tracker.graph, op):
        return CONTRADICTION
    if os.environ.get(RAISING):
        raise error
    import logging  # it takes a while, and is seldom needed

    what = f"{type(error).__name__}: {error}"
    logging.getLogger("conet_graph").error(
        "conet-graph: the rule of %s fails at node %s (%s). This is a fault of conet-graph, please report it;"
        " what the node touches keeps its channels.",
        op.op_type,
        shown(op.name),
        shown(what, 200),
    )
    return OUR_FAULT


def _names_no_axis(tracker: Tracker, op: Operator) -> bool:
    """Whether an attribute names an axis beyond the rank of the first input, as onnx lets some do."""
    value, axis, order = op.input(0), op.attr("axis"), op.attr("perm")
    if not (value in tracker.values or tracker.is_constant(value)):
        return False
    rank = tracker.rank(value)
    if isinstance(order, list) and sorted(order) != list(range(rank)):
        return True
    return isinstance(axis, int) and not -rank <= axis <= rank


def contradicts_itself(graph: Graph, op: Operator) -> bool:
    """Whether strict shape inference of the node alone, by onnx, fails."""
    body = onnx.GraphProto(name="one_node", node=[op.proto])
    for name in dict.fromkeys(n for n in op.inputs if n):
        constant = graph.constants.get(name)
        if constant is not None and constant.size <= LARGEST_SHOWN:
            body.initializer.append(onnx.numpy_helper.from_array(graph.array(name), name))
            continue
        kind = constant.tensor.data_type if constant is not None else graph.dtypes.get(name)
        shape = graph.shape(name)
        if kind is None:
            return False
        dims = None if shape is None else [d if isinstance(d, (int, str)) else None for d in shape]
        body.input.append(onnx.helper.make_tensor_value_info(name, kind, dims))
    body.output.extend(onnx.ValueInfoProto(name=name) for name in op.outputs if name)
    imports = list(graph.skeleton.opset_import)
    model = onnx.ModelProto(ir_version=graph.skeleton.ir_version, graph=body, opset_import=imports)
    try:
        infer(model, strict=True)
    except Exception:
        return True
    return False
