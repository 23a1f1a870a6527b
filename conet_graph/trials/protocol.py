"""What a trial is, and what it needs of its data: anything with these methods plugs in.

A trial trains a network for some epochs. The built-in one is
`conet_graph.trials.training.ClassificationTrial`; docs/TRIALS.md shows a plain loop and Lightning.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Metrics = Mapping[str, float]
Batches = Iterator[tuple[Tensor, Tensor]]


class Trial(Protocol):
    """Trains a module in place, and yields after each epoch.

    What it yields are the epoch's metrics by name (`test_accuracy`, 0 to 1, is the one that tables
    show), or None. While it waits in `yield`, the module holds the weights of that epoch's end: they
    are measured then. A trial may also take the keywords `seed` and `checkpoint`; see `start`.
    """

    def __call__(self, module: nn.Module, epochs: int) -> Iterator[Metrics | None]:
        """Train for so many epochs."""
        ...


class ClassificationData(Protocol):
    """Images and their classes, as `conet_graph.trials.data.open_data` gives them."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def classes(self) -> int:
        """How many classes there are; labels are 0 to classes - 1."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image as the network gets it."""
        ...

    def train_batches(self, batch: int, world: int = 1) -> int:
        """How many batches one process sees in an epoch."""
        ...

    def train(
        self,
        batch: int,
        *,
        seed: int,
        epoch: int,
        device: torch.device,
        first_batch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Batches:
        """One epoch of images [B, C, H, W] float32 and labels [B] int64, from `first_batch` on.

        What batch number k of an epoch holds depends on the seed, the epoch and k only.
        """
        ...

    def test(self, batch: int, *, device: torch.device, rank: int = 0, world: int = 1) -> Batches:
        """The test images, each once, always in the same order."""
        ...


def start(
    trial: Trial,
    module: nn.Module,
    epochs: int,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Iterator[Metrics | None]:
    """Start a trial, with the keywords `seed` and `checkpoint` if it takes them.

    A trial that takes `checkpoint` goes on from the file when it is there: it yields the last epoch
    that was complete once more, then the next ones. Any other trial begins again.
    """
    offered: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint}
    parameters = inspect.signature(trial).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    keywords = {k: v for k, v in offered.items() if takes_all or k in names}
    return trial(module, epochs, **keywords)
