"""Torchvision's classification and segmentation networks, with fresh weights."""

from __future__ import annotations

import torchvision
from torch import nn

# Their constructors warn unless told whether to initialise.
_ASKS_FOR_INIT = ("googlenet", "inception_v3")


def available() -> list[str]:
    """Names of the networks that map one batch of images to one tensor."""
    packages = (torchvision.models, torchvision.models.segmentation)
    return [name for package in packages for name in torchvision.models.list_models(package)]


def build(name: str, classes: int) -> nn.Module:
    """Build a network without trained weights.

    Raises:
        ValueError: torchvision has no such classification or segmentation network.

    """
    if name not in available():
        raise ValueError(f"torchvision has no classification or segmentation network {name!r}")
    options: dict[str, object] = {"weights": None, "num_classes": classes}
    if name in torchvision.models.list_models(torchvision.models.segmentation):
        options["weights_backbone"] = None
    if name in _ASKS_FOR_INIT:
        options["init_weights"] = True
    module: nn.Module = torchvision.models.get_model(name, **options)
    return module
