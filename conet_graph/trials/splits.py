"""Where the images of a training or test set lie, and how a batch of them gets to the device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conet_graph.ir.cores import cores
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.randomness import seed_of

MOST_WORKERS = 8
# Above this side, images are photographs: cropped at random scales, and shown with a margin cut off.
SMALL = 64
# What of a photograph's side is kept in a test: 224 of 256 pixels.
MARGIN = 256 / 224


class Step(NamedTuple):
    """One batch: which images, and the key of its random numbers (none: nothing is random)."""

    indices: Tensor
    key: tuple[int, ...] | None = None


class Split(Protocol):
    """Some images; ``size`` is (height, width, channels)."""

    @property
    def count(self) -> int:
        """How many images there are."""
        ...

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels of each image as it is loaded."""
        ...

    def load(self, steps: Iterable[Step], device: torch.device) -> Iterator[Tensor]:
        """Images [B, H, W, C] on the device, batch by batch, not normalised."""
        ...


@dataclass
class ArraySplit:
    """Images in memory, [N, H, W, C] uint8 (or float32): moved to the device once, as a whole."""

    pixels: Tensor
    _there: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.pixels.shape[1:]
        return int(height), int(width), int(channels)

    def load(self, steps: Iterable[Step], device: torch.device) -> Iterator[Tensor]:
        """Images [B, H, W, C] on the device, batch by batch."""
        if device not in self._there:
            self._there[device] = self.pixels.to(device)
        pixels = self._there[device]
        for step in steps:
            yield pixels.index_select(0, step.indices.to(device))


@dataclass
class FileSplit:
    """Image files, decoded by worker processes as they are needed; ``grey`` or RGB.

    ``random_crops`` is the customary augmentation of ImageNet (random resized crop, and flip unless
    ``random_flips`` is off), for steps that have a key; other steps show the middle of each image.
    """

    paths: Sequence[str]
    height: int
    width: int
    grey: bool = False
    random_crops: bool = False
    random_flips: bool = True
    workers: int | None = None

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.paths)

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, 1 if self.grey else 3

    def load(self, steps: Iterable[Step], device: torch.device) -> Iterator[Tensor]:
        """Images [B, H, W, C] uint8 on the device, batch by batch.

        Raises:
            BadUsage: a file is no image or is damaged.

        """
        on_gpu = device.type == "cuda"
        loader: DataLoader[Tensor | str] = DataLoader(
            _Decoder(self),
            batch_sampler=_Requests(steps),
            num_workers=default_workers() if self.workers is None else self.workers,
            collate_fn=_stacked,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # or it would draw from the generator that dropout uses
        )
        for batch in loader:
            if isinstance(batch, str):
                raise BadUsage(batch)
            yield batch.to(device, non_blocking=on_gpu)


def default_workers() -> int:
    """Worker processes for decoding: a core each, those shared out among the processes torchrun started."""
    return max(1, min(MOST_WORKERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


# One image to decode: its number, and a seed of its own, which makes its crop independent of the worker.
Request = tuple[int, int | None]


@dataclass
class _Requests:
    """The steps as a batch sampler; each image's seed follows from the step's key and the image."""

    steps: Iterable[Step]

    def __iter__(self) -> Iterator[list[Request]]:
        for indices, key in self.steps:
            yield [(i, None if key is None else seed_of(*key, i)) for i in indices.tolist()]


@dataclass
class _Decoder(Dataset["Tensor | str"]):
    """Decodes one image of a split; an unreadable one becomes the sentence that says so.

    (An exception would arrive with the worker's traceback in its message.)
    """

    split: FileSplit

    def __getitem__(self, request: Request) -> Tensor | str:
        from PIL import Image

        index, seed = request
        path = self.split.paths[index]
        try:
            with Image.open(path) as file:
                image = file.convert("L" if self.split.grey else "RGB")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            return _unreadable(path, error)
        return self._cropped(image, seed)

    def _cropped(self, image: object, seed: int | None) -> Tensor:
        from torchvision.transforms import v2

        size = (self.split.height, self.split.width)
        if seed is None or not self.split.random_crops:
            image = middle(image, size)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image = v2.RandomResizedCrop(size, antialias=True)(image)
                image = v2.RandomHorizontalFlip()(image) if self.split.random_flips else image
        pixels: Tensor = v2.functional.pil_to_tensor(image)
        return pixels.permute(1, 2, 0)


def middle(image: object, size: tuple[int, int]) -> object:
    """The middle of a PIL image (or [..., H, W] tensor) at a size (height, width), its proportions kept."""
    from torchvision.transforms import v2

    height, width = v2.functional.get_size(image)
    if (height, width) == tuple(size):
        return image
    margin = MARGIN if min(size) > SMALL else 1.0
    scale = max(size[0] / height, size[1] / width) * margin
    scaled = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    return v2.functional.center_crop(v2.functional.resize(image, scaled, antialias=True), list(size))


def _stacked(images: list[Tensor | str]) -> Tensor | str:
    """A batch, or the first sentence about an image that cannot be read."""
    faults = [image for image in images if isinstance(image, str)]
    return faults[0] if faults else torch.stack([i for i in images if isinstance(i, Tensor)])


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError | PermissionError):
        fault = "cannot be opened"
    else:
        fault = "is not an image" if type(error).__name__ == "UnidentifiedImageError" else "is damaged"
    return f"The image {shown(path, 200)} {fault}: mend or remove it."
