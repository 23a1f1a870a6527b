"""Names of groups and sizes along an axis, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conet_graph.passes.channels.units import Ids, Units

if TYPE_CHECKING:
    from conet_graph.passes.tie_channels import Channels

# An axis with more runs than this is named as interleaved.
MOST_RUNS = 8


@dataclass(frozen=True)
class Stretch:
    """Positions of one group, or of one size, side by side; ``key`` is -1 for those of none.

    ``scattered`` says that they alternate with the positions of other runs.
    """

    key: int
    classes: Ids
    scattered: bool = False


def runs(keys: Ids, classes: Ids) -> list[Stretch]:
    """Cut an axis where the key changes; where that is often, gather each key's positions."""
    if not len(keys):
        return []
    cuts = np.flatnonzero(np.diff(keys)) + 1
    if len(cuts) < MOST_RUNS:
        starts = [0, *cuts.tolist()]
        parts = np.split(classes, cuts)
        return [Stretch(int(keys[s]), part) for s, part in zip(starts, parts, strict=True)]
    order = dict.fromkeys(keys.tolist())
    return [Stretch(key, classes[keys == key], True) for key in order]


def in_copies(name: str, width: int, classes: Ids) -> list[str]:
    """Spell the name of a run: once for each whole copy, ``2*g1`` where each unit is repeated.

    A part of a group, such as one half of a Split whose halves are tied, is ``g1/2``.
    """
    length = len(classes)
    if length == width or width == 0:
        return [name]
    if length < width:
        return [f"{name}/{width // length}"] if width % length == 0 else [f"{name}[{length}]"]
    if length % width:
        return [f"{name}[{length}]"]
    times = length // width
    table = classes.reshape(width, times)
    if (table == table[:, :1]).all() and not (classes[:width] == classes[-width:]).all():
        return [f"{times}*{name}"]
    return [name] * times if times <= MOST_RUNS else [f"{times}*{name}"]


class ChannelLabels:
    """Group names behind sizes: ``g1``, ``g1+g2`` (side by side), ``g1~g2`` (interleaved).

    A frozen size that never carried channels, such as the network's input, has its id from
    ``Channels.fixed``, where a layer has it on a side; others are ``f0``, and the end of the text says why.
    """

    def __init__(self, channels: Channels) -> None:
        """Take the solved channels."""
        self.channels = channels
        self.units: Units = channels.units
        self.never: dict[tuple[str, int], str] = {}
        self.unnamed = 0

    def of(self, value: str, axis: int) -> str:
        """The groups on an axis; '' where it carries no channels."""
        found = self.units.stored.get((value, axis))
        if found is None and value in self.units.values:
            axes = self.units.values[value]
            found = axes[axis] if axis < len(axes) else None
        elif isinstance(found, int):
            reason = self.units.reasons[found] if found else ""
            return self._without_group(reason, self.units.graph.constants[value].dims[axis])
        if found is None or isinstance(found, int):
            return ""
        return self._groups(found)

    def _groups(self, axis: Ids) -> str:
        classes = self.units.classes[axis]
        if self._never_grouped(classes):
            reason = self.units.reason_of(classes)
            return self._without_group("" if reason in self.units.joins else reason, len(axis))
        parts: list[str] = []
        found = runs(self.channels.group_of_class[classes], classes)
        for run in found:
            if run.key < 0:
                frozen = bool(self.units.frozen_class[run.classes].any())
                parts.append("frozen" if frozen else "unused")
            else:
                group = self.channels.groups[run.key]
                parts += in_copies(group.id, group.width, run.classes)
        return ("~" if any(run.scattered for run in found) else "+").join(parts)

    def _never_grouped(self, classes: Ids) -> bool:
        """Whether all positions are frozen, and no layer has them on its sides."""
        return bool(
            (self.channels.group_of_class[classes] < 0).all() and self.units.frozen_class[classes].all()
        )

    def _without_group(self, reason: str, width: int) -> str:
        if not reason:
            return ""
        fixed = self.channels.fixed
        alike = [key for key in fixed if key[0] == reason]
        # The weight of a grouped convolution has a part of the size.
        key = alike[0] if len(alike) == 1 else (reason, width)
        if key not in self.never:
            self.never[key] = fixed.get(key) or f"f{self.unnamed}"
            self.unnamed += key not in fixed
        return self.never[key]

    def lines(self) -> Iterator[str]:
        """The groups, each free with its width or frozen with its reason."""
        times = Counter(group.size for group in self.channels.groups)
        for group in self.channels.groups:
            line = f"group {group.id} width={group.width}"
            if group.multiple > 1:
                line += f" multiple={group.multiple}"
            if times[group.size] > 1:
                line += f" size={group.size}"
            yield f"{line} free" if group.free else f"{line} frozen: {group.reason}"
        for (reason, width), name in self.never.items():
            yield f"group {name} width={width} frozen: {reason}"
