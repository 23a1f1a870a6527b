"""What a module does first: look at how many images it was given."""

from __future__ import annotations

import torch

from conet_graph.bridge.batch.held import for_all
from conet_graph.ir.errors import BadUsage, shown

# An input's name, the axis that counts images, and the file's length of it.
Counted = tuple[str, int, int]


def same_count(
    inputs: tuple[torch.Tensor, ...], counted: tuple[Counted, ...], whole: bool
) -> tuple[torch.Tensor, ...]:
    """The inputs, of as many images each; an input of the file's own size serves all images.

    Args:
        inputs: those that hold images.
        counted: of each of them.
        whole: whether only whole multiples of the file's batch are possible.

    Raises:
        BadUsage: the numbers of images differ, or are no such multiple.

    """
    lengths = [x.shape[axis] for x, (_, axis, _) in zip(inputs, counted, strict=True)]
    leading = max(range(len(inputs)), key=lambda k: lengths[k] / counted[k][2])
    _, axis, length = counted[leading]
    if whole and lengths[leading] % length:
        raise BadUsage(
            f"The network is for {length} images at a time, and {lengths[leading]} are no multiple of that."
        )
    made = []
    for x, (name, along, each), given in zip(inputs, counted, lengths, strict=True):
        if given * length == lengths[leading] * each:
            made.append(x)
        elif given == each and lengths[leading] % length == 0:
            made.append(for_all(x, inputs[leading], (axis, length), along))
        else:
            raise BadUsage(
                f"The input {shown(name)} has {given} images where {shown(counted[leading][0])} has"
                f" {lengths[leading]}: give as many of each."
            )
    return tuple(made)


def only_batch(inputs: tuple[torch.Tensor, ...], counted: tuple[Counted, ...], why: str) -> None:
    """Look whether the inputs have the file's own batch.

    Raises:
        BadUsage: they have another.

    """
    for x, (name, axis, length) in zip(inputs, counted, strict=True):
        if x.shape[axis] != length:
            raise BadUsage(
                f"The network takes a batch of {length}, and its input {shown(name)} has"
                f" {x.shape[axis]}: {why}."
            )
