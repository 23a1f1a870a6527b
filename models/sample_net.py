"""The small network of models/samples: a residual, a depthwise convolution and a concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm, resolution kept at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class SampleNet(nn.Module):
    """A classifier of 8x8 grey images with one of each thing that ties channels together."""

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        """Take the width of the stem and of the residual sum."""
        super().__init__()
        self.stem = _unit(1, width, 3)
        self.res1 = _unit(width, 32, 3)
        self.res2 = _unit(32, width, 3)
        self.down = _unit(width, 40, 3, stride=2)
        self.depthwise = _unit(40, 40, 3, groups=40)
        self.pointwise = _unit(40, 48, 1)
        self.side = _unit(width, 16, 1, stride=2)
        self.merge = _unit(48 + 16, 64, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 8, 8] to logits [N, classes]."""
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.res2(torch.relu(self.res1(x))))
        deep = torch.relu(self.depthwise(torch.relu(self.down(x))))
        deep = torch.relu(self.pointwise(deep))
        wide = torch.relu(self.side(x))
        merged = torch.relu(self.merge(torch.cat([deep, wide], dim=1)))
        logits: Tensor = self.fc(torch.flatten(self.pool(merged), 1))
        return logits
