"""conet-graph: find, change and search the channel sizes of any ONNX CNN.

    import conet_graph as cg
    model = cg.load("model.onnx")
    analysis = cg.analyze(model)

Names are imported when they are first used: ``import conet_graph`` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conet_graph.analysis import analyze
    from conet_graph.ir.load import load_model as load
    from conet_graph.ir.save import save_model as save

# Public name -> where it lives: module, name there.
_PUBLIC = {
    "analyze": ("conet_graph.analysis", "analyze"),
    "load": ("conet_graph.ir.load", "load_model"),
    "save": ("conet_graph.ir.save", "save_model"),
}

__all__ = ["analyze", "load", "save"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'conet_graph' has no attribute {name!r}")
    module, there = _PUBLIC[name]
    found = getattr(importlib.import_module(module), there)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
