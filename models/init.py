"""Weights drawn otherwise than PyTorch draws them."""

from __future__ import annotations

from typing import Literal

from torch import nn


def kaiming(module: nn.Module, after_relu: bool = True) -> None:
    """Draw the convolutions' weights after He et al. 2015; norms and classifiers keep torch's.

    With torch's own draw and an untrained BatchNorm the signal dies out in deep networks: their
    output is the classifier's bias for every image, and comparing two networks shows nothing.
    Without ``after_relu`` the weights are smaller by the square root of two: in a cell, where half
    of the convolutions follow no ReLU and each node adds two terms, the signal would explode.
    """
    follows: Literal["relu", "linear"] = "relu" if after_relu else "linear"
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            # Fan-in, because torch's fan-out overlooks the groups of a depthwise convolution.
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity=follows)
