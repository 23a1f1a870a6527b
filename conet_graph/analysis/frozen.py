"""Frozen channels told apart: each with the reason that it meets itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conet_graph.passes.channels.components import components
from conet_graph.passes.channels.units import Ids, Units
from conet_graph.passes.tie_channels import signatures


@dataclass(frozen=True)
class Parts:
    """Classes of units that are tied without a detour over a frozen unit.

    The frozen unit of a reason ties all that meets it into one class: two outputs of one operator
    without a rule, say. That class is right for a plan (nothing in it may change) and useless to a
    reader. ``of`` maps units to parts; ``reason`` maps a part to the frozen unit it meets, or -1;
    frozen parts with one ``signature`` lie in the same places.
    """

    of: Ids
    reason: Ids
    signature: Ids


def frozen_parts(units: Units) -> Parts:
    """The parts of solved units."""
    left, right = units.equations()
    is_frozen = np.zeros(units.count, np.bool_)
    is_frozen[list(units.reasons)] = True
    inside = ~(is_frozen[left] | is_frozen[right])
    count, of = components(left[inside], right[inside], units.count)
    return Parts(of, _reasons(units, of, count, left, right, is_frozen), _signatures(units, of, count))


def _reasons(units: Units, of: Ids, count: int, left: Ids, right: Ids, is_frozen: NDArray[np.bool_]) -> Ids:
    """The first of the frozen units with the strongest reason that each part meets."""
    stops = np.array(sorted(units.reasons), np.int64)
    parts = np.concatenate([of[left[is_frozen[right]]], of[right[is_frozen[left]]], of[stops]])
    met = np.concatenate([right[is_frozen[right]], left[is_frozen[left]], stops])
    weakness = np.zeros(units.count, np.int64)
    weakness[stops] = [-units.strength(unit) for unit in stops.tolist()]
    order = np.lexsort((met, weakness[met], parts))
    found, first = np.unique(parts[order], return_index=True)
    reason = np.full(count, -1, np.int64)
    reason[found] = met[order][first]
    return reason


def _signatures(units: Units, of: Ids, count: int) -> Ids:
    """A number for the set of places that a part touches, as ``tie_channels`` numbers classes."""
    frozen = (
        of[axis]
        for axis in units.stored.values()
        if not isinstance(axis, int) and units.frozen_class[units.classes[axis]].any()
    )
    # An axis with the same parts as an earlier one tells nothing new.
    return signatures({parts.tobytes(): parts for parts in frozen}.values(), count)
