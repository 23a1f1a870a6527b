"""The sources that ``--data`` can name: each opens to a training and a test set with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conet_graph.calibration.images import natural_side
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.arrays import class_labels, colours_of, read_npz, resized, uint8_images
from conet_graph.trials.splits import ArraySplit, FileSplit, Split

HELP = "digits, npz:FILE, folder:DIR, cifar10:DIR, cifar100:DIR or imagenet:DIR"
IMAGENET_SIDE = 224

# Mean and standard deviation of the training images' colours, in shares of 255.
Colours = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET_COLOURS: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR_COLOURS: dict[str, Colours] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True)
class Source:
    """A data set as it was found; ``mean`` and ``std`` [C] are in the units of the pixels.

    ``mirrored`` says that an image's mirror image shows the same: not so for digits and letters.
    """

    name: str
    classes: int
    train: Split
    train_labels: Tensor
    test: Split
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    mirrored: bool


# Opens a source at a place, its images at a side (their own if None), fetched where that is allowed.
Opener = Callable[[str, int | None, bool], Source]


def open_source(spec: str, *, image: int | None = None, download: bool = False) -> Source:
    """Open what ``--data`` names.

    Args:
        spec: one of ``HELP``.
        image: the side that images are scaled to; their own (224 for ``imagenet`` and photographs) if None.
        download: whether ``cifar10`` and ``cifar100`` may be fetched.

    Raises:
        BadUsage: there is no such source, or it is missing or malformed.

    """
    kind, _, place = spec.partition(":")
    if kind not in OPENERS or (kind == "digits") != (place == ""):
        raise BadUsage(f"There is no data {shown(spec)}: say {HELP}.")
    if image is not None and image < 1:
        raise BadUsage(f"Images cannot have a side of {image} pixels: use 1 or more.")
    return OPENERS[kind](place, image, download)


def _digits(place: str, image: int | None, download: bool) -> Source:
    """The digits of scikit-learn, 8x8; as in ``conet_graph.models.digits`` the network gets 0 to 1."""
    from conet_graph.models import digits

    data = digits.load()
    train, test = (
        torch.from_numpy((images * 16).astype(np.uint8)).permute(0, 2, 3, 1)
        for images in (data.train_images, data.test_images)
    )
    return Source(
        name="digits",
        classes=10,
        train=ArraySplit(resized(train, image)),
        train_labels=torch.from_numpy(data.train_labels),
        test=ArraySplit(resized(test, image)),
        test_labels=torch.from_numpy(data.test_labels),
        mean=torch.zeros(1),
        std=torch.full((1,), 16.0),
        mirrored=False,
    )


def _npz(place: str, image: int | None, download: bool) -> Source:
    """Arrays x_train, y_train, x_test, y_test (and classes, the names); colour images may be mirrored."""
    arrays = read_npz(Path(place), ("x_train", "y_train", "x_test", "y_test"), ("classes",))
    train, test = (uint8_images(arrays[key], place, key) for key in ("x_train", "x_test"))
    if train.shape[1:] != test.shape[1:]:
        raise BadUsage(f"{shown(place)}: images in x_train and x_test differ in shape.")
    names = arrays.get("classes")
    classes = len(names) if names is not None and names.ndim == 1 else None
    train_labels = class_labels(arrays["y_train"], place, "y_train", len(train), classes)
    classes = int(train_labels.max()) + 1 if classes is None else classes
    test_labels = class_labels(arrays["y_test"], place, "y_test", len(test), classes)
    mean, std = colours_of(train)
    return Source(
        name="npz",
        classes=classes,
        train=ArraySplit(resized(train, image)),
        train_labels=train_labels,
        test=ArraySplit(resized(test, image)),
        test_labels=test_labels,
        mean=mean,
        std=std,
        mirrored=train.shape[3] == 3,
    )


def _cifar(kind: str, place: str, image: int | None, download: bool) -> Source:
    from torchvision import datasets

    maker = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    try:
        sets = [maker(place, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise BadUsage(_why_not(kind, place, error, download)) from None
    splits = [ArraySplit(resized(torch.from_numpy(data.data), image)) for data in sets]
    labels = [torch.tensor(data.targets, dtype=torch.int64) for data in sets]
    mean, std = CIFAR_COLOURS[kind]
    return Source(
        name=kind,
        classes=len(sets[0].classes),
        train=splits[0],
        train_labels=labels[0],
        test=splits[1],
        test_labels=labels[1],
        mean=torch.tensor(mean) * 255,
        std=torch.tensor(std) * 255,
        mirrored=True,
    )


def _why_not(kind: str, place: str, error: Exception, download: bool) -> str:
    if isinstance(error, OSError):
        verb = "fetched into" if download else "read from"
        reason = str(getattr(error, "reason", None) or error.strerror or error).strip()
        return f"The data {kind} cannot be {verb} {shown(place)}: {reason.splitlines()[0]}."
    return f"{shown(place)} does not hold {kind} as torchvision unpacks it: name its folder, or download it."


def _cifar10(place: str, image: int | None, download: bool) -> Source:
    return _cifar("cifar10", place, image, download)


def _cifar100(place: str, image: int | None, download: bool) -> Source:
    return _cifar("cifar100", place, image, download)


def _imagenet(place: str, image: int | None, download: bool) -> Source:
    """ImageNet 2012 as torchvision keeps it; it cannot be fetched freely."""
    from torchvision import datasets

    if download:
        raise BadUsage("ImageNet cannot be downloaded freely: get its archives from image-net.org.")
    try:
        sets = [datasets.ImageNet(place, split) for split in ("train", "val")]
    except (RuntimeError, OSError, ValueError, EOFError):
        raise BadUsage(
            f"{shown(place)} does not hold ImageNet 2012: put the three archives of image-net.org there,"
            " or use folder:DIR for a folder of classes."
        ) from None
    return _of_files("imagenet", sets, image or IMAGENET_SIDE)


def _folder(place: str, image: int | None, download: bool) -> Source:
    """A folder with train/ and test/ (or val/), each with one folder of images for each class."""
    from torchvision import datasets

    root = Path(place)
    test = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None or not (root / "train").is_dir():
        raise BadUsage(f"{shown(place)} is not a folder with train/ and test/ (or val/) in it.")
    try:
        sets = [datasets.ImageFolder(root / name) for name in ("train", test)]
    except (OSError, ValueError) as error:
        raise BadUsage(f"{shown(place)} cannot be used: {_first_sentence(error)}.") from None
    if sets[0].classes != sets[1].classes:
        odd = sorted(set(sets[0].classes) ^ set(sets[1].classes))[0]
        raise BadUsage(
            f"{shown(place)}: train/ and {test}/ have not the same classes: {shown(odd)} is in one only."
        )
    return _of_files("folder", sets, image or natural_side(sets[0].samples[0][0]))


def _of_files(name: str, sets: list[Any], side: int) -> Source:
    paths = [[path for path, _ in data.samples] for data in sets]
    labels = [torch.tensor([label for _, label in data.samples], dtype=torch.int64) for data in sets]
    mean, std = IMAGENET_COLOURS
    return Source(
        name=name,
        classes=len(sets[0].classes),
        train=FileSplit(paths[0], side, side),
        train_labels=labels[0],
        test=FileSplit(paths[1], side, side),
        test_labels=labels[1],
        mean=torch.tensor(mean) * 255,
        std=torch.tensor(std) * 255,
        mirrored=True,
    )


def _first_sentence(error: Exception) -> str:
    return shown(str(error).splitlines()[0].rstrip("."), 300)[1:-1] if str(error) else type(error).__name__


OPENERS: dict[str, Opener] = {
    "digits": _digits,
    "npz": _npz,
    "folder": _folder,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet": _imagenet,
}
