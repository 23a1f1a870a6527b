"""On a GPU: recorded steps of networks side by side train what single steps train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def network(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    convolution = nn.Conv2d(3, width, 3, padding=1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), *head)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().float().flatten() for value in module.state_dict().values()])


def test_networks_side_by_side_train_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from widths_steps import Step
    from widths_training import Images, _batches, trained_accuracies

    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (500, 8, 8, 3), generator=random, dtype=torch.uint8).to(GPU)
    labels = torch.randint(0, 10, (500,), generator=random).to(GPU)
    moments = pixels.float().mean((0, 1, 2)), pixels.float().std((0, 1, 2))
    images = Images(pixels, labels, pixels[:100], labels[:100], *moments)

    together = [network(8), network(16)]
    trained_accuracies(together, images, epochs=2, batch=50, seed=3)
    for module, width in zip(together, (8, 16), strict=True):
        alone = Step(network(width), GPU, 0.0)
        before = weights(alone.module).clone()
        for rate, shown, answers in _batches(images, 2, 50, 3):
            alone.optimiser.param_groups[0]["lr"] = rate
            alone.run(shown, answers)
        moved = (weights(alone.module) - before).norm()
        assert (weights(module) - weights(alone.module)).norm() < 0.05 * moved
