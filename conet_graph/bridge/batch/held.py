"""How a value holds the images of a batch, and the ways from one holding to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Held:
    """Where a value keeps the images.

    What the file computes for its own batch is an *image* here; most files are for a batch of one.
    Along ``axis`` the images lie one after another, each as long as in the file, ``length``. Where
    ``axis`` is None they have an axis of their own, in front of all axes of the file.
    """

    axis: int | None
    length: int = 1


OWN = Held(None)


def apart(x: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Give images that lie along an axis an axis of their own, in front.

    >>> apart(torch.zeros(6, 3, 8), 1, 1).shape
    torch.Size([3, 6, 1, 8])
    """
    count = x.shape[axis] // length
    return x.reshape(*x.shape[:axis], count, length, *x.shape[axis + 1 :]).movedim(axis, 0)


def in_row(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Put images with an axis of their own one after another along an axis of the file.

    >>> in_row(torch.zeros(3, 6, 1, 8), 1).shape
    torch.Size([6, 3, 8])
    """
    return x.movedim(0, axis).flatten(axis, axis + 1)


def as_scalar(x: torch.Tensor) -> torch.Tensor:
    """One number for each image; that of a single image as the file gives it."""
    return x[0] if len(x) == 1 else x


def along(x: torch.Tensor, old: tuple[int, int], axis: int) -> torch.Tensor:
    """Put images that lie along one axis (and how long each is there) along another."""
    return in_row(apart(x, *old), axis)


def for_all(
    x: torch.Tensor, images: torch.Tensor, counted: tuple[int, int], axis: int | None
) -> torch.Tensor:
    """Repeat what all images share, for as many images as ``images`` holds along its axis (and length)."""
    count = images.shape[counted[0]] // counted[1]
    spread = x.expand(count, *x.shape)
    return spread if axis is None else in_row(spread, axis)
