"""Images without labels, as a network takes them: what distillation learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.arrays import colours_of, read_npz, resized, uint8_images
from conet_graph.trials.augment import Augmentation
from conet_graph.trials.data import Data
from conet_graph.trials.randomness import generator
from conet_graph.trials.sources import IMAGENET_COLOURS, Colours, Source, natural_side, open_source
from conet_graph.trials.splits import SMALL, ArraySplit, FileSplit, Split

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
# One image in ten, but not more than this many, is kept aside to measure on.
ASIDE, MOST_ASIDE = 10, 1000
LEAST = 4

# An image's shape without the batch; None where the network leaves a size free.
ImageShape = Sequence[int | None]


class _Wanted(NamedTuple):
    """What the network takes: None where any size will do; ``last``: its channels come last."""

    channels: int
    height: int | None
    width: int | None
    last: bool

    @classmethod
    def of(cls, shape: ImageShape, image: int | None) -> _Wanted:
        if len(shape) != 3:
            raise BadUsage(
                f"The network's input has {len(shape) + 1} axes: images have 4 (batch and colours too)."
            )
        last = shape[0] not in (1, 3) and shape[2] in (1, 3)
        channels, height, width = (shape[2], *shape[:2]) if last else shape
        if channels not in (1, 3):
            raise BadUsage(f"The network takes {channels or 'any number of'} channels: images have 1 or 3.")
        if image is not None and any(side not in (None, image) for side in (height, width)):
            raise BadUsage(f"The network takes images of {height} x {width}, not of side {image}.")
        return cls(channels, height or image, width or image, last)

    def refuse(self, found: tuple[int, int, int], spec: str) -> None:
        """Refuse images (height, width, channels) that do not fit."""
        wanted = (self.height, self.width, self.channels)
        if any(want not in (None, have) for want, have in zip(wanted, found, strict=True)):
            sizes = " x ".join("any" if side is None else str(side) for side in wanted)
            raise BadUsage(
                f"The images of {shown(spec)} are {found[0]} x {found[1]} x {found[2]} (height, width,"
                f" channels), the network takes {sizes}."
            )


class _Found(NamedTuple):
    """Images, and mean and standard deviation [C] of their colours in the units of the pixels."""

    split: Split
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Images:
    """Images to imitate a teacher on, and some kept aside; batches follow from (seed, epoch, batch) alone."""

    data: Data
    channels_last: bool = False

    @property
    def count(self) -> int:
        """How many images there are to train on."""
        return self.data.train_count

    @property
    def aside_count(self) -> int:
        """How many images are kept aside."""
        return self.data.test_count

    def train_batches(self, batch: int) -> int:
        """How many batches an epoch has."""
        return self.data.train_batches(batch)

    def train(self, batch: int, *, seed: int, epoch: int, device: torch.device) -> Iterator[Tensor]:
        """Batches of an epoch, varied: [B, C, H, W] (or [B, H, W, C]) float32, normalised."""
        for images, _ in self.data.train(batch, seed=seed, epoch=epoch, device=device):
            yield self._laid_out(images)

    def aside(self, batch: int, *, device: torch.device) -> Iterator[Tensor]:
        """The images kept aside, unchanged."""
        for images, _ in self.data.test(batch, device=device):
            yield self._laid_out(images)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).contiguous() if self.channels_last else images


def open_images(
    spec: str, shape: ImageShape, *, image: int | None = None, colours: Colours | None = None
) -> Images:
    """Open images without labels.

    Args:
        spec: a folder of image files at any depth; an npz file with ``images`` (or ``x_train``), uint8
            [N, H, W, C] or float32 exactly as the network takes them; or a source as ``open_data`` has them:
            its training images.
        shape: what the network takes, without the batch: (C, H, W) or (H, W, C), None where free.
        image: the side that images are scaled to where the network leaves it free.
        colours: mean and standard deviation of each channel, in shares of 255, for uint8 images. If None:
            a source's own; ImageNet's for a folder of colour images (0 and 1 for grey ones); those of the
            images themselves for an npz file.

    Raises:
        BadUsage: there are no such images, they do not fit the network, or they are fewer than four.

    """
    wanted = _Wanted.of(shape, image)
    if Path(spec).is_dir():
        found = _of_folder(spec, wanted)
    elif spec.endswith(".npz") and not spec.startswith("npz:"):
        found = _of_npz(spec, wanted)
    else:
        found = _of_source(spec, wanted)
    wanted.refuse(found.split.size, spec)
    if found.split.count < LEAST:
        raise BadUsage(f"{shown(spec)} has {found.split.count} images: it takes at least {LEAST}.")
    return Images(_divided(found if colours is None else _recoloured(found, colours, spec)), wanted.last)


def _of_folder(spec: str, wanted: _Wanted) -> _Found:
    paths = sorted(str(p) for p in Path(spec).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise BadUsage(f"There is no image file (PNG, JPEG, BMP, WebP) in {shown(spec)}.")
    side = natural_side(paths[0])
    split = FileSplit(paths, wanted.height or side, wanted.width or side, grey=wanted.channels == 1)
    mean, std = IMAGENET_COLOURS if wanted.channels == 3 else ((0.0,), (1.0,))
    return _Found(split, torch.tensor(mean) * 255, torch.tensor(std) * 255)


def _of_npz(spec: str, wanted: _Wanted) -> _Found:
    arrays = read_npz(Path(spec), (), ("images", "x_train"))
    if not arrays:
        raise BadUsage(f"{shown(spec)} has no array images (or x_train).")
    key, array = next(iter(arrays.items()))
    if array.dtype != np.float32:
        pixels = uint8_images(array, spec, key)
        mean, std = colours_of(pixels)
        side = wanted.height if wanted.height == wanted.width else None
        return _Found(ArraySplit(resized(pixels, side)), mean, std)
    if array.ndim != 4 or not np.isfinite(array).all():
        raise BadUsage(
            f"{shown(spec)}: {key} must be finite numbers with four axes, as the network takes them."
        )
    images = torch.from_numpy(array if wanted.last else array.transpose(0, 2, 3, 1))
    channels = images.shape[3]
    return _Found(ArraySplit(images.contiguous()), torch.zeros(channels), torch.ones(channels))


def _of_source(spec: str, wanted: _Wanted) -> _Found:
    source = open_source(spec, image=wanted.height if wanted.height == wanted.width else None)
    return _Found(source.train, source.mean, source.std)


def _recoloured(found: _Found, colours: Colours, spec: str) -> _Found:
    channels = found.split.size[2]
    if isinstance(found.split, ArraySplit) and found.split.pixels.dtype == torch.float32:
        raise BadUsage(
            f"{shown(spec)} holds float images, which are taken as they are: leave out mean and std."
        )
    if any(len(part) not in (1, channels) for part in colours) or not all(s > 0 for s in colours[1]):
        raise BadUsage(f"Mean and std take one number, or one for each of {channels} channels; std above 0.")
    mean, std = (torch.tensor(part).expand(channels) * 255 for part in colours)
    return _Found(found.split, mean, std)


def _divided(found: _Found) -> Data:
    """Training images that are varied, and images aside that are not."""
    split = found.split
    shuffled = torch.randperm(split.count, generator=generator(0))
    aside = min(MOST_ASIDE, max(1, split.count // ASIDE))
    train, test = (_part(split, part.sort().values) for part in (shuffled[aside:], shuffled[:aside]))
    side = min(split.size[:2])
    # The teacher sees the same flipped image, whatever it shows: no label can become wrong.
    varied: Augmentation | None = Augmentation.of_side(side, flip=True, cutout=False)
    if isinstance(train, FileSplit) and side > SMALL:
        train, varied = replace(train, random_crops=True), None
    none = torch.zeros(split.count, dtype=torch.int64)
    return Data(
        Source("images", 1, train, none[aside:], test, none[:aside], found.mean, found.std, True), varied
    )


def _part(split: Split, indices: Tensor) -> ArraySplit | FileSplit:
    if isinstance(split, FileSplit):
        return replace(split, paths=[split.paths[i] for i in indices.tolist()])
    assert isinstance(split, ArraySplit)
    return ArraySplit(split.pixels[indices])
