"""Images in one tensor, and one training of the widths experiment: small, seeded, tested once at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from widths_steps import PEAK, RecordedStep, Step, rate_at

from conet_graph.trials.augment import Augmentation

# The share of training images that only searches see: they decide widths.
HELD_OUT = 0.1
# Images are tested so many at a time.
TESTED = 1_000


@dataclass(frozen=True)
class Images:
    """A fixed sample of CIFAR-10: uint8 images [N, H, W, C] and labels [N], to train on and to test on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    mean: Tensor
    deviation: Tensor

    def normalised(self, images: Tensor) -> Tensor:
        """[B, H, W, C] of bytes to [B, C, H, W] of about unit variance, channels last in memory."""
        return ((images.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)


def sample(npz: Path, folder: Path, side: int, train: int, searched: int) -> tuple[Path, Path]:
    """The images of the experiment as two files: for trainings, and for searches (their test: held out).

    Args:
        npz: CIFAR-10 as x_train, y_train, x_test, y_test.
        folder: where the files go; those that are there are taken.
        side: of the images in pixels; smaller ones are means of squares of pixels.
        train: how many training images; those held out are others, unless all are asked for.
        searched: how many training images searches have; those held out are always others.

    """
    final, search = (folder / f"{use}-{side}-{n}.npz" for use, n in (("final", train), ("search", searched)))
    if not (final.exists() and search.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(npz) as data:
            images = {name: data[name] for name in ("x_train", "y_train", "x_test", "y_test")}
        order = np.random.default_rng(0).permutation(len(images["x_train"]))
        held, rest = np.split(order, [round(HELD_OUT * len(order))])
        chosen = order if train >= len(order) else rest[:train]
        shown = {name: _scaled(images[name], side) for name in ("x_train", "x_test")}
        labels = images["y_train"]
        np.savez(
            *(final,), x_train=shown["x_train"][chosen], y_train=labels[chosen],
            x_test=shown["x_test"], y_test=images["y_test"],
        )  # fmt: skip
        known = rest[:searched]
        np.savez(
            *(search,), x_train=shown["x_train"][known], y_train=labels[known],
            x_test=shown["x_train"][held], y_test=labels[held],
        )  # fmt: skip
    return final, search


def _scaled(images: np.ndarray, side: int) -> np.ndarray:
    """Images [N, H, W, C] of bytes with this side."""
    factor = images.shape[1] // side
    if factor == 1:
        return images
    means = [
        avg_pool2d(torch.from_numpy(part).permute(0, 3, 1, 2).float(), factor)
        for part in np.array_split(images, 10)
    ]
    return torch.cat(means).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def read_images(path: Path, device: str) -> Images:
    """The images of a file of `sample`, on a device."""
    with np.load(path) as data:
        parts = {name: torch.from_numpy(data[name]).to(device) for name in data.files}
    pixels = parts["x_train"][:5_000].float()
    moments = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return Images(parts["x_train"], parts["y_train"], parts["x_test"], parts["y_test"], *moments)


def trained_accuracies(
    modules: Sequence[nn.Module], images: Images, epochs: int, batch: int, seed: int
) -> tuple[list[float], float]:
    """Train modules in place on the same batches; their accuracies (0 to 1) on the test images, and seconds.

    SGD with Nesterov momentum under one cosine; crops and flips. The order of the images and their variation
    depend on the seed only, so that trainings of one seed are pairs. On a GPU the modules train side by side,
    and the seconds are the clock's; elsewhere one after the other, in seconds of the processor.
    """
    if images.train.device.type == "cuda":
        begun = time.perf_counter()
        _train_side_by_side(modules, images, epochs, batch, seed)
        found = [_accuracy(module, images) for module in modules]
        return found, time.perf_counter() - begun
    begun = time.process_time()
    for module in modules:
        step = Step(module, images.train.device, PEAK)
        for rate, shown, labels in _batches(images, epochs, batch, seed):
            step.optimiser.param_groups[0]["lr"] = rate
            step.run(shown, labels)
    return [_accuracy(module, images) for module in modules], time.process_time() - begun


def _train_side_by_side(
    modules: Sequence[nn.Module], images: Images, epochs: int, batch: int, seed: int
) -> None:
    """A step of every module a batch, each recorded once."""
    steps: list[RecordedStep] = []
    for rate, shown, labels in _batches(images, epochs, batch, seed):
        if not steps:
            memory = shown.clone(), labels.clone(), torch.full((), rate, device=shown.device)
            steps = [RecordedStep(module, *memory) for module in modules]
        for kept, new in zip(memory, (shown, labels, rate), strict=True):
            kept.copy_(new) if isinstance(new, Tensor) else kept.fill_(new)
        for step in steps:
            step.replay()
        for step in steps:
            step.wait()


def _batches(images: Images, epochs: int, batch: int, seed: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Learning rate, normalised images [B, C, H, W] and labels [B] of every step."""
    device = images.train.device
    order = torch.Generator().manual_seed(seed)
    augmentation = Augmentation.of_side(images.train.shape[1], flip=True, cutout=False)
    steps, step = epochs * (len(images.train) // batch), 0
    for _ in range(epochs):
        shuffled = torch.randperm(len(images.train), generator=order).to(device)
        for first in range(0, len(shuffled) - batch + 1, batch):
            chosen = shuffled[first : first + batch]
            draw = augmentation.draw(batch, *images.train.shape[1:3], order)
            shown = images.normalised(draw.crop(images.train[chosen]))
            yield rate_at(step / steps), shown, images.train_labels[chosen]
            step += 1


@torch.no_grad()
def _accuracy(module: nn.Module, images: Images) -> float:
    module.eval()
    right = 0
    for first in range(0, len(images.test), TESTED):
        part = slice(first, first + TESTED)
        answers = module(images.normalised(images.test[part])).argmax(1)
        right += int((answers == images.test_labels[part]).sum())
    return right / len(images.test)
