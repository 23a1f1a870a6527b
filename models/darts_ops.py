"""The operations of a DARTS cell. Every BatchNorm has its scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReluConvBn(nn.Module):
    """ReLU, 1x1 convolution, BatchNorm: the preprocessing of a cell's input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Channels before and after."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        out: Tensor = self.bn(self.conv(torch.relu(x)))
        return out


class FactorizedReduce(nn.Module):
    """Halve the resolution: two 1x1 convolutions of stride 2, one shifted by a pixel, joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Split the outputs in half; of an odd number the second half gets one more."""
        super().__init__()
        if outputs < 2:
            raise ValueError("a FactorizedReduce needs at least 2 output channels, one for each half")
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/2, W/2]; H and W even."""
        x = torch.relu(x)
        out: Tensor = self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))
        return out


class DilConv(nn.Module):
    """ReLU, dilated depthwise, pointwise, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        """Dilation 2, resolution kept at stride 1."""
        super().__init__()
        self.depthwise = nn.Conv2d(
            inputs, inputs, kernel, stride, kernel - 1, dilation=2, groups=inputs, bias=False
        )
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        out: Tensor = self.bn(self.pointwise(self.depthwise(torch.relu(x))))
        return out


class SepConv(nn.Module):
    """Twice: ReLU, depthwise, pointwise, BatchNorm; the first time with the stride."""

    def __init__(self, inputs: int, middle: int, outputs: int, kernel: int, stride: int) -> None:
        """Channels before, between and after the two separable convolutions."""
        super().__init__()
        pad = kernel // 2
        self.depthwise1 = nn.Conv2d(inputs, inputs, kernel, stride, pad, groups=inputs, bias=False)
        self.pointwise1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.depthwise2 = nn.Conv2d(middle, middle, kernel, 1, pad, groups=middle, bias=False)
        self.pointwise2 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        x = self.bn1(self.pointwise1(self.depthwise1(torch.relu(x))))
        out: Tensor = self.bn2(self.pointwise2(self.depthwise2(torch.relu(x))))
        return out


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero whole samples with this probability, and scale the others up to keep the mean."""
    keep = 1.0 - probability
    mask = torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), keep, dtype=x.dtype, device=x.device))
    return x * mask / keep
