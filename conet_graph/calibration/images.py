"""Image files and arrays of pixels as a network takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage, shown

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
# Mean and standard deviation of ImageNet's colours, in shares of 255.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Photographs are cut to this side where the network takes any.
SIDE, SMALL = 224, 64

Shape = tuple[int | None, ...]


# Mean and standard deviation of each colour, in shares of 255.
Colours = tuple[tuple[float, ...], tuple[float, ...]]


def images_of_folder(
    folder: Path, shape: Shape, samples: int, seed: int, colours: Colours | None = None
) -> NDArray[np.float32]:
    """Some of the image files in a folder, at any depth: their middle, with colours taken off.

    Those of ImageNet where none are given (of grey images none are).

    Raises:
        BadUsage: there are none, one cannot be read, or the network takes no images or other colours.

    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise BadUsage(f"There is no image file (PNG, JPEG, BMP, WebP) in {shown(str(folder))}.")
    channels, height, width, last = _layout(shape)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:samples])
    if height is None or width is None:
        side = natural_side(paths[0])
        height, width = height or side, width or side
    pixels = np.stack([_middle(paths[k], (height, width), channels == 1) for k in chosen])
    known = (MEAN, STD) if channels == 3 else ((0.0,), (1.0,))
    return _arranged(_without(pixels, colours or known), last)


def _without(pixels: NDArray[np.uint8], colours: Colours) -> NDArray[np.float32]:
    """Pixels [..., C] with colours taken off."""
    channels = pixels.shape[-1]
    for option, numbers in zip(("--mean", "--std"), colours, strict=True):
        if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
            raise BadUsage(f"{option} has {len(numbers)} numbers: the network takes {channels} colours.")
    if min(colours[1]) <= 0:
        raise BadUsage("--std is divided by: its numbers are above 0.")
    mean, std = (np.array(numbers, np.float32) for numbers in colours)
    return ((pixels / np.float32(255) - mean) / std).astype(np.float32)


def normalised(
    pixels: NDArray[np.uint8], shape: Shape, spec: str, colours: Colours | None = None
) -> NDArray[np.float32]:
    """Images uint8 [N, H, W, C] or [N, H, W] with colours taken off, as the network takes them.

    Their own where none are given.

    Raises:
        BadUsage: they are no images of its shape, or it takes other colours.

    """
    channels, height, width, last = _layout(shape)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    wanted = (height, width, channels)
    if pixels.ndim != 4 or any(w not in (None, h) for w, h in zip(wanted, pixels.shape[1:], strict=True)):
        sizes = " x ".join("any" if w is None else str(w) for w in wanted)
        raise BadUsage(
            f"{shown(spec)} holds images of the shape {list(pixels.shape[1:])}, the network takes {sizes}"
            " (height, width, channels)."
        )
    if colours is not None:
        return _arranged(_without(pixels, colours), last)
    counts = [np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(pixels.shape[3])]
    values, total = np.arange(256.0), pixels[..., 0].size
    mean = np.array([count @ values / total for count in counts])
    std = np.sqrt([max(count @ values**2 / total - m**2, 0.0) for count, m in zip(counts, mean, strict=True)])
    return _arranged((pixels - np.float32(mean)) / np.float32(np.where(std < 1e-6, 1.0, std)), last)


def _layout(shape: Shape) -> tuple[int, int | None, int | None, bool]:
    """Channels, height, width, and whether the channels come last."""
    if len(shape) != 4:
        raise BadUsage(f"The network's input has {len(shape)} axes: images have 4 (batch and colours too).")
    last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    channels, height, width = (shape[3], shape[1], shape[2]) if last else shape[1:]
    if channels not in (1, 3):
        raise BadUsage(f"The network takes {channels or 'any number of'} channels: images have 1 or 3.")
    return channels, height, width, last


def _arranged(images: NDArray[Any], last: bool) -> NDArray[np.float32]:
    return np.ascontiguousarray(images if last else images.transpose(0, 3, 1, 2), np.float32)


def natural_side(path: str | Path) -> int:
    """The side of images like the first one: its own where it is small, ImageNet's for photographs."""
    from PIL import Image

    try:
        with Image.open(path) as first:
            side = min(first.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return SIDE  # decoding it will say what is wrong
    return side if side <= SMALL else SIDE


def _middle(path: Path, size: tuple[int, int], grey: bool) -> NDArray[np.uint8]:
    """The middle of an image at a size (height, width), its proportions kept: [H, W, C]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.fit(
                file.convert("L" if grey else "RGB"), (size[1], size[0]), Image.Resampling.BILINEAR
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadUsage(f"The image {shown(str(path))} cannot be read: mend or remove it.") from None
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if grey else pixels
