"""Operators entered into the code for a batch of images, so that each comes out as it does alone.

Three ways, the first that is there: a *writer* for operators whose literals count the images, a *rule* that
says how the images have to lie for the operator to take all at once, and else the operator computed for each
image by itself (``torch.vmap``). What does not depend on the inputs is shared by all images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx

from conet_graph.bridge.batch import axes, images, positions
from conet_graph.bridge.batch.held import OWN, Held, along, apart, for_all, in_row
from conet_graph.bridge.batch.seen import Direct, Seen
from conet_graph.bridge.batch.shapes import WRITERS
from conet_graph.bridge.builder import Builder
from conet_graph.bridge.site import Converted, Site
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import gathered

RULES = gathered(family.RULES for family in (axes, images, positions))
Convert = Callable[[Site], Converted]


@dataclass
class Batching:
    """Enters operators into ``builder``'s code.

    ``held`` says how each value holds the images; it begins with the inputs. ``whole`` becomes true when the
    code takes images apart: then only whole multiples of the file's batch can be given.
    """

    builder: Builder
    held: dict[str, Held]
    whole: bool = False
    _moved: dict[tuple[str, Held], fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Remember an input that tells how many images there are."""
        name, held = next(iter(self.held.items()))
        self._counter = self.builder.value(name), (held.axis or 0, held.length)

    def enter(self, op: Operator, convert: Convert) -> None:
        """Enter an operator's outputs into the code, and how they hold the images."""
        key = op.domain, op.op_type
        writer = WRITERS.get(key)
        written = writer(self, Site(self.builder, op)) if writer is not None else None
        if written is not None:
            self._keep(op.outputs[0], *written)
            return
        seen = Seen(self.builder.graph, op, self.held)
        if not seen.batched():
            self._enter(op, convert(Site(self.builder, op)), None)
            return
        rule = RULES.get(key)
        direct = rule(seen) if rule is not None else None
        if direct is None or not self._agrees(op, direct):
            direct = Direct(dict.fromkeys(seen.batched(), OWN), OWN)
            self.whole = True
            made = self._converted(op, direct, convert, apart=True)
        else:
            made = self._converted(op, direct, convert, apart=False)
        self._enter(op, made, direct.outputs)

    def _agrees(self, op: Operator, direct: Direct) -> bool:
        """Whether a value that the operator reads twice is wanted in one form."""
        forms: dict[str, set[Held | None]] = {}
        for slot, name in enumerate(op.inputs):
            forms.setdefault(name, set()).add(direct.inputs.get(slot))
        return all(len(found) == 1 for found in forms.values())

    def _converted(self, op: Operator, direct: Direct, convert: Convert, *, apart: bool) -> Converted:
        """The operator, reading its inputs as they have to lie."""
        wanted = {op.input(slot): self.moved(op.input(slot), held) for slot, held in direct.inputs.items()}
        before = {name: self.builder.values.get(name) for name in wanted}
        self.builder.values.update(wanted)
        try:
            return convert(Site(self.builder, op, set(wanted.values()) if apart else None))
        finally:
            for name, node in before.items():
                if node is None:
                    del self.builder.values[name]
                else:
                    self.builder.values[name] = node

    def _enter(self, op: Operator, made: Converted, held: Held | tuple[Held, ...] | None) -> None:
        parts = made if isinstance(made, tuple) else (made,)
        for number, (name, part) in enumerate(zip(op.outputs, parts, strict=False)):
            if name and part is not None:
                self._keep(name, part, held[number] if isinstance(held, tuple) else held)

    def _keep(self, name: str, node: fx.Node, held: Held | None) -> None:
        """Enter a value; images on an axis of their own go along the first one, where its length is known."""
        shape = self.builder.graph.shape(name)
        if held == OWN and shape and isinstance(shape[0], int) and shape[0] > 0:
            node, held = self.builder.code.call_function(in_row, (node, 0)), Held(0, shape[0])
        self.builder.values[name] = node
        if held is not None:
            self.held[name] = held

    def moved(self, name: str, wanted: Held) -> fx.Node:
        """A value with its images where they are wanted; what all images share is repeated for each."""
        held, node = self.held.get(name), self.builder.value(name)
        if held == wanted:
            return node
        if (name, wanted) not in self._moved:
            self._moved[name, wanted] = self._move(node, held, wanted)
        return self._moved[name, wanted]

    def _move(self, node: fx.Node, held: Held | None, wanted: Held) -> fx.Node:
        call = self.builder.code.call_function
        self.whole = True
        if held is None:
            return self.for_all(node, wanted)
        if held.axis is None:
            return call(in_row, (node, wanted.axis))
        if wanted.axis is None:
            return call(apart, (node, held.axis, held.length))
        return call(along, (node, (held.axis, held.length), wanted.axis))

    def for_all(self, node: fx.Node, wanted: Held) -> fx.Node:
        """What all images share, once for each."""
        self.whole = True
        return self.builder.code.call_function(for_all, (node, *self._counter, wanted.axis))
