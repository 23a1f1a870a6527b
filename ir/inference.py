"""ONNX's shape inference, kept from taking the whole process with it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import onnx
from onnx import shape_inference

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.graph import bodies

# Operators whose inference aborts the process, as the Linux builds of onnx assert bounds in C++: Slice of
# a negative size (of a window larger than what it moves over, say), Split with more outputs than it says.
ABORTING = frozenset({"Slice", "Split"})
_DONE, _FAILED = b"d", b"f"


def infer(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto:
    """Shape inference with data propagation; ``strict`` checks types and raises on the first fault.

    Raises:
        InvalidModel: onnx's inference crashes on the model.
        Exception: whatever it raises (InferenceError, mostly).

    """
    if sys.platform.startswith("linux") and any(node.op_type in ABORTING for node in _nodes(model)):
        return _in_child(model, strict)
    return _infer(model, strict)


def _infer(model: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            yield node
            pending.extend(bodies(node))


def _in_child(model: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    """The same in a forked process, which may crash."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # The child calls onnx's inference and nothing else, so other threads' locks do not matter.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(model, strict, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if answer.startswith(_DONE):
        found: onnx.ModelProto = onnx.ModelProto.FromString(answer[1:])
        return found
    if answer.startswith(_FAILED):
        raise shape_inference.InferenceError(answer[1:].decode("utf-8", "replace"))
    raise InvalidModel(
        "The shapes of the network cannot be inferred, onnx itself crashes on it:"
        " a size in it is negative, or numbers in it contradict each other."
    )


def _answer(model: onnx.ModelProto, strict: bool, writing: int) -> None:
    """The child: write what inference says, and end."""
    try:
        faulthandler.disable()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the assertion's text would go
        try:
            answer = _DONE + _infer(model, strict).SerializeToString()
        except Exception as error:
            answer = _FAILED + str(error).encode("utf-8", "replace")
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)
