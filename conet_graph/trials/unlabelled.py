"""Images without labels, as a network takes them: what distillation learns from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from conet_graph.calibration.images import natural_side
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.arrays import colours_of, read_npz, resized, uint8_images
from conet_graph.trials.augment import Augmentation
from conet_graph.trials.data import Data
from conet_graph.trials.randomness import generator
from conet_graph.trials.sources import (
    IMAGENET_COLOURS,
    IMAGENET_SIDE,
    Colours,
    Source,
    open_source,
)
from conet_graph.trials.splits import SMALL, ArraySplit, FileSplit, Split

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
# One image in ten, but not more than this many, is kept aside to measure on.
ASIDE, MOST_ASIDE = 10, 1000
LEAST = 4

# How training images may be varied.
CROP, FLIP = "crop", "flip"
VARIATIONS = frozenset({CROP, FLIP})
# Files of a folder whose sizes are looked at.
LOOKED_AT = 200

# An image's shape without the batch; None where the network leaves a size free.
ImageShape = Sequence[int | None]
# Height and width.
ImageSize = tuple[int, int]


class _WantedImages(NamedTuple):
    """What the network takes: None where any size will do; ``last``: its channels come last."""

    channels: int
    height: int | None
    width: int | None
    last: bool

    @classmethod
    def of(cls, shape: ImageShape, size: ImageSize | None) -> _WantedImages:
        if len(shape) != 3:
            raise BadUsage(
                f"The network's input has {len(shape) + 1} axes: images have 4 (batch and colours too)."
            )
        last = shape[0] not in (1, 3) and shape[2] in (1, 3)
        channels, height, width = (shape[2], *shape[:2]) if last else shape
        if channels not in (1, 3):
            raise BadUsage(f"The network takes {channels or 'any number of'} channels: images have 1 or 3.")
        asked: tuple[int | None, int | None] = size or (None, None)
        if any(want and side and want != side for want, side in zip(asked, (height, width), strict=True)):
            takes = " x ".join("any" if side is None else str(side) for side in (height, width))
            given = f"side {asked[0]}" if asked[0] == asked[1] else f"{asked[0]} x {asked[1]}"
            raise BadUsage(f"The network takes images of {takes}, not of {given}.")
        return cls(channels, height or asked[0], width or asked[1], last)

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
    bgr: bool = False

    @property
    def size(self) -> ImageSize:
        """Height and width of the images as the network gets them."""
        return self.data.shape[1], self.data.shape[2]

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
        images = images.flip(1) if self.bgr else images
        return images.permute(0, 2, 3, 1).contiguous() if self.channels_last else images


def open_images(
    spec: str,
    shape: ImageShape,
    *,
    image: int | ImageSize | None = None,
    colours: Colours | None = None,
    augment: Collection[str] = (),
    bgr: bool = False,
) -> Images:
    """Open images without labels.

    Args:
        spec: a folder of image files at any depth; an npz file with ``images`` (or ``x_train``), uint8
            [N, H, W, C] or float32 exactly as the network takes them, with or without ``npz:`` before it;
            or a source as ``open_data`` has them: its training images.
        shape: what the network takes, without the batch: (C, H, W) or (H, W, C), None where free.
        image: the side, or the height and width, that images are scaled to where the network leaves them
            free. If None: their own size where all have one (a shorter side of 224 at most); squares else.
        colours: mean and standard deviation of each channel, in shares of 255, for uint8 images. If None:
            a source's own; ImageNet's for a folder of colour images (0 and 1 for grey ones); those of the
            images themselves for an npz file.
        augment: how training images are varied: 'crop' (shifted, or cut out at random where they are
            photographs), 'flip' (mirrored). Only for images that are as good then: text is not.
        bgr: whether the network takes blue first; ``colours`` are those of red, green and blue all the same.

    Raises:
        BadUsage: there are no such images, they do not fit the network, or they are fewer than four.

    """
    if not set(augment) <= VARIATIONS:
        raise BadUsage(f"Images can be varied by crop and flip, not by {', '.join(sorted(augment))}.")
    wanted = _WantedImages.of(shape, (image, image) if isinstance(image, int) else image)
    if bgr and wanted.channels != 3:
        raise BadUsage("The network takes grey images: there is no order of colours to turn around.")
    if Path(spec).is_dir():
        found = _of_folder(spec, wanted)
    elif spec.endswith(".npz") or spec.startswith("npz:"):
        found = _of_npz(spec.removeprefix("npz:"), wanted)
    else:
        found = _of_source(spec, wanted)
    wanted.refuse(found.split.size, spec)
    if found.split.count < LEAST:
        raise BadUsage(f"{shown(spec)} has {found.split.count} images: it takes at least {LEAST}.")
    coloured = found if colours is None else _recoloured(found, colours, spec)
    return Images(_divided(coloured, augment), wanted.last, bgr)


def _of_folder(spec: str, wanted: _WantedImages) -> _Found:
    paths = sorted(str(p) for p in Path(spec).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise BadUsage(f"There is no image file (PNG, JPEG, BMP, WebP) in {shown(spec)}.")
    height, width = _size_of(paths, wanted, spec)
    split = FileSplit(paths, height, width, grey=wanted.channels == 1)
    mean, std = IMAGENET_COLOURS if wanted.channels == 3 else ((0.0,), (1.0,))
    return _Found(split, torch.tensor(mean) * 255, torch.tensor(std) * 255)


def _size_of(paths: list[str], wanted: _WantedImages, spec: str) -> ImageSize:
    """The size to scale image files to: the network's, and their own where it leaves one free."""
    if wanted.height is not None and wanted.width is not None:
        return wanted.height, wanted.width
    own = _common_size(paths)
    if own is not None:
        height, width = own
        scale = min(1.0, IMAGENET_SIDE / min(own))
        if wanted.height is not None:
            scale = wanted.height / height
        elif wanted.width is not None:
            scale = wanted.width / width
        return wanted.height or max(1, round(height * scale)), wanted.width or max(1, round(width * scale))
    if wanted.height is not None or wanted.width is not None:
        raise BadUsage(
            f"The images of {shown(spec)} differ in size, and the network takes any"
            f" {'width' if wanted.height is not None else 'height'}: say --size HEIGHTxWIDTH."
        )
    side = natural_side(paths[0])
    return side, side


def _common_size(paths: list[str]) -> ImageSize | None:
    """The size (height, width) that image files have in common; None where they differ."""
    from PIL import Image

    sizes: set[ImageSize] = set()
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            with Image.open(path) as image:
                sizes.add((image.height, image.width))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # decoding it will say what is wrong
    return sizes.pop() if len(sizes) == 1 else None


def _of_npz(spec: str, wanted: _WantedImages) -> _Found:
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


def _of_source(spec: str, wanted: _WantedImages) -> _Found:
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


def _divided(found: _Found, augment: Collection[str]) -> Data:
    """Training images that are varied, and images aside that are not."""
    split = found.split
    shuffled = torch.randperm(split.count, generator=generator(0))
    aside = min(MOST_ASIDE, max(1, split.count // ASIDE))
    train, test = (_part(split, part.sort().values) for part in (shuffled[aside:], shuffled[:aside]))
    side = min(split.size[:2])
    varied: Augmentation | None = None
    if isinstance(train, FileSplit) and side > SMALL and CROP in augment:
        train = replace(train, random_crops=True, random_flips=FLIP in augment)
    elif augment:
        varied = Augmentation.of_side(side, flip=FLIP in augment, cutout=False)
        varied = varied if CROP in augment else replace(varied, pad=0)
    none = torch.zeros(split.count, dtype=torch.int64)
    return Data(
        Source("images", 1, train, none[aside:], test, none[:aside], found.mean, found.std, True), varied
    )


def _part(split: Split, indices: Tensor) -> ArraySplit | FileSplit:
    if isinstance(split, FileSplit):
        return replace(split, paths=[split.paths[i] for i in indices.tolist()])
    assert isinstance(split, ArraySplit)
    return ArraySplit(split.pixels[indices])
