"""conet-graph: find, change and search the channel sizes of any ONNX CNN.

    import conet_graph as cg
    model = cg.load("model.onnx")
    analysis = cg.analyze(model)
    slim = cg.rewrite(model, cg.plan(model, macs=0.5))
    cg.save(slim, "slim.onnx")
    net = cg.to_torch(slim)

Names are imported when they are first used: ``import conet_graph`` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conet_graph.analysis.analysis import analyze
    from conet_graph.bridge.network import from_torch, to_torch
    from conet_graph.ir.check import load
    from conet_graph.rewriting.rewriting import compare_models as verify
    from conet_graph.rewriting.rewriting import plan, rewrite, save

# Public name -> where it lives: module, name there.
_PUBLIC = {
    "analyze": ("conet_graph.analysis.analysis", "analyze"),
    "from_torch": ("conet_graph.bridge.network", "from_torch"),
    "load": ("conet_graph.ir.check", "load"),
    "plan": ("conet_graph.rewriting.rewriting", "plan"),
    "rewrite": ("conet_graph.rewriting.rewriting", "rewrite"),
    "save": ("conet_graph.rewriting.rewriting", "save"),
    "to_torch": ("conet_graph.bridge.network", "to_torch"),
    "verify": ("conet_graph.rewriting.rewriting", "compare_models"),
}

__all__ = ["analyze", "from_torch", "load", "plan", "rewrite", "save", "to_torch", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'conet_graph' has no attribute {name!r}")
    module, there = _PUBLIC[name]
    found = getattr(importlib.import_module(module), there)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
