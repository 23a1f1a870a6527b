"""Images and labels as arrays: read from npz files, checked, scaled, their colours measured."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.splits import middle


def read_npz(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file; no pickle in it is run.

    Raises:
        BadUsage: the file is missing or damaged, lacks an array, or holds Python objects.

    """
    where = shown(str(path))
    try:
        # Opened here, as NumPy leaves a damaged file open.
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise BadUsage(f"{where} holds one array: write an npz file with {', '.join(needed)}.")
            lacking = [key for key in needed if key not in file.files]
            if lacking:
                raise BadUsage(f"{where} has no array {lacking[0]}: it needs {', '.join(needed)}.")
            return {key: file[key] for key in (*needed, *optional) if key in file.files}
    except FileNotFoundError:
        raise BadUsage(f"There is no file {where}.") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "; it holds Python objects, which are not read" if "pickle" in str(error).lower() else ""
        raise BadUsage(f"{where} is not a readable npz file of plain arrays{pickled}.") from None


def uint8_images(array: NDArray[Any], place: str, key: str) -> Tensor:
    """Images [N, H, W, C] of an array [N, H, W, C] or [N, H, W].

    Raises:
        BadUsage: its type, shape or number of images is wrong.

    """
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        kind = f"{array.dtype} {list(array.shape)}"
        raise BadUsage(f"{shown(place)}: {key} is {kind}, not uint8 images [N, height, width, channels].")
    images = torch.from_numpy(array if array.ndim == 4 else array[..., None])
    if images.numel() == 0 or images.shape[3] > 4:
        raise BadUsage(
            f"{shown(place)}: {key} has the shape {list(array.shape)}, not [N, height, width, channels]"
            " with at least one image and at most 4 channels."
        )
    return images


def class_labels(array: NDArray[Any], place: str, key: str, count: int, classes: int | None) -> Tensor:
    """Labels int64 [N] of an array [N] or [N, 1].

    Raises:
        BadUsage: they are not one whole number from 0 to ``classes`` - 1 (when given) for each image.

    """
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        kind = f"{array.dtype} {list(array.shape)}"
        raise BadUsage(f"{shown(place)}: {key} is {kind}, not a whole number for each of {count} images.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= (np.iinfo(np.int32).max if classes is None else classes):
        most = "" if classes is None else f" and under {classes}"
        raise BadUsage(f"{shown(place)}: {key} holds labels from {low} to {high}, not 0 or more{most}.")
    return torch.from_numpy(array.reshape(-1).astype(np.int64))


def colours_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of images [N, H, W, C], computed exactly from counts of each value."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack(
        [torch.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[3])]
    ).double()
    total = counts.sum(1)
    mean = (counts @ values) / total
    std = ((counts @ values**2) / total - mean**2).clamp_min(0).sqrt()
    return mean.float(), torch.where(std < 1e-6, 1.0, std).float()


def resized(images: Tensor, image: int | None) -> Tensor:
    """Images [N, H, W, C] uint8 as squares with a side, or as they are."""
    if image is None or images.shape[1:3] == (image, image):
        return images.contiguous()
    parts = [middle(part.permute(0, 3, 1, 2), (image, image)) for part in torch.split(images, 1024)]
    return torch.cat([part.permute(0, 2, 3, 1) for part in parts if isinstance(part, Tensor)]).contiguous()
