"""VGG-11 with BatchNorm, one linear classifier on the mean over the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conet_graph.models.sizes import VGG11_LAYOUT


class VGG(nn.Module):
    """A chain of 3x3 convolutions and max pools."""

    def __init__(self, sizes: Mapping[str, int], classes: int) -> None:
        """Sizes as `vgg11_sizes` names them."""
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        channels = 3
        for width in sizes.values():
            self.convs.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            self.norms.append(nn.BatchNorm2d(width))
            channels = width
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, classes]."""
        layers = iter(zip(self.convs, self.norms, strict=True))
        for item in VGG11_LAYOUT:
            if item == "M":
                x = self.halve(x)
            else:
                conv, norm = next(layers)
                x = torch.relu(norm(conv(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def build(_layout: tuple[int, ...], sizes: Mapping[str, int], classes: int) -> VGG:
    """Build VGG-11; its layout is fixed."""
    return VGG(sizes, classes)
