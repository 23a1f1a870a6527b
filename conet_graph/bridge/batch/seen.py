"""What a rule sees of an operator whose inputs hold images, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from conet_graph.bridge.batch.held import Held
from conet_graph.ir.graph import Graph, Operator, Shape


class Direct(NamedTuple):
    """The operator can be computed on all images at once, as it stands.

    ``inputs`` says, by slot, how the images have to lie there; slots that are not named stay shared by
    all images. ``outputs`` says how they lie in each output (in all of them, where it is one).
    """

    inputs: dict[int, Held]
    outputs: Held | tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One operator; ``held`` names the values that hold images, shapes are the file's."""

    graph: Graph
    op: Operator
    held: Mapping[str, Held]

    def at(self, slot: int) -> Held | None:
        """How an input holds the images; None where all images share it."""
        return self.held.get(self.op.input(slot))

    def slots(self) -> list[int]:
        """The inputs that are there."""
        return [k for k, name in enumerate(self.op.inputs) if name]

    def batched(self) -> list[int]:
        """The inputs that hold images."""
        return [k for k in self.slots() if self.at(k) is not None]

    def shape(self, slot: int) -> Shape | None:
        """The shape of an input in the file."""
        return self.graph.shape(self.op.input(slot))

    def rank(self, slot: int) -> int | None:
        """How many axes an input has in the file."""
        shape = self.shape(slot)
        return None if shape is None else len(shape)

    def length(self, slot: int, axis: int) -> int | None:
        """How long an axis of an input is in the file, if that is known."""
        shape = self.shape(slot)
        if shape is None or not 0 <= axis < len(shape):
            return None
        dim = shape[axis]
        return dim if isinstance(dim, int) and dim > 0 else None

    def numbers(self, slot: int, attribute: str | None = None) -> list[int] | None:
        """Whole numbers that a constant input or an attribute gives; None where they are not known."""
        name = self.op.input(slot)
        if name:
            constant = self.graph.constants.get(name)
            if constant is None:
                return None
            array: np.ndarray[Any, Any] = self.graph.array(name)
            return [int(n) for n in array.reshape(-1)]
        value = self.op.attr(attribute) if attribute else None
        return None if value is None else [int(n) for n in np.atleast_1d(value)]

    def read(self, number: int) -> bool:
        """Whether anything reads an output."""
        outputs = self.op.outputs
        name = outputs[number] if number < len(outputs) else ""
        return bool(name) and (name in self.graph.consumers or name in self.graph.outputs)

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, or ``default``."""
        return self.op.attr(name, default)


Rule = Callable[[Seen], Direct | None]
Rules = dict[tuple[str, str], Rule]
