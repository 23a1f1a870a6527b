"""A function computed for each image by itself, for all images of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from conet_graph.bridge.reading import READ_NUMBERS
from conet_graph.ir.errors import BadUsage


class ImagePlace(NamedTuple):
    """Stands for the number-th tensor in the arguments of a function."""

    number: int


class EachImage(nn.Module):
    """Computes what a function gives for each image alone; images are along the first axis."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        own: tuple[bool, ...],
    ) -> None:
        """Wrap a function.

        Args:
            function: what is computed, or a module.
            args: its arguments, with a ``ImagePlace`` for every tensor.
            kwargs: its named arguments, likewise.
            own: for each tensor whether the images have an axis of their own there; the others are
                shared by all images.

        """
        super().__init__()
        self.function = function
        self.arguments = args, dict(kwargs)
        self.own = own

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The function's results, images along the first axis."""
        count = next(len(t) for t, own in zip(tensors, self.own, strict=True) if own)
        if count == 1 or self._reads_images():
            return self._one_by_one(count, tensors)
        axes = tuple(0 if own else None for own in self.own)
        return torch.vmap(self._alone, in_dims=axes, randomness="different")(*tensors)

    def _reads_images(self) -> bool:
        """Whether it reads numbers that differ from image to image."""
        first = READ_NUMBERS.get(self.function)
        return first is not None and any(self.own[first:])

    def _alone(self, *tensors: torch.Tensor) -> Any:
        def filled_in(leaf: Any) -> Any:
            return tensors[leaf.number] if isinstance(leaf, ImagePlace) else leaf

        args, kwargs = (_replaced(given, filled_in) for given in self.arguments)
        made = self.function(*args, **kwargs)
        return tuple(made) if isinstance(made, (tuple, list)) else made

    def _one_by_one(self, count: int, tensors: tuple[torch.Tensor, ...]) -> Any:
        made = [
            self._alone(*(t[k] if own else t for t, own in zip(tensors, self.own, strict=True)))
            for k in range(count)
        ]
        if isinstance(made[0], tuple):
            return tuple(_stacked(part) for part in zip(*made, strict=True))
        return _stacked(made)


def _stacked(images: Any) -> torch.Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise BadUsage(
            "The images of this batch give values of different shapes "
            f"({' and '.join(map(str, sorted(shapes)[:2]))}): give this network one image at a time."
        )
    return torch.stack(list(images))


def _replaced(given: Any, function: Callable[[Any], Any]) -> Any:
    """The arguments with each leaf replaced; a ``ImagePlace`` is a leaf, though it is a tuple."""
    if isinstance(given, ImagePlace):
        return function(given)
    if isinstance(given, dict):
        return {k: _replaced(v, function) for k, v in given.items()}
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return type(given)(*(_replaced(v, function) for v in given))
    if isinstance(given, (tuple, list)):
        return type(given)(_replaced(v, function) for v in given)
    return function(given)


def each_image(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], own: set[fx.Node]
) -> tuple[EachImage, tuple[fx.Node, ...]]:
    """A call's module, and the nodes that are its arguments.

    Args:
        function: the one called.
        args: with nodes of the generated code among them, at any depth.
        kwargs: likewise.
        own: the nodes whose images have an axis of their own.

    """
    nodes: list[fx.Node] = []

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            return leaf
        if leaf not in nodes:
            nodes.append(leaf)
        return ImagePlace(nodes.index(leaf))

    places = map_aggregate(tuple(args), place), map_aggregate(dict(kwargs), place)
    return EachImage(function, *places, tuple(n in own for n in nodes)), tuple(nodes)
