"""Images in one tensor, and one training of the widths experiment: small, seeded, tested once at its end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from conet_graph.trials.augment import Augmentation

# The share of training images that only searches see: they decide widths.
HELD_OUT = 0.1
PEAK, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
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


def sample(npz: Path, folder: Path, side: int, train: int) -> tuple[Path, Path]:
    """The images of the experiment as two files: for trainings, and for searches (their test: held out).

    Args:
        npz: CIFAR-10 as x_train, y_train, x_test, y_test.
        folder: where the files go; those that are there are taken.
        side: of the images in pixels; smaller ones are means of squares of pixels.
        train: how many training images; those held out are others, unless all are asked for.

    """
    final, search = (folder / f"{use}-{side}-{train}.npz" for use in ("final", "search"))
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
        searched = rest[:train]
        np.savez(
            *(search,), x_train=shown["x_train"][searched], y_train=labels[searched],
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


def trained_accuracy(
    module: nn.Module, images: Images, epochs: int, batch: int, seed: int
) -> tuple[float, float]:
    """Train a module in place; its accuracy (0 to 1) on the test images at its end, and processor seconds.

    SGD with Nesterov momentum under one cosine; crops and flips. The order of the images and their variation
    depend on the seed only, so that trainings of one seed are pairs.
    """
    begun = time.process_time()
    device = images.train.device
    module.to(device, memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(seed)
    augmentation = Augmentation.of_side(images.train.shape[1], flip=True, cutout=False)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=PEAK, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    steps, step = epochs * (len(images.train) // batch), 0
    module.train()
    for _ in range(epochs):
        shuffled = torch.randperm(len(images.train), generator=order)
        for first in range(0, len(shuffled) - batch + 1, batch):
            chosen = shuffled[first : first + batch].to(device)
            draw = augmentation.draw(batch, *images.train.shape[1:3], order)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = module(images.normalised(draw.crop(images.train[chosen])))
                loss = cross_entropy(logits, images.train_labels[chosen])
            optimiser.param_groups[0]["lr"] = PEAK * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            step += 1
    accuracy = _accuracy(module, images)
    return accuracy, time.process_time() - begun


@torch.no_grad()
def _accuracy(module: nn.Module, images: Images) -> float:
    module.eval()
    right = 0
    for first in range(0, len(images.test), TESTED):
        part = slice(first, first + TESTED)
        answers = module(images.normalised(images.test[part])).argmax(1)
        right += int((answers == images.test_labels[part]).sum())
    return right / len(images.test)
