"""ONNX Runtime, as verification uses it: quiet, and operator by operator where two networks are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

RUNTIME = "ONNX Runtime"


def first_line(error: BaseException) -> str:
    """What an error says, shortened to a line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def open_session(
    model: Path | onnx.ModelProto,
    provider: str = "CPUExecutionProvider",
    *,
    fused: bool,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    """A quiet ONNX Runtime session of a file, or of a model that is held in memory.

    Such a model may refer to ``weights`` as if they lay outside: ONNX Runtime copies them while it loads the
    model (its documentation of AddExternalInitializers). Not ``fused``, it computes operator by operator:
    fusions round differently in two networks that should be equal. Idle threads sleep: spinning they would
    take time from those that work, and from whatever else runs.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if isinstance(model, Path):
        return ort.InferenceSession(str(model), options, providers=[provider])
    held = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (weights or {}).items()}
    options.add_external_initializers(list(held), list(held.values()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=[provider])


def lacks_an_operator(error: Exception) -> bool:
    """Whether ONNX Runtime refuses a model only because it does not know an operator, type or opset of it.

    Such a model may be meant for another runtime; whatever else ONNX Runtime says is wrong with the model.
    """
    told = str(error)
    return any(
        phrase in told
        for phrase in ("NOT_IMPLEMENTED", "is not a registered function/op", "is under development")
    )
