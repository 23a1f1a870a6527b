"""A network in PyTorch beside the same network in ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from conet_graph.bridge import to_torch
from conet_graph.ir.load import LoadedModel

# Where there is a GPU, the converters are tested on it.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def in_runtime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
    """What ONNX Runtime gives, without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, dict(feeds))
    return found


def tensors(feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[torch.Tensor]:
    """Arguments of a module: half floats come as float32."""
    made = [torch.from_numpy(np.array(a)) for a in feeds.values()]
    return [a.float() if a.dtype == torch.float16 else a for a in made]


def in_torch(module: nn.Module, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
    """What the module gives, in evaluation mode; in full float32, and the module stays where it was."""
    there = copy.deepcopy(module).eval().to(DEVICE)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        made = there(*[a.to(DEVICE) for a in tensors(feeds)])
    return [m.detach().cpu().numpy() for m in (made if isinstance(made, tuple) else (made,))]


def largest_difference(ours: list[Any], theirs: list[Any]) -> float:
    """Of all outputs, over the largest magnitude of each; shapes must agree."""
    assert len(ours) == len(theirs)
    worst = 0.0
    for got, want in zip(ours, theirs, strict=True):
        assert got.shape == want.shape, (got.shape, want.shape)
        if want.size:
            magnitude = max(float(np.nanmax(np.abs(want.astype(np.float64)), initial=0.0)), 1e-6)
            off = np.abs(got.astype(np.float64) - want.astype(np.float64))
            assert np.array_equal(np.isnan(got), np.isnan(want))
            worst = max(worst, float(np.nanmax(off, initial=0.0)) / magnitude)
    return worst


def difference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> float:
    """The largest relative difference between PyTorch and ONNX Runtime; ``feeds`` in the graph's order."""
    module = to_torch(LoadedModel(onnx.ModelProto.FromString(model.SerializeToString())))
    return largest_difference(in_torch(module, feeds), in_runtime(model, feeds))
