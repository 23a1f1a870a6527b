"""ResNets of basic blocks with the CIFAR stem (3x3, stride 1, no pooling)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        """Channels before, between and after the two convolutions."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages `layer1`, `layer2`, ... of basic blocks, mean over the image, classifier."""

    def __init__(self, blocks: tuple[int, ...], sizes: Mapping[str, int], classes: int) -> None:
        """Sizes as `resnet_sizes` names them."""
        super().__init__()
        channels = sizes["layer1"]
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        for index, (stage, count) in enumerate(zip(self.stages, blocks, strict=True)):
            layers = nn.Sequential()
            for block in range(count):
                stride = 2 if index and block == 0 else 1
                inner = sizes[f"{stage}.{block}"]
                layers.append(BasicBlock(channels, inner, sizes[stage], stride))
                channels = sizes[stage]
            self.add_module(stage, layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, classes]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def build(blocks: tuple[int, ...], sizes: Mapping[str, int], classes: int) -> ResNet:
    """Build a ResNet with so many basic blocks in each stage."""
    return ResNet(blocks, sizes, classes)
