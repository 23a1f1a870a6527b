"""Which inputs of a layer its outputs hear: where weights are not zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Weights = NDArray[Any]


@dataclass(frozen=True)
class Hearing:
    """The inputs that outputs hear.

    ``shape``: of the weights, [groups, outputs a group, inputs a group]. ``by_any``: for each input, whether
    any output hears it. ``weights`` reads them again, with the kernel as a fourth axis: they are not held,
    and seldom needed. ``ignored``: for each output, whether it does not matter; None where all do.
    """

    shape: tuple[int, int, int]
    by_any: Mask
    weights: Callable[[], Weights]
    ignored: Mask | None = None

    @staticmethod
    def of(weight: Weights, again: Callable[[], Weights]) -> Hearing:
        """What outputs with these weights hear; ``again`` reads them once more."""
        return Hearing((weight.shape[0], weight.shape[1], weight.shape[2]), heard(weight), again)

    def without(self, gone: Mask) -> Hearing:
        """The same with further outputs that do not matter."""
        if not gone.any():
            return self
        return replace(self, ignored=gone if self.ignored is None else gone | self.ignored)

    def heard(self) -> Mask:
        """For each input, whether an output that matters hears it."""
        return self.by_any if self.ignored is None else heard(self.weights(), self.ignored)


def heard(weight: Weights, ignored: Mask | None = None) -> Mask:
    """For each input, whether an output hears it that is not ignored.

    No more of the weights is read than it takes to tell: one output that hears them all is enough.
    """
    groups, outputs, inputs, _ = weight.shape
    if ignored is None and weight[:, 0].all():  # as in most layers
        return np.ones(groups * inputs, np.bool_)
    found, start, step = np.zeros((groups, inputs), np.bool_), 0, 1
    while start < outputs and not found.all():
        hears = (weight[:, start : start + step] != 0).any(axis=3)
        if ignored is not None:
            hears &= ~ignored.reshape(groups, outputs, 1)[:, start : start + step]
        found |= hears.any(axis=1)
        start, step = start + step, 2 * step
    return found.reshape(-1)


def deaf(weight: Weights) -> Mask:
    """For each output, whether it hears nothing."""
    groups, outputs, inputs, _ = weight.shape
    hears, start, step = np.zeros((groups, outputs), np.bool_), 0, 1
    while start < inputs and not hears.all():
        hears |= (weight[:, :, start : start + step] != 0).any(axis=(2, 3))
        start, step = start + step, 2 * step
    return np.logical_not(hears).reshape(-1)
