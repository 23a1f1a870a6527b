"""Which batches a module takes, and what has been seen of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from conet_graph.ir.errors import BadUsage

# Where a module keeps it.
KEY = "conet_graph.batch"


class BatchWarning(UserWarning):
    """A module takes fewer batches than one would think."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Which batches a module takes.

    Attributes:
        only: the one batch that it takes; None where it takes others.
        multiple: batches are multiples of this.
        why: why it takes no others; '' where it takes any.
        output_axes: the axis of each output along which the images lie; None where all share the output.
        checked: what the comparison with ONNX Runtime gave, or why there was none.

    """

    only: int | None
    multiple: int
    why: str
    output_axes: tuple[int | None, ...]
    checked: str = "not checked"


def batches(module: nn.Module) -> Batches:
    """Which batches a module takes.

    Raises:
        BadUsage: the module was not made by ``to_torch``.

    """
    meta = getattr(module, "meta", None)
    found = meta.get(KEY) if isinstance(meta, dict) else None
    if not isinstance(found, Batches):
        raise BadUsage("This module was not made by to_torch: nothing is known of its batches.")
    return found
