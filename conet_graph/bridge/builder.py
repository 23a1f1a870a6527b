"""The module under construction: code, parameters, and which constant of the file is which of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx, nn

from conet_graph.bridge.preparation import preparing_constants
from conet_graph.ir.graph import Graph

# Constants of so many numbers at most stand for settings, not for something learned.
SCALAR = 1


class Weights(nn.Module):
    """Parameters and constants that belong to no module of their own."""


@dataclass
class Builder:
    """Collects a network's code and parameters.

    ``paths`` maps a constant of the graph to the module's parameter or buffer that holds it.
    """

    graph: Graph
    root: nn.Module = field(default_factory=nn.Module)
    code: fx.Graph = field(default_factory=fx.Graph)
    paths: dict[str, str] = field(default_factory=dict)
    values: dict[str, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give loose parameters their place, and see which constants are none."""
        self.settings = preparing_constants(self.graph)
        self.root.add_module("weights", Weights())

    def value(self, name: str) -> fx.Node:
        """A value of the graph in the generated code; constants are entered at their first use."""
        if name not in self.values:
            self.values[name] = self.code.get_attr(self._place(name))
        return self.values[name]

    def add_module(self, name: str, module: nn.Module, constants: Mapping[str, str]) -> str:
        """Put a module under a name made of the operator's, and its constants into it.

        Args:
            name: the operator's.
            module: with a parameter or a buffer for each constant.
            constants: name of the parameter or buffer -> constant of the graph. A constant that is
                held elsewhere already is tied: both hold the same parameter.

        """
        path = self._free(name)
        self.root.add_module(path, module)
        for attribute, constant in constants.items():
            inner, _, key = attribute.rpartition(".")
            holder = module.get_submodule(inner)
            if isinstance(getattr(holder, key), nn.Parameter):
                holder.register_parameter(key, self._parameter(constant))
            else:
                holder.register_buffer(key, self._tensor(constant))
            self.paths.setdefault(constant, f"{path}.{attribute}")
        return path

    def _parameter(self, name: str) -> nn.Parameter:
        if name in self.paths:
            return self.root.get_parameter(self.paths[name])
        return nn.Parameter(self._tensor(name))

    def _tensor(self, name: str) -> torch.Tensor:
        array = self.graph.array(name)
        if array.dtype.kind == "V" or array.dtype.name in ("float16", "bfloat16"):
            array = array.astype(np.float32)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))

    def _place(self, name: str) -> str:
        """The path of a constant that code reads directly."""
        if name not in self.paths:
            weights = self.root.get_submodule("weights")
            key, tensor = self._free(name, weights), self._tensor(name)
            learned = tensor.is_floating_point() and tensor.numel() > SCALAR and name not in self.settings
            if learned:
                weights.register_parameter(key, nn.Parameter(tensor))
            else:
                weights.register_buffer(key, tensor)
            self.paths[name] = f"weights.{key}"
        return self.paths[name]

    def _free(self, name: str, within: nn.Module | None = None) -> str:
        """A Python name made of an ONNX name, not taken yet."""
        inside = self.root if within is None else within
        base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "value"
        base = base if base[0].isalpha() else f"_{base}"
        path, number = base, 2
        while hasattr(inside, path):
            path, number = f"{base}_{number}", number + 1
        return path
