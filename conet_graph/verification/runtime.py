"""ONNX Runtime, as verification uses it: quiet, and operator by operator where two networks are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUNTIME = "ONNX Runtime"


def first_line(error: BaseException) -> str:
    """What an error says, shortened to a line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def open_session(path: Path, provider: str = "CPUExecutionProvider", *, fused: bool) -> Any:
    """A quiet ONNX Runtime session; not ``fused``, it computes operator by operator.

    Fusions round differently in two networks that should be equal. Idle threads sleep: spinning they would
    take time from those that work, and from whatever else runs.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=[provider])


def lacks_an_operator(error: Exception) -> bool:
    """Whether ONNX Runtime refuses a model only because it does not know an operator, type or opset of it.

    Such a model may be meant for another runtime; whatever else ONNX Runtime says is wrong with the model.
    """
    told = str(error)
    return any(
        phrase in told
        for phrase in ("NOT_IMPLEMENTED", "is not a registered function/op", "is under development")
    )
