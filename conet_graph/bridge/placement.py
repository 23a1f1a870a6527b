"""Where values live: sizes and what is computed from them on the processor, all else on the module's device.

Sizes that a graph computes end in Python numbers: on a GPU each would make the processor wait for it. PyTorch
does not mix the two places, so what was made on the processor and meets data is brought to them.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from conet_graph.bridge.batch.each_image import EachImage
from conet_graph.bridge.batch.shapes import shape_of_each, size_of_each
from conet_graph.bridge.converters.reshape import shape_of, size_of
from conet_graph.bridge.reading import READ_SIZES

# Made of Python numbers.
_MADE_HERE = (shape_of, shape_of_each, size_of, size_of_each, torch.full)
# Constants of more numbers are data.
_MOST_NUMBERS = 1024


def on_the_device_of(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The value on the device of another."""
    return value.to(other.device)


def numbers(values: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor on the processor."""
    return torch.tensor(values, dtype=dtype).reshape(shape)


def place_values(root: nn.Module, code: fx.Graph) -> None:
    """Change the code so that every operation has its tensors in one place.

    All that the module holds moves with it. A small constant that takes part in the arithmetic of sizes
    is written into the code there.
    """
    placing = _Placing(root, code)
    for node in list(code.nodes):
        if node.op in ("call_function", "call_method", "call_module"):
            placing.look_at(node)


class _Placing:
    """Goes through the code once; ``here`` are the nodes whose values are on the processor."""

    def __init__(self, root: nn.Module, code: fx.Graph) -> None:
        self.root = root
        self.code = code
        self.here: set[fx.Node] = set()
        self.written: dict[fx.Node, fx.Node] = {}
        self.buffers = dict(root.named_buffers())
        # One tensor of each operator's module that holds any.
        self.tensors = {
            path.partition(".")[0]: path for path in (*self.buffers, *dict(root.named_parameters()))
        }

    def look_at(self, node: fx.Node) -> None:
        """Give a call its tensors in one place."""
        first = READ_SIZES.get(self._function(node))
        if node.target in _MADE_HERE:
            self.here.add(node)
        elif first is not None:
            for given in node.all_input_nodes[first:]:
                if self._is_small_constant(given):
                    node.replace_input_with(given, self._written(given))
            if node.all_input_nodes[0] in self.here:
                self.here.add(node)
        elif self._is_arithmetic_of_sizes(node):
            for given in node.all_input_nodes:
                if given not in self.here:
                    node.replace_input_with(given, self._written(given))
            self.here.add(node)
        else:
            self._bring_inputs(node)

    def _function(self, node: fx.Node) -> object:
        """What a call computes; for each image by itself, maybe."""
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        return module.function if isinstance(module, EachImage) else node.target

    def _is_small_constant(self, node: fx.Node) -> bool:
        """Whether it is a constant of few numbers, or one number, and nothing learned."""
        held = self.buffers.get(str(node.target)) if node.op == "get_attr" else None
        if held is None or not str(node.target).startswith("weights."):
            return False
        return held.numel() <= (1 if held.is_floating_point() else _MOST_NUMBERS)

    def _is_arithmetic_of_sizes(self, node: fx.Node) -> bool:
        given = node.all_input_nodes
        if node.op == "call_module" and node.target in self.tensors:
            return False
        return not self.here.isdisjoint(given) and all(
            g in self.here or self._is_small_constant(g) for g in given
        )

    def _written(self, constant: fx.Node) -> fx.Node:
        """The constant as numbers in the code."""
        if constant not in self.written:
            held = self.buffers[str(constant.target)]
            with self.code.inserting_after(constant):
                node = self.code.call_function(
                    numbers, (tuple(held.reshape(-1).tolist()), tuple(held.shape), held.dtype)
                )
            self.written[constant] = node
            self.here.add(node)
        return self.written[constant]

    def _bring_inputs(self, node: fx.Node) -> None:
        away = [given for given in node.all_input_nodes if given not in self.here]
        for given in (g for g in node.all_input_nodes if g in self.here):
            with self.code.inserting_before(node):
                other = away[0] if away else self.code.get_attr(self.tensors[str(node.target)])
                node.replace_input_with(given, self.code.call_function(on_the_device_of, (given, other)))
