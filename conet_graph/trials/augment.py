"""Augmentation of small images, a whole batch at once where the images lie; each image has its own draw.

The customary one for CIFAR: pad, random crop, horizontal flip, cutout (DeVries and Taylor, 2017). Its sizes
are those for images of 32 pixels and grow and shrink with the side. Transforms of torchvision take one draw
for a batch, or one image at a time; one gather does padding's crop and the flip of all images instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Augmentation:
    """What is done to images: ``pad`` and ``cutout`` in pixels, ``flip`` with probability 1/2."""

    pad: int
    flip: bool
    cutout: int

    @classmethod
    def of_side(cls, side: int, *, flip: bool, cutout: bool = True) -> Augmentation:
        """CIFAR's pad of 4 and cutout of 16 pixels, in proportion to the side."""
        return cls(pad=max(1, round(side / 8)), flip=flip, cutout=side // 2 if cutout else 0)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draw:
        """Draw for ``count`` images; always the same numbers are taken from the generator."""

        def below(limit: int) -> Tensor:
            return torch.randint(0, limit, (count,), generator=generator)

        top, left = below(2 * self.pad + 1), below(2 * self.pad + 1)
        flipped = below(2).bool() & self.flip
        return Draw(self, top, left, flipped, below(height), below(width))


@dataclass(frozen=True)
class Draw:
    """A draw for each image, all [B]: the crop's corner in the padded image, flip, centre of the cutout."""

    augmentation: Augmentation
    top: Tensor
    left: Tensor
    flipped: Tensor
    hole_row: Tensor
    hole_column: Tensor

    def share(self, rank: int, world: int) -> Draw:
        """The draw for every ``world``-th image, from the ``rank``-th on."""
        own = slice(rank, None, world)
        return Draw(
            self.augmentation,
            self.top[own],
            self.left[own],
            self.flipped[own],
            self.hole_row[own],
            self.hole_column[own],
        )

    def crop(self, images: Tensor) -> Tensor:
        """Crop and flip images [B, H, W, C] of any type; what is padded is 0."""
        count, height, width, channels = images.shape
        device, edge = images.device, self.augmentation.pad
        padded = pad(images, (0, 0, edge, edge, edge, edge))
        rows = self.top.to(device)[:, None] + torch.arange(height, device=device)
        across = torch.arange(width, device=device).expand(count, width)
        columns = torch.where(self.flipped.to(device)[:, None], across.flip(1), across)
        columns = columns + self.left.to(device)[:, None]
        # Pixels by their number in the whole batch: many times faster than indexing by three axes.
        first_row = torch.arange(count, device=device)[:, None] * padded.shape[1]
        pixels = ((first_row + rows) * padded.shape[2])[:, :, None] + columns[:, None, :]
        return padded.view(-1, channels).index_select(0, pixels.view(-1)).view(images.shape)

    def cut_out(self, images: Tensor) -> Tensor:
        """Set a square of each normalised image [B, C, H, W] to 0, the mean, in place; edges clip it."""
        side = self.augmentation.cutout
        if side:
            rows = _covered(self.hole_row, side, images.shape[2], images.device)
            columns = _covered(self.hole_column, side, images.shape[3], images.device)
            images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
        return images


def _covered(centre: Tensor, side: int, length: int, device: torch.device) -> Tensor:
    """Which positions of an axis a hole covers: [B, length]."""
    first = centre.to(device)[:, None] - side // 2
    position = torch.arange(length, device=device)
    return (position >= first) & (position < first + side)
