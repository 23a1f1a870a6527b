"""Labelled images to train and test on, in batches: the same ones for the same seed, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conet_graph.ir.errors import BadUsage
from conet_graph.trials.augment import Augmentation, Draw
from conet_graph.trials.randomness import generator
from conet_graph.trials.sources import Source, open_source
from conet_graph.trials.splits import SMALL, FileSplit, Step

# What a random number is for: the second entry of its key, after the seed.
ORDER, CROPS, FILES = 0, 1, 2


def open_data(
    spec: str,
    *,
    augment: bool = False,
    cutout: bool = True,
    image: int | None = None,
    download: bool = False,
) -> Data:
    """Open a data set.

    Args:
        spec: ``digits``, ``npz:FILE``, ``folder:DIR``, ``cifar10:DIR``, ``cifar100:DIR`` or ``imagenet:DIR``.
        augment: vary the training images: crop, flip and cutout for small ones (digits are not flipped),
            random resized crop and flip for photographs.
        cutout: whether small images are cut out too, where they are varied.
        image: the side that images are scaled to; their own (224 for photographs) if None.
        download: whether CIFAR may be fetched where it is missing.

    Raises:
        BadUsage: there is no such data, or it is missing or malformed.

    """
    source = open_source(spec, image=image, download=download)
    if source.train.count < 2:
        raise BadUsage(f"The data {source.name} has a single training image: it takes two or more.")
    height, width, _ = source.train.size
    small = min(height, width) <= SMALL
    if augment and not small and isinstance(source.train, FileSplit):
        return Data(replace(source, train=replace(source.train, random_crops=True)))
    side = min(height, width)
    return Data(source, Augmentation.of_side(side, flip=source.mirrored, cutout=cutout) if augment else None)


@dataclass(frozen=True)
class Data:
    """A data set whose batches depend on (seed, epoch, batch index) only."""

    source: Source
    augmentation: Augmentation | None = None

    @property
    def name(self) -> str:
        """The kind of source."""
        return self.source.name

    @property
    def classes(self) -> int:
        """How many classes there are; labels are 0 to ``classes`` - 1."""
        return self.source.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width, channels = self.source.train.size
        return channels, height, width

    @property
    def train_count(self) -> int:
        """How many training images there are."""
        return self.source.train.count

    @property
    def test_count(self) -> int:
        """How many test images there are."""
        return self.source.test.count

    def train_batches(self, batch: int, world: int = 1) -> int:
        """How many batches an epoch has, the same for each of ``world`` processes.

        The last one is left out where a process would get a single image (or none): BatchNorm cannot
        normalise it.

        Raises:
            BadUsage: there are too few images for one batch.

        """
        whole, rest = divmod(self.train_count, batch * world)
        count = whole + (rest // world >= min(2, batch))
        if not count:
            raise BadUsage(f"{self.train_count} training images are too few for {world} processes.")
        return count

    def train(
        self,
        batch: int,
        *,
        seed: int,
        epoch: int,
        device: str | torch.device,
        first_batch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch: images float32 [B, C, H, W], normalised, and labels int64 [B].

        Args:
            batch: images a batch for each process; ``world`` processes take ``batch * world`` together, and
                the same images, augmented alike, whatever the number of processes.
            seed: decides, with ``epoch``, the order and the augmentation.
            epoch: the epoch's number.
            device: where the batches are wanted.
            first_batch: batches to leave out at the start, to resume within an epoch.
            rank: the number of this process.
            world: the number of processes.

        """
        where, together = torch.device(device), batch * world
        order = torch.randperm(self.train_count, generator=generator(seed, ORDER, epoch))
        numbers = range(first_batch, self.train_batches(batch, world))
        steps = [
            Step(order[n * together : (n + 1) * together][rank::world], (seed, FILES, epoch, n))
            for n in numbers
        ]
        for n, step, images in zip(numbers, steps, self.source.train.load(steps, where), strict=True):
            whole = min(together, self.train_count - n * together)
            draw = self._draw(whole, generator(seed, CROPS, epoch, n))
            labels = self.source.train_labels[step.indices].to(where)
            yield self._normalised(images, draw.share(rank, world) if draw else None), labels

    def test(
        self, batch: int, *, device: str | torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every test image once, over all processes, as ``train`` gives them but unchanged and in order."""
        where = torch.device(device)
        own = torch.arange(self.test_count)[rank::world]
        steps = [Step(part) for part in torch.split(own, batch) if len(part)]
        for step, images in zip(steps, self.source.test.load(steps, where), strict=True):
            yield self._normalised(images, None), self.source.test_labels[step.indices].to(where)

    def _draw(self, count: int, source: torch.Generator) -> Draw | None:
        height, width, _ = self.source.train.size
        return self.augmentation.draw(count, height, width, source) if self.augmentation else None

    def _normalised(self, images: Tensor, draw: Draw | None) -> Tensor:
        """[B, H, W, C] in pixel units to float32 [B, C, H, W] with mean 0 and variance 1."""
        images = normalised(images if draw is None else draw.crop(images), self.source.mean, self.source.std)
        return images if draw is None else draw.cut_out(images)


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, H, W, C] in pixel units to float32 [B, C, H, W]: less ``mean``, divided by ``std`` (both [C])."""
    shift, scale = (t.to(images.device)[:, None, None] for t in (mean, std))
    return images.float().permute(0, 3, 1, 2).contiguous().sub(shift).div_(scale)
