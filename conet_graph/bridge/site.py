"""What a converter sees of one operator, and how it writes the operator's meaning in PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from conet_graph.bridge.batch.each_image import each_image
from conet_graph.ir.graph import Operator, Shape

if TYPE_CHECKING:
    from conet_graph.bridge.builder import Builder

Argument = Any  # an fx.Node, or a Python value that stands in the generated code
Converted = fx.Node | tuple[fx.Node | None, ...]


class NotConverted(Exception):
    """Why an operator has no form in PyTorch: a phrase that goes on after the operator's name."""


class Site:
    """One operator on its way to PyTorch."""

    def __init__(self, builder: Builder, op: Operator, apart: set[fx.Node] | None = None) -> None:
        """Look at ``op`` for ``builder``.

        ``apart`` are values that hold images along an axis of their own, in front of the file's axes;
        then all that is computed of them is computed for each image by itself.
        """
        self.builder = builder
        self.op = op
        self.version = op.version
        self.apart = apart or set()

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, or ``default``."""
        return self.op.attr(name, default)

    def has(self, slot: int) -> bool:
        """Whether an input is there."""
        return self.op.input(slot) != ""

    def x(self, slot: int) -> Any:
        """An input as the generated code has it; None where it is absent."""
        name = self.op.input(slot)
        return self.builder.value(name) if name else None

    def uses(self, number: int) -> bool:
        """Whether anything reads an output of the operator."""
        graph, outputs = self.builder.graph, self.op.outputs
        name = outputs[number] if number < len(outputs) else ""
        return name in graph.consumers or name in graph.outputs or name in graph.captured

    def inputs(self) -> list[Any]:
        """All inputs that are there."""
        return [self.builder.value(name) for name in self.op.inputs if name]

    def is_constant(self, slot: int) -> bool:
        """Whether the file holds an input's value."""
        return self.op.input(slot) in self.builder.graph.constants

    def array(self, slot: int) -> np.ndarray[Any, Any] | None:
        """The value of an input that the file holds; None for others."""
        return self.builder.graph.array(self.op.input(slot)) if self.is_constant(slot) else None

    def numbers(self, slot: int, attribute: str | None = None) -> list[Any] | None:
        """A list of numbers given by an input or, in older versions, by an attribute.

        None where neither is there.

        Raises:
            NotConverted: the input is computed in the graph.

        """
        if self.has(slot):
            array = self.array(slot)
            if array is None:
                raise NotConverted(f"needs its input {slot} to be a constant")
            listed: list[Any] = array.reshape(-1).tolist()
            return listed
        value = self.attr(attribute) if attribute else None
        return None if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    def shape(self, slot: int) -> Shape | None:
        """The shape of an input, as far as it is known."""
        return self.builder.graph.shape(self.op.input(slot))

    def rank(self, slot: int = 0) -> int:
        """How many axes an input has.

        Raises:
            NotConverted: shape inference does not know.

        """
        shape = self.shape(slot)
        if shape is None:
            raise NotConverted("has an input of unknown rank")
        return len(shape)

    def call(self, function: Callable[..., Any], *args: Argument, **kwargs: Argument) -> fx.Node:
        """Write a call of a function."""
        if self._looks_at_images(args, kwargs):
            return self._call_each(function, args, kwargs)
        return self.builder.code.call_function(function, args, kwargs)

    def parts(self, made: fx.Node) -> tuple[fx.Node | None, ...]:
        """The outputs of a call that returns a tuple, for those outputs that the operator has."""
        code = self.builder.code
        return tuple(
            code.call_function(operator.getitem, (made, k)) if name else None
            for k, name in enumerate(self.op.outputs)
        )

    def module(self, module: nn.Module, *args: Argument, **slots: int) -> fx.Node:
        """Write a call of a module, named after the operator.

        Args:
            module: with parameters or buffers of the right kind, whose values are replaced.
            args: of the call.
            slots: parameter or buffer -> the operator's input that it holds, a constant.

        """
        constants = {attribute: self.op.input(slot) for attribute, slot in slots.items()}
        if self._looks_at_images(args, {}):
            return self._call_each(module, args, {}, constants)
        return self.builder.code.call_module(self.builder.add_module(self.op.name, module, constants), args)

    def _looks_at_images(self, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> bool:
        found: list[fx.Node] = []
        fx.map_arg((args, dict(kwargs)), found.append)
        return not self.apart.isdisjoint(found)

    def _call_each(
        self,
        function: Callable[..., Any],
        args: tuple[Argument, ...],
        kwargs: Mapping[str, Argument],
        constants: Mapping[str, str] | None = None,
    ) -> fx.Node:
        """Write a call for each image by itself; ``constants`` are those that a module holds."""
        each, nodes = each_image(function, args, kwargs, self.apart)
        inside = {f"function.{attribute}": name for attribute, name in (constants or {}).items()}
        made = self.builder.code.call_module(self.builder.add_module(self.op.name, each, inside), nodes)
        self.apart.add(made)
        return made


_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # float16
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.float32,  # bfloat16
}


def torch_dtype(onnx_type: int) -> torch.dtype:
    """PyTorch's name of an ONNX element type (TensorProto.DataType); half floats become float32.

    Raises:
        NotConverted: it has none.

    """
    if onnx_type not in _DTYPES:
        raise NotConverted(f"uses the element type {onnx_type}")
    return _DTYPES[onnx_type]
