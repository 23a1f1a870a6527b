"""The way to PyTorch and back: an ONNX network as a module that trains, its weights in the graph again."""

from __future__ import annotations

from conet_graph.bridge.network import from_torch, to_torch, weights_by_name

__all__ = ["from_torch", "to_torch", "weights_by_name"]
