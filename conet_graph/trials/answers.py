"""How a network takes images and gives scores, found out once with one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.protocol import ClassificationData

# Probabilities are lifted to this before their logarithm is taken.
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Answers:
    """What must be done to images before a network and to its output after it.

    Attributes:
        channels_last_input: the network takes [N, H, W, C], as those of TensorFlow do.
        probabilities: it ends in a Softmax.

    """

    channels_last_input: bool = False
    probabilities: bool = False

    def scores(self, module: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
        """Logits [N, classes] in float32 of the output, and of auxiliary outputs after it."""
        output = module(self.arranged(images))
        several = output if isinstance(output, tuple | list) else [output]
        return [self._logits(one) for one in several]

    def arranged(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] as the network takes them."""
        return images.permute(0, 2, 3, 1) if self.channels_last_input else images

    def _logits(self, output: Tensor) -> Tensor:
        flat = output.flatten(1).float()
        # The logarithm of a softmax is its input, but for a constant that the loss does not see.
        return flat.clamp_min(TINY).log() if self.probabilities else flat


def find_answers(module: nn.Module, data: ClassificationData, device: torch.device) -> Answers:
    """Run one test batch through a module in evaluation mode and see how it takes and answers it.

    Raises:
        BadUsage: the network does not take images of this shape, or does not give one score a class.

    """
    images, labels = next(data.test(2, device=device))
    if not 0 <= int(labels.min()) <= int(labels.max()) < data.classes:
        raise BadUsage(f"The data {shown(data.name)} has labels outside 0 to {data.classes - 1}.")
    was_training = module.training
    module.eval()
    try:
        last, output = _run(module, images, data)
    finally:
        module.train(was_training)
    if not isinstance(output, Tensor):
        count = len(output) if isinstance(output, tuple | list) else "no"
        raise BadUsage(f"The network has {count} outputs: training takes one, of a score for each class.")
    scores = output.flatten(1)
    if output.shape[:1] != images.shape[:1] or scores.shape[1] != data.classes:
        raise BadUsage(
            f"The network answers a batch of {len(images)} with {list(output.shape)}, and the data"
            f" {shown(data.name)} has {data.classes} classes: the network must give {data.classes} scores"
            " an image."
        )
    return Answers(last, are_probabilities(scores.float()) and data.classes > 1)


def are_probabilities(rows: Tensor) -> bool:
    """Whether no number is negative and each row sums to one."""
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def _run(module: nn.Module, images: Tensor, data: ClassificationData) -> tuple[bool, Any]:
    """The output, and whether the images had to have their channels last."""
    first: Exception | None = None
    for last in (False, True):
        try:
            with torch.no_grad():
                return last, module(images.permute(0, 2, 3, 1) if last else images)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            first = first or error
    channels, height, width = data.shape
    raise BadUsage(
        f"The network does not take the images of {shown(data.name)}, {channels} x {height} x {width}"
        f" (channels, height, width): {' '.join(str(first).split())[:200]}"
    )
