"""Units: one integer for one channel of one axis, the equations between them, and the one solve.

A rule describes an operator by what it does to *axes*. An axis is an array of unit ids, one a position, or a
single int: a unit, always a frozen one, that stands for every position of an axis that carries no channels.
The same rules run twice: over a network as it is (``Units``, which collects equations), and over its new
widths (``passes.relabel.Labels``, which carries "copy k of class c" in place of unit ids).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Dim, Graph, Operator, ShapeNumber, literals
from conet_graph.ir.operators import PRODUCTS, WEIGHTED
from conet_graph.passes.channels.components import components

# The strength of a reason to freeze channels that nothing lifts.
STRONGEST = 3
# An equation with more positions is looked through for repetitions.
LONG = 4096

Ids = NDArray[np.int64]
Axis = Ids | int

# Why an operator says nothing whose file gives it an axis beyond the rank, a step of zero and the like.
CONTRADICTION = "its inputs and attributes contradict each other"
# An axis with more positions than this carries no channels; a file may claim any size.
LONGEST_AXIS = 2**22
# Positions of all axes together: operators that double what they read say much with few bytes.
MOST_POSITIONS = 2**23


class NoRule(Exception):
    """A rule cannot describe this operator; what it touches is frozen for the reason given."""


@dataclass(frozen=True)
class Packed:
    """Channels merged with pixels or with images, of which there may be any number.

    Each of ``units`` stands for ``each`` positions side by side, and all of them ``times`` over; None where
    only the run knows. ``length`` is the number of units in the file as it is.
    """

    units: Ids
    length: int
    each: int | None = 1
    times: int | None = 1

    @property
    def size(self) -> int | None:
        """Number of positions at the widths of ``units``."""
        if self.each is None or self.times is None:
            return None
        return len(self.units) * self.each * self.times


def _is_shifted(left: Ids, right: Ids) -> bool:
    """Whether one axis holds the other's channels, each one position further on."""
    if len(left) < 2 or left[0] == right[0] or (left[1] != right[0] and left[0] != right[1]):
        return False
    return bool((left[1:] == right[:-1]).all() or (left[:-1] == right[1:]).all())


def _is_weight_of(op: Operator, slot: int) -> bool:
    """Whether an operator reads its weight at a slot; of a product's two inputs each may be it."""
    facts = WEIGHTED.get(op.op_type)
    either = op.op_type in PRODUCTS or op.op_type == "Einsum"
    return facts is not None and slot in ((0, 1) if either else (facts.weight,))


def length_of(axis: Axis | Packed | None) -> int | None:
    """Number of positions of an axis; None where it carries no channels, or where only the run knows."""
    if axis is None or isinstance(axis, int):
        return None
    return axis.size if isinstance(axis, Packed) else len(axis)


def beside(axis: int) -> int:
    """The key, beside an axis of a value, of the positions that an operator adds to it; and back."""
    return -1 - axis


class Tracker:
    """What the rules see: the axes of values, and the ways to relate them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[str, list[Axis]] = {}
        self.packed: dict[tuple[str, int], Packed] = {}
        self.read: set[str] = set()  # values whose axes were asked for since it was last emptied
        self.positions = 0
        self._counted: dict[int, Ids] = {}
        self.stored: dict[tuple[str, int], Axis] = {}
        self.choices: dict[tuple[int, int], int] = {}
        self.votes: dict[str, dict[int, int]] = {}
        self.generated: dict[tuple[str, int], tuple[Operator, int, int]] = {}

    # -- reading -----------------------------------------------------------------------------------

    def is_constant(self, value: str) -> bool:
        """Whether the file holds the value."""
        return value in self.graph.constants

    def is_weight(self, value: str) -> bool:
        """Whether a value is a constant, or computed from constants alone."""
        return value in self.graph.derived

    def rank(self, value: str) -> int:
        """Number of axes of a value.

        Raises:
            NoRule: it is not known.

        """
        known = self.values.get(value)
        if known is not None:
            return len(known)
        shape = self.graph.shape(value)
        if shape is None:
            raise NoRule(f"the shape of {shown(value)} is not known")
        return len(shape)

    def dim(self, value: str, axis: int) -> Dim:
        """Size of an axis in the file as it is (also while new widths are laid out)."""
        shape = self.graph.shape(value)
        if shape is not None and not -len(shape) <= axis < len(shape):
            raise NoRule(CONTRADICTION)
        return None if shape is None else shape[axis]

    def axis(self, value: str, axis: int) -> Axis:
        """One axis of a value.

        Raises:
            NoRule: the value's rank is not known, or it has no such axis.

        """
        constant, known = self.graph.constants.get(value), self.values.get(value)
        rank = len(constant.dims) if constant is not None and known is None else self.rank(value)
        if not -rank <= axis < rank:
            raise NoRule(CONTRADICTION)
        self.read.add(value)
        if constant is None:
            if self.packed and known is not None and self._is_packed(value, axis):
                return self._unpacked(value, axis % rank)
            return self._known(value)[axis]
        axis %= len(constant.dims)
        found = self.stored.get((value, axis))
        if found is None:
            found = self.stored[value, axis] = self.new_axis(value, axis)
        return found

    def axes(self, value: str) -> list[Axis]:
        """All axes of a value.

        Raises:
            NoRule: the value's rank is not known.

        """
        if self.is_constant(value):
            return [self.axis(value, k) for k in range(len(self.graph.constants[value].dims))]
        self.read.add(value)
        known = self._known(value)
        return [self.axis(value, k) for k in range(len(known))] if self.packed else list(known)

    def _known(self, value: str) -> list[Axis]:
        if value not in self.values:
            raise NoRule(f"the shape of {shown(value)} is not known")
        return self.values[value]

    def whole(self, value: str, axis: int) -> Axis | Packed:
        """One axis of a value, for those who can pass a packed one on."""
        self.read.add(value)
        if self._is_packed(value, axis):
            return self.packed[value, axis % len(self.values[value])]
        return self.axis(value, axis)

    def wholes(self, value: str) -> list[Axis | Packed]:
        """All axes of a value, for those who can pass packed ones on."""
        if not self.packed:
            return list(self.axes(value))
        return [self.whole(value, k) for k in range(self.rank(value))]

    def _is_packed(self, value: str, axis: int) -> bool:
        return bool(self.packed) and (value, axis % max(len(self.values.get(value, ())), 1)) in self.packed

    def _unpacked(self, value: str, axis: int) -> Ids:
        """A packed axis position by position.

        Raises:
            NoRule: only the run knows how many there are, or there are too many.

        """
        found = self.packed[value, axis]
        if found.each is None or found.times is None or found.size is None:
            raise NoRule("it reads channels merged with sizes that only the run knows")
        if found.size > LONGEST_AXIS:
            raise NoRule("it reads channels merged with too many pixels")
        return np.tile(np.repeat(found.units, found.each), found.times)

    def numbers(self, value: str) -> list[ShapeNumber] | None:
        """The numbers of a small constant or computed shape, where known."""
        if value in self.graph.known:
            return self.graph.known[value]
        constant = self.graph.constants.get(value)
        if constant is None or constant.size > 4096 or len(constant.dims) > 1:
            return None
        return literals(value, self.graph.array(value))

    def integers(self, value: str) -> list[int] | None:
        """The numbers of a small constant, if all of them are known."""
        entries = self.numbers(value)
        if entries is None or any(e.value is None for e in entries):
            return None
        return [int(e.value or 0) for e in entries]

    def floats(self, value: str) -> list[float] | None:
        """The numbers of a short constant vector, if the file holds it."""
        constant = self.graph.constants.get(value)
        if constant is None or constant.size > 64:
            return None
        return [float(v) for v in self.graph.array(value).reshape(-1)]

    def unit_by_unit(self, op: Operator, axis: Axis, dim: Dim) -> Ids:
        """An axis as an array of units, also where it carries no channels.

        Raises:
            NoRule: its length is not known.

        """
        if not isinstance(axis, int):
            return axis
        axis = axis or self.joined(op)
        if not isinstance(dim, int):
            raise NoRule("the length of an axis is not known")
        if dim > LONGEST_AXIS:
            raise NoRule("an axis is too long to carry channels")
        return np.full(dim, axis, np.int64)

    # -- writing: each kind of tracker has its own ---------------------------------------------------

    def set(self, op: Operator, output: int, axes: Sequence[Axis | Packed]) -> None:
        """Say what axes an output has."""
        if output >= len(op.outputs) or not op.outputs[output]:
            return
        name = op.outputs[output]
        known = self.values[name] = list[Axis]()
        for k, axis in enumerate(axes):
            if isinstance(axis, Packed):
                self._count_positions(axis.units)
                self.packed[name, k] = axis
                known.append(0)
                continue
            if not isinstance(axis, int):
                self._count_positions(axis)
            if self.packed:
                self.packed.pop((name, k), None)
            known.append(axis)

    def _count_positions(self, axis: Ids) -> None:
        """Count the positions of an axis that was made, once however often it is passed on.

        Raises:
            NoRule: it is too long, or there are too many in all.

        """
        if id(axis) in self._counted:
            return
        if len(axis) > LONGEST_AXIS or self.positions + len(axis) > MOST_POSITIONS:
            raise NoRule("an axis is too long to carry channels")
        self._counted[id(axis)] = axis
        self.positions += len(axis)

    def new_axis(self, value: str, axis: int) -> Axis:
        """The axis of a constant that nobody has asked for before."""
        raise NotImplementedError

    def generate(self, op: Operator, axis: int, slot: int, place: int, length: int) -> Axis:
        """An axis of the first output whose length one number decides: the one at ``place`` of an input."""
        raise NotImplementedError

    def added(self, op: Operator, axis: int, length: int) -> Ids:
        """Positions of one value that an operator adds to an axis of its first output."""
        raise NotImplementedError

    def frozen(self, reason: str) -> int:
        """A unit that may not change, for a reason a person can read."""
        raise NotImplementedError

    def joined(self, op: Operator) -> int:
        """The frozen unit of channels that an operator ties to unit 0, that of axes without channels."""
        return self.frozen(f"{op.op_type} {shown(op.name)} joins them with an axis that carries no channels")

    def tie(self, op: Operator, left: Axis, right: Axis) -> None:
        """Say that two axes carry the same units, position by position."""
        raise NotImplementedError

    def bind(self, op: Operator, value: str, axis: int, to: Axis) -> None:
        """Say that an axis of a value (a weight, mostly) carries the units of ``to``."""
        raise NotImplementedError

    def standing(self, axis: Axis) -> int:
        """How sure an axis is to carry channels that may change (see ``Units.standing``)."""
        raise NotImplementedError

    def stop(self, op: Operator, value: str, axis: int, unit: int) -> None:
        """Freeze an axis of a value by a frozen unit."""
        if self._is_packed(value, axis):
            self.tie(op, self.packed[value, axis % len(self.values[value])].units, unit)
        else:
            self.bind(op, value, axis, unit)

    def freeze(self, op: Operator, axis: Axis, reason: str) -> None:
        """Say that an axis keeps its channels."""
        self.tie(op, axis, self.frozen(reason))

    def origin(self, value: str, axis: int, now: Ids) -> Ids:
        """For each position of an axis now, its position in the file as it is."""
        raise NotImplementedError

    def given_up(self, op: Operator) -> str | None:
        """Why an operator was not understood in the file as it is; None where it was."""
        return None

    def not_understood(self, op: Operator, why: str, reason: str) -> None:
        """Note that everything an operator touches was frozen."""

    def keep_together(self, op: Operator, units: Ids, piece: Ids) -> None:
        """Say that an operator cuts an axis into pieces, numbered position by position, in this order."""

    def level(self, op: Operator, table: Ids) -> None:
        """Say that the rows of a table must come out alike; a tie of them follows."""

    def contract(self, op: Operator, slot: int, axis: int, weight: tuple[str, int] | None) -> None:
        """Say that an operator sums over an input's axis, weighted by an axis of ``weight``."""

    def mix(self, op: Operator, axis: Axis | Packed) -> None:
        """Say that an operator looks across the channels of an axis without weights."""

    def select(self, op: Operator, axis: Axis) -> None:
        """Say that an operator selects among the channels of an axis: their number has a meaning."""

    def rewrite(self, op: Operator, slot: int, numbers: Sequence[int | None]) -> None:
        """Change integers at an input; None leaves one as it is."""

    def lengths(self, op: Operator, slot: int, axes: Sequence[Axis | Packed | None]) -> None:
        """Make integers at an input the lengths of axes; those of None and of axes without channels stay."""
        self.rewrite(op, slot, [length_of(axis) for axis in axes])

    def replace_numbers(self, op: Operator, slot: int, numbers: Sequence[int]) -> None:
        """Give an input of integers another value of any length."""

    def set_attr(self, op: Operator, name: str, value: Any) -> None:
        """Change an attribute."""


class Units(Tracker):
    """Collects the equations of a network and solves them once."""

    def __init__(self, graph: Graph, free_kept: bool = False) -> None:
        """Take a graph; ``free_kept`` frees what is kept by default only."""
        super().__init__(graph)
        self.free_kept = free_kept
        self.kept: set[int] = set()
        self.counted: dict[tuple[str, str, int], Ids] = {}  # the first axis that a number counts
        self.count = 1
        self.reasons: dict[int, str] = {0: "its positions are pixels, tokens or images, not channels"}
        self.joins = {self.reasons[0]}  # reasons that say no more than that an axis carries no channels
        self._by_reason: dict[str, int] = {}
        self.left: list[Ids] = []
        self.right: list[Ids] = []
        self.equation_op: list[int] = []
        self.contractions: list[tuple[Operator, int, int, tuple[str, int] | None]] = []
        self.mixes: list[tuple[Operator, Ids]] = []
        self.unsupported: list[tuple[Operator, str, int]] = []
        self.classes: Ids = np.zeros(1, np.int64)
        self.frozen_class: NDArray[np.bool_] = np.zeros(1, np.bool_)

    def _fresh(self, length: int) -> Ids:
        self.count += length
        return np.arange(self.count - length, self.count, dtype=np.int64)

    def new_axis(self, value: str, axis: int) -> Axis:
        """Fresh units for an axis of a constant."""
        return self._fresh(self.graph.constants[value].dims[axis])

    def generate(self, op: Operator, axis: int, slot: int, place: int, length: int) -> Axis:
        """Fresh units for an axis that a number in the file decides."""
        if length > LONGEST_AXIS:
            raise NoRule("an axis is too long to carry channels")
        output = op.outputs[0]
        self.generated[output, axis] = (op, slot, place)
        self.stored[output, axis] = units = self._fresh(length)
        self.lengths(op, slot, [*[None] * place, units])
        return units

    def added(self, op: Operator, axis: int, length: int) -> Ids:
        """Fresh units for positions that an operator adds."""
        self.stored[op.outputs[0], beside(axis)] = units = self._fresh(length)
        return units

    def frozen(self, reason: str) -> int:
        """The frozen unit of a reason."""
        if reason not in self._by_reason:
            self._by_reason[reason] = int(self._fresh(1)[0])
            self.reasons[self._by_reason[reason]] = reason
        return self._by_reason[reason]

    def joined(self, op: Operator) -> int:
        """The frozen unit, remembered as one that says where rather than why."""
        unit = super().joined(op)
        self.joins.add(self.reasons[unit])
        return unit

    def tie(self, op: Operator, left: Axis, right: Axis) -> None:
        """Append an equation."""
        if left is right:
            return
        if isinstance(left, int) and isinstance(right, int):
            return  # neither carries channels: nothing depends on it
        if isinstance(left, int):
            left = left or self.joined(op)
        if isinstance(right, int):
            right = right or self.joined(op)
        if not isinstance(left, int) and not isinstance(right, int) and len(left) != len(right):
            raise NoRule(f"two axes that must agree have {len(left)} and {len(right)} positions")
        if not isinstance(left, int) and not isinstance(right, int) and _is_shifted(left, right):
            # One class of all channels: it can neither lose one nor be copied and stay in order.
            self.freeze(op, right, f"{op.op_type} {shown(op.name)} joins each channel with its neighbour")
        # Broadcasting says the same, but takes longer than all else here.
        a = np.full_like(right, left) if isinstance(left, int) else left
        b = np.full_like(a, right) if isinstance(right, int) else right
        if a.size > LONG:
            # Channels merged with pixels repeat an equation for each pixel of a channel: say it once.
            new = np.flatnonzero((a[1:] != a[:-1]) | (b[1:] != b[:-1])) + 1
            first = np.concatenate([np.zeros(1, np.int64), new])
            a, b = a[first], b[first]
        self._equate(op, a, b)

    def _equate(self, op: Operator, left: Ids, right: Ids) -> None:
        self.left.append(left)
        self.right.append(right)
        self.equation_op.append(op.index)

    def bind(self, op: Operator, value: str, axis: int, to: Axis) -> None:
        """Tie an axis of a value; a constant's that nothing else has asked for is the other axis itself."""
        if self.is_constant(value):
            dims = self.graph.constants[value].dims
            axis %= len(dims)
            if (value, axis) not in self.stored and (isinstance(to, int) or len(to) == dims[axis]):
                self.stored[value, axis] = to
                if not isinstance(to, int):
                    self._equate(op, to, to)  # it says nothing new; explanations name the operator
                return
        self.tie(op, self.axis(value, axis), to)

    def standing(self, axis: Axis) -> int:
        """How sure an axis is to carry channels that may change, by what is known so far.

        0: it carries none, or only frozen ones; 1: a number, or a constant that is no weight, makes it;
        2: a layer gives it out.
        """
        if isinstance(axis, int):
            return 0
        count, classes = components(*self.equations(), self.count)
        stopped = np.zeros(count, np.bool_)
        stopped[classes[list(self.reasons)]] = True
        if stopped[classes[axis]].all():
            return 0
        given = [
            units
            for (name, _), units in self.stored.items()
            if not isinstance(units, int) and any(_is_weight_of(op, slot) for op, slot in self._uses(name))
        ]
        return 2 if given and np.isin(axis, np.concatenate(given)).any() else 1

    def _uses(self, name: str) -> list[tuple[Operator, int]]:
        """The operators that read a value, behind those that make a weight of it."""
        uses = self.graph.consumers.get(name, [])
        if not uses or uses[0][0].outputs[0] not in self.graph.derived:
            return uses
        return [
            further for op, _ in uses for output in op.outputs if output for further in self._uses(output)
        ]

    def origin(self, value: str, axis: int, now: Ids) -> Ids:
        """Positions are what they are."""
        return np.arange(len(now), dtype=np.int64)

    def contract(self, op: Operator, slot: int, axis: int, weight: tuple[str, int] | None) -> None:
        """Note a sum over channels; one over a weight's own channels looks across them."""
        if op.input(slot) in self.graph.derived:
            self.mix(op, self.axis(op.input(slot), axis))
        else:
            self.contractions.append((op, slot, axis, weight))

    def mix(self, op: Operator, axis: Axis | Packed) -> None:
        """Note an operator that looks across channels."""
        axis = axis.units if isinstance(axis, Packed) else axis
        if not isinstance(axis, int):
            self.mixes.append((op, axis))

    def select(self, op: Operator, axis: Axis) -> None:
        """Keep channels that an operator selects among, or note that it looks across them."""
        if isinstance(axis, int):
            return
        if self.free_kept or op.input(0) in self.graph.derived:
            self.mix(op, axis)
        else:
            self.keep(op, axis, f"{op.op_type} {shown(op.name)} selects among them (kept by default)")

    def keep(self, op: Operator, axis: Ids, reason: str) -> None:
        """Freeze an axis for a reason that gives way to any other, and that ``free_kept`` lifts."""
        self.freeze(op, axis, reason)
        self.kept.add(self.frozen(reason))

    def strength(self, unit: int) -> int:
        """How much the reason of a frozen unit says: the generic one least, then what is kept by default.

        That an operator joins channels with an axis that carries none says less than any other reason.
        """
        if unit == 0 or unit in self.kept:
            return int(unit != 0)
        return 2 if self.reasons[unit] in self.joins else STRONGEST

    def not_understood(self, op: Operator, why: str, reason: str) -> None:
        """Note an operator that could not be described."""
        self.unsupported.append((op, why, self.frozen(reason)))

    def rewrite(self, op: Operator, slot: int, numbers: Sequence[int | None]) -> None:
        """Check that the numbers can be changed later, if they must.

        Raises:
            NoRule: they are computed in a way that is not understood.

        """
        entries = self.numbers(op.input(slot))
        for position, number in enumerate(numbers):
            if number is None:
                continue
            if entries is None or position >= len(entries) or entries[position].source is None:
                raise NoRule("its shape is computed in the graph")

    def lengths(self, op: Operator, slot: int, axes: Sequence[Axis | Packed | None]) -> None:
        """Check that the numbers can be changed; what stands as one number in the file is one size."""
        super().lengths(op, slot, axes)
        for entry, axis in zip(self.numbers(op.input(slot)) or [], axes, strict=False):
            if axis is None or isinstance(axis, int | Packed) or entry.source is None:
                continue
            first = self.counted.setdefault(entry.source, axis)
            if len(first) == len(axis):
                self.tie(op, first, axis)

    def equations(self) -> tuple[Ids, Ids]:
        """Both sides of all equations that say something, unit by unit."""
        none = np.zeros(0, np.int64)
        told = [(a, b) for a, b in zip(self.left, self.right, strict=True) if a is not b]
        left, right = zip((none, none), *told, strict=True)
        return np.concatenate(left), np.concatenate(right)

    def solve(self) -> None:
        """Number the classes of units that must appear or vanish together, and find the frozen ones."""
        count, self.classes = components(*self.equations(), self.count)
        self.frozen_class = np.zeros(count, np.bool_)
        self.frozen_class[self.classes[list(self.reasons)]] = True

    def class_reasons(self) -> dict[int, str]:
        """Why each frozen class is: the first of the strongest reasons."""
        best: dict[int, int] = {}
        for unit in self.reasons:
            klass = int(self.classes[unit])
            if klass not in best or self.strength(unit) > self.strength(best[klass]):
                best[klass] = unit
        return {klass: self.reasons[unit] for klass, unit in best.items()}

    def reason_of(self, classes: Ids) -> str:
        """Why classes are frozen: the first of the strongest reasons found."""
        wanted = set(classes.tolist())
        found = [unit for unit in self.reasons if int(self.classes[unit]) in wanted]
        return self.reasons[max(found, key=self.strength)] if found else "nothing"
