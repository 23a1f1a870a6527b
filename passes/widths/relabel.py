"""The rules once more, over new widths: each position of each axis says whose copy it is.

Widening is where index arithmetic goes wrong: behind a Flatten a copied channel is a copied *block*, behind a
shuffle its copies lie apart. So nothing is patched: the same rules run over labels ("copy k of class c"), and
the n-th position labelled (c, k) of a new axis takes its values from the n-th position of class c of the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conet_graph.ir.errors import Refused, shown
from conet_graph.ir.graph import Operator
from conet_graph.passes.channels.distinct import distinct, is_rising
from conet_graph.passes.channels.units import Axis, Ids, NoRule, Packed, Tracker, Units, beside
from conet_graph.passes.shapes.constant_values import computable
from conet_graph.passes.widths.across_copies import AVERAGING, COUNTING, in_any_order
from conet_graph.passes.widths.evaluated import evaluated_uses
from conet_graph.passes.widths.sharing import NotShared, Share, Use, shares

COPIES = 2**20

COUNTED = "would count copied channels several times"
TOLD_APART = "would tell copies of a channel apart"


class CannotHave(Refused):
    """These widths cannot be had; ``classes`` are the copied or dropped channels that stand in the way."""

    def __init__(self, why: str, classes: Ids) -> None:
        super().__init__(why)
        self.classes = classes


class Labels(Tracker):
    """The layout of a network in which class ``c`` has ``copies[c]`` copies (0: dropped, 1: kept).

    Axes carry *tokens*: a token is one new position of the axis of a constant that was laid out first, and
    has a label. Where two axes that must agree have their labels in different orders, the tokens say which
    first layout to change (``new_hints``); then everything is laid out again.
    """

    def __init__(
        self, units: Units, copies: Ids, hints: dict[tuple[str, int], Ids], keeps_function: bool = True
    ) -> None:
        """Take the solved units and the copies of each class.

        Args:
            units: of the network as it is.
            copies: how often each class appears.
            hints: layouts found in earlier rounds.
            keeps_function: whether what sums over copies must share its weights out (fresh ones need not).

        """
        super().__init__(units.graph)
        self.units, self.copies, self.hints, self.keeps_function = units, copies, hints, keeps_function
        self.choices, self.votes = units.choices, units.votes
        self.narrows = bool((copies <= 1).all())
        # Tokens below the number of classes stand for kept (frozen) classes themselves.
        self._labels: Ids = np.arange(len(copies), dtype=np.int64) * COPIES
        self.keys: list[tuple[str, int]] = []
        self.starts: list[int] = [len(copies)]
        self.mixing = {op.index for op, axis in units.mixes if (copies[units.classes[axis]] != 1).any()}
        self.uneven = {op.index for op, axis in units.mixes if len(distinct(copies[units.classes[axis]])) > 1}
        self.new_hints: dict[tuple[str, int], Ids] = {}
        self.numbers_changed: dict[str, dict[int, int]] = {}
        self.numbers_replaced: dict[tuple[int, int], list[int]] = {}
        self.attributes: dict[int, dict[str, Any]] = {}
        # Of each input that is summed over copies: who shares what out.
        self.shared_out: dict[Use, list[Share]] = {}
        self.inexact: dict[str, None] = {}
        # Inputs that read numbers from now on, where the file computes them from constants.
        self.evaluated: set[Use] = set()
        # Operators that sum over copies without weights that could be shared out among them.
        self.unshared: set[int] = set()
        self.unknown = {op.index: why for op, why, _ in units.unsupported}

    # -- labels ------------------------------------------------------------------------------------

    def labels(self, tokens: Ids) -> Ids:
        """The labels of tokens."""
        return self._labels[tokens]

    def old_classes(self, value: str, axis: int) -> Ids:
        """The classes on an axis of the network as it is."""
        stored = self.units.stored.get((value, axis))
        old = stored if stored is not None else self.units.values[value][axis]
        if isinstance(old, int):
            raise NoRule("an axis without channels is asked for its channels")
        return self.units.classes[old]

    def classes_on(self, value: str, axis: int) -> Ids:
        """The classes that have positions on an axis at the new widths."""
        tokens = self.axis(value, axis)
        return np.zeros(0, np.int64) if isinstance(tokens, int) else distinct(self.labels(tokens) // COPIES)

    def default_layout(self, classes: Ids) -> Ids:
        """Labels with copies side by side; a run of positions of one class is copied as one block."""
        if not len(classes):
            return classes
        if self.narrows:
            return classes[self.copies[classes] > 0] * COPIES
        starts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
        lengths = np.diff(np.append(starts, len(classes)))
        times = self.copies[classes[starts]]
        if lengths.max() == 1:
            labels = np.repeat(classes, times)
            first = np.repeat(np.cumsum(times) - times, times)
            return labels * COPIES + np.arange(len(labels)) - first
        blocks = [
            np.repeat(classes[s] * COPIES + np.arange(n), length)
            for s, length, n in zip(starts, lengths, times, strict=True)
        ]
        return np.concatenate(blocks).astype(np.int64)

    def _layout(self, key: tuple[str, int], old: Axis) -> Axis:
        if isinstance(old, int):
            return int(self.units.classes[old])
        labels = self.hints.get(key)
        if labels is None:
            labels = self.default_layout(self.units.classes[old])
        start, end = self.starts[-1], self.starts[-1] + len(labels)
        if end > len(self._labels):
            # Twice the room each time: what is copied in all stays linear.
            self._labels = np.concatenate([self._labels[:start], np.zeros(end, np.int64)])
        self._labels[start:end] = labels
        self.keys.append(key)
        self.starts.append(end)
        return np.arange(start, end, dtype=np.int64)

    def new_axis(self, value: str, axis: int) -> Axis:
        """The tokens of a constant's axis that no rule has laid out yet."""
        return self._layout((value, axis), self.units.stored.get((value, axis), 0))

    def generate(self, op: Operator, axis: int, slot: int, place: int, length: int) -> Axis:
        """The tokens of an axis that a number in the file decides."""
        output = op.outputs[0]
        self.generated[output, axis] = (op, slot, place)
        self.stored[output, axis] = self._layout((output, axis), self.units.stored[output, axis])
        return self.stored[output, axis]

    def added(self, op: Operator, axis: int, length: int) -> Ids:
        """The tokens of positions that an operator adds."""
        key = (op.outputs[0], beside(axis))
        found = self._layout(key, self.units.stored[key])
        assert not isinstance(found, int), "an axis that was laid out once has positions"
        self.stored[key] = found
        return found

    def frozen(self, reason: str) -> int:
        """The token of a frozen unit."""
        unit = self.units.frozen(reason)
        return int(self.units.classes[unit]) if unit < len(self.units.classes) else 0

    # -- relations ---------------------------------------------------------------------------------

    def tie(self, op: Operator, left: Axis, right: Axis) -> None:
        """Check that two axes are laid out alike; where they are not, change the later layout."""
        if left is right or isinstance(left, int) or isinstance(right, int):
            return
        if len(left) == len(right):
            mine, theirs = self.labels(left), self.labels(right)
            wrong = mine != theirs
            if not wrong.any():
                return
            pairs = [(left[wrong], theirs[wrong]), (right[wrong], mine[wrong])]
            pairs.sort(key=lambda pair: -int(pair[0].min()))
            if any(self._relayout(tokens, labels) for tokens, labels in pairs):
                return
        raise self._refusal(op, "would get channels in two different orders", left, right)

    def _refusal(self, op: Operator, what: str, *axes: Axis) -> CannotHave:
        """Why these widths cannot be had, and the changed classes on some axes."""
        found = [self.labels(axis) // COPIES for axis in axes if not isinstance(axis, int)]
        classes = distinct(np.concatenate([np.zeros(0, np.int64), *found]))
        changed = classes[self.copies[classes] != 1]
        return CannotHave(f"At these widths operator {op.op_type} (node {shown(op.name)}) {what}.", changed)

    def level(self, op: Operator, table: Ids) -> None:
        """Lay the rows of a table out alike where its channels' copies came to lie unevenly among them."""
        labels = np.sort(self.labels(table), axis=1)
        if (labels == labels[:1]).all():
            return
        found, first, counts = np.unique(self.labels(table), return_index=True, return_counts=True)
        if (counts % len(table)).any():
            return  # the tie that follows says so
        order = np.argsort(first)
        row = np.repeat(found[order], counts[order] // len(table))
        self._relayout(table.reshape(-1), np.tile(row, len(table)))

    def _relayout(self, tokens: Ids, labels: Ids) -> bool:
        """Plan a layout in which ``tokens`` have ``labels``; False when there is none."""
        starts = np.array(self.starts)
        which = np.searchsorted(starts, tokens, side="right") - 1
        if (which < 0).any():
            return False
        planned: dict[tuple[str, int], Ids] = {}
        for number in distinct(which).tolist():
            if self.keys[number] in self.new_hints:
                return True  # it changes already: see how that looks in the next round
            begin, end = self.starts[number], self.starts[number + 1]
            old = self.labels(np.arange(begin, end))
            new, mine = old.copy(), which == number
            new[tokens[mine] - begin] = labels[mine]
            if not np.array_equal(new[tokens[mine] - begin], labels[mine]):
                return False  # one position would need two labels
            if not np.array_equal(np.sort(new), np.sort(old)):
                return False  # the axis would have other channels
            planned[self.keys[number]] = new
        self.new_hints.update(planned)
        return True

    def bind(self, op: Operator, value: str, axis: int, to: Axis) -> None:
        """Lay out a constant's axis like ``to``, or check that it is."""
        if self.is_constant(value):
            axis %= len(self.graph.constants[value].dims)
            if (value, axis) not in self.stored and not isinstance(to, int):
                self.stored[value, axis] = to
                return
        self.tie(op, self.axis(value, axis), to)

    def origin(self, value: str, axis: int, now: Ids) -> Ids:
        """Old positions of the new positions of an axis."""
        return old_positions(self.old_classes(value, axis), self.labels(now))

    def given_up(self, op: Operator) -> str | None:
        """What the file does not tell, new widths do not tell either."""
        return self.unknown.get(op.index)

    def not_understood(self, op: Operator, why: str, reason: str) -> None:
        """Refuse widths at which an operator no longer makes sense that does so in the file."""
        # With hints this layout is thrown away anyway.
        if op.index not in self.unknown and not self.new_hints:
            axes = [a for v in op.inputs if self.is_constant(v) or v in self.values for a in self.axes(v)]
            raise CannotHave(f"At these widths the {reason}.", self._refusal(op, "", *axes).classes)

    def keep_together(self, op: Operator, units: Ids, piece: Ids) -> None:
        """Lay the axis out piece by piece where copies have mixed the pieces."""
        if not np.any(np.diff(piece) < 0):
            return
        order = np.argsort(piece, kind="stable")
        if not self._relayout(units, self.labels(units)[order]):
            raise self._refusal(op, "would get its pieces mixed", units)

    def contract(self, op: Operator, slot: int, axis: int, weight: tuple[str, int] | None) -> None:
        """Note which constants' axes share their values out among copies."""
        units = self.axis(op.input(slot), axis)
        if isinstance(units, int):
            return
        of_a_weight = self.is_weight(op.input(slot))
        if of_a_weight and not self.copies[self.old_classes(op.input(slot), axis)].all():
            self.mix(op, units)
        if self.narrows or self.copies[self.labels(units) // COPIES].max(initial=1) < 2:
            return
        if weight is None or not self.is_weight(weight[0]):
            if self.keeps_function:
                raise self._refusal(op, COUNTED, units)
            self.unshared.add(op.index)
            self.inexact[f"{op.op_type} {shown(op.name)}"] = None
            return
        if not self.keeps_function:
            return
        use = (op.index, next(k for k, name in enumerate(op.inputs) if name == weight[0]))
        # An Einsum may sum over several axes of one weight.
        self.shared_out.setdefault(use, []).extend(self._shares(op, *weight, use))

    def _shares(self, op: Operator, weight: str, axis: int, use: tuple[int, int]) -> list[Share]:
        """The constants behind a weight that share an axis of it out.

        Raises:
            CannotHave: there are none, and the weight cannot be held as numbers either.

        """
        if use in self.evaluated:
            return [Share(weight, axis, use, False)]
        why = self._normaliser(weight, axis)
        try:
            found = [] if why else list(shares(self, weight, axis, use))
        except NotShared as refusal:
            why = str(refusal)
        if why and not computable(self.graph, weight):
            told = f"would count copied channels several times, through {why} of its weight"
            raise self._refusal(op, told, self.axis(weight, axis))
        if why:
            self.evaluated.add(use)
            found = [Share(weight, axis, use, False)]
        # One sum has one way of sharing out.
        whole = any(share.whole for share in found)
        return [replace(share, whole=whole) for share in found]

    def _normaliser(self, weight: str, axis: int) -> str:
        """The operator behind a weight that looks across copied channels on an axis of it; "" for none."""
        classes = self.classes_on(weight, axis)
        copied = classes[self.copies[classes] > 1]
        pending, seen = [weight], set[str]()
        while pending:
            op = self.graph.producers.get(pending.pop())
            if op is None:
                continue
            if op.index in self.mixing and np.isin(copied, self._mixed_by(op)).any():
                return op.op_type
            fresh = [name for name in op.inputs if name not in seen]
            seen.update(fresh)
            pending += fresh
        return ""

    def _mixed_by(self, op: Operator) -> Ids:
        """The classes that an operator looks across."""
        axes = [axis for mixing, axis in self.units.mixes if mixing is op]
        return self.units.classes[np.concatenate(axes)]

    def mix(self, op: Operator, axis: Axis | Packed) -> None:
        """Note an operator that looks across channels whose number changes."""
        if isinstance(axis, int) or op.index not in self.mixing:
            return
        uses = evaluated_uses(self.graph, op) if self.keeps_function else set()
        if uses:
            self.evaluated |= uses
            return
        weight, units = self.is_weight(op.input(0)), axis.units if isinstance(axis, Packed) else axis
        widened = self.copies[self.labels(units) // COPIES].max(initial=1) > 1
        if widened and self.keeps_function and not weight:
            if op.op_type in COUNTING:
                raise self._refusal(op, COUNTED, units)
            if op.op_type in AVERAGING and op.index not in self.uneven:
                return
            if not in_any_order(op.op_type):
                raise self._refusal(op, TOLD_APART, units)
        self.inexact[f"{op.op_type} {shown(op.name)}"] = None

    def select(self, op: Operator, axis: Axis) -> None:
        """Selecting among channels whose number changes is looking across them."""
        self.mix(op, axis)

    # -- edits -------------------------------------------------------------------------------------

    def rewrite(self, op: Operator, slot: int, numbers: Sequence[int | None]) -> None:
        """Note integers to change, in the constant in which each stands."""
        entries = self.numbers(op.input(slot)) or []
        for entry, number in zip(entries, numbers, strict=False):
            if number is None or entry.value == number or entry.source is None:
                continue
            kind, name, position = entry.source
            if kind == "const":
                self.numbers_changed.setdefault(name, {})[position] = number

    def replace_numbers(self, op: Operator, slot: int, numbers: Sequence[int]) -> None:
        """Note a whole new vector of integers for an input."""
        if self.integers(op.input(slot)) != list(numbers):
            self.numbers_replaced[op.index, slot] = list(numbers)

    def set_attr(self, op: Operator, name: str, value: Any) -> None:
        """Note an attribute to change."""
        if op.attr(name) != value:
            self.attributes.setdefault(op.index, {})[name] = value

    def finish(self) -> None:
        """Write the lengths of generated axes into the shapes that decide them."""
        for (output, axis), (op, slot, place) in self.generated.items():
            units = self.stored[output, axis]
            if not isinstance(units, int):
                self.rewrite(op, slot, [*[None] * place, len(units)])


def old_positions(old: Ids, labels: Ids) -> Ids:
    """For each new position, the old one it takes its values from.

    Raises:
        CannotHave: the new axis has other classes than the old one.

    """
    classes = labels // COPIES
    if is_rising(old) and is_rising(labels):  # as on most axes
        found = np.minimum(np.searchsorted(old, classes), len(old) - 1)
        if (old[found] == classes).all():
            return found
    order = np.argsort(old, kind="stable")
    ordered = old[order]
    begin = np.searchsorted(ordered, classes, side="left")
    end = np.searchsorted(ordered, classes, side="right")
    by_label = np.argsort(labels, kind="stable")
    sorted_labels = labels[by_label]
    first = np.searchsorted(sorted_labels, sorted_labels, side="left")
    rank = np.empty(len(labels), np.int64)
    rank[by_label] = np.arange(len(labels)) - first
    if len(labels) and (begin + rank >= end).any():
        raise CannotHave("The channels of an axis cannot be followed at the new widths.", distinct(old))
    return order[begin + rank] if len(labels) else labels
