"""A problem that a small network learns in a second: bright spots on noise, four classes of places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conet_graph.trials.settings import TrainSettings
from conet_graph.trials.training import ClassificationTrial

SETTINGS = TrainSettings(batch=32, learning_rate=0.05)
EPOCHS = 3


def images_of(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey images [N, 1, 8, 8] with a bright 4 x 4 corner, which is the label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    images = random.normal(0, 1, (count, 1, 8, 8)).astype(np.float32)
    for index, label in enumerate(labels):
        row, column = 4 * (label // 2 % 2), 4 * (label % 2)
        images[index, 0, row : row + 4, column : column + 4] += 1.0
    return torch.from_numpy(images), torch.from_numpy(labels)


@dataclass
class Spots:
    """Data with the interface that trials ask for."""

    count: int = 320
    classes: int = 4
    name: str = "spots"
    shape: tuple[int, int, int] = (1, 8, 8)

    def train_batches(self, batch: int, world: int = 1) -> int:
        return self.count // (batch * world)

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
        images, labels = images_of(self.count, self.classes, 0)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for number in range(first_batch, self.train_batches(batch, world)):
            chosen = order[number * batch * world : (number + 1) * batch * world][rank::world]
            yield images[chosen].to(device), labels[chosen].to(device)

    def test(
        self, batch: int, *, device: str | torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = images_of(160, self.classes, 1)
        for part in torch.arange(len(images))[rank::world].split(batch):
            yield images[part].to(device), labels[part].to(device)


def small_net(classes: int = 4, seed: int = 0, *tail: nn.Module) -> nn.Sequential:
    """Two convolutions with BatchNorm, dropout (so that random numbers matter), a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(128, classes),
            *tail,
        )


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without the seconds, which no two runs share."""
    return {name: value for name, value in metrics.items() if name != "seconds"}


class Interrupting(Spots):
    """Does something when a certain batch is asked for, such as a signal or an error."""

    def __init__(self, epoch: int, batch: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.place, self.action = (epoch, batch), action

    def train(self, batch: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for number, both in enumerate(super().train(batch, **options), options["first_batch"]):
            if (options["epoch"], number) == self.place:
                self.action()
            yield both


def trained(
    settings: TrainSettings,
    kept: Path | None = None,
    data: Spots | None = None,
    seed: int = 5,
    device: str = "cpu",
) -> Any:
    """The network after all epochs, and what was yielded."""
    module = small_net()
    trial = ClassificationTrial(data or Spots(), settings, device)
    return module, [numbers(m) for m in trial(module, EPOCHS, seed=seed, checkpoint=kept)]
