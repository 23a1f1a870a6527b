"""ONNX's shape inference, kept from taking the whole process with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import onnx
from onnx import shape_inference

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.forked import Crashed, FailedInChild, in_child
from conet_graph.ir.graph import WITH_BODIES, bodies

# Operators whose inference aborts the process, as the Linux builds of onnx assert bounds in C++: Slice of
# a negative size (of a window larger than what it moves over, say), Split with more outputs than it says.
ABORTING = frozenset({"Slice", "Split"})


def infer(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """Shape inference with data propagation; ``strict`` checks types and raises on the first fault.

    Raises:
        InvalidModel: onnx's inference crashes on the model.
        Exception: whatever it raises (InferenceError, mostly).

    """
    if sys.platform.startswith("linux") and not ABORTING.isdisjoint(_operators(model)):
        return _in_child(model, strict)
    return _infer(model, strict)


def _infer(model: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            yield (kind := node.op_type)
            if kind in WITH_BODIES:
                pending.extend(bodies(node))


def _in_child(model: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    """The same in a process that may crash; it calls onnx alone, so other threads' locks do not matter."""
    try:
        answer = in_child(lambda: _infer(model, strict).SerializeToString())
    except FailedInChild as error:
        raise shape_inference.InferenceError(error.text) from None
    except Crashed:
        raise InvalidModel(
            "The shapes of the network cannot be inferred, onnx itself crashes on it:"
            " a size in it is negative, or numbers in it contradict each other."
        ) from None
    found: onnx.ModelProto = onnx.ModelProto.FromString(answer)
    return found
