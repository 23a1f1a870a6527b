"""Small networks in ONNX's textual form, with weights of one's own, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from conet_graph.ir.load import LoadedModel

Array = NDArray[Any]


def network(body: str, weights: Mapping[str, Array], opset: int = 17) -> LoadedModel:
    """A model of a graph in textual form; initializers are ``weights``."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}'
    model = parser.parse_model(text)
    for name, array in weights.items():
        kept = array.dtype.kind in "iu" or array.dtype.itemsize == 2
        array = array if kept else array.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return LoadedModel(model)


def answers(model: LoadedModel, **inputs: Array) -> list[Array]:
    """The outputs of a model."""
    session = ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, inputs)
    return found
