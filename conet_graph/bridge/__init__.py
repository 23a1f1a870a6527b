"""The way to PyTorch and back: an ONNX network as a module that trains, its weights in the graph again."""

from __future__ import annotations

from conet_graph.bridge.batch.report import Batches, BatchWarning, batches
from conet_graph.bridge.network import from_torch, to_torch, trainable, weights_by_name

__all__ = ["BatchWarning", "Batches", "batches", "from_torch", "to_torch", "trainable", "weights_by_name"]
