"""The networks of outside.py, with random weights, as ONNX files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def ultralytics(name: str, path: Path) -> None:
    """Built from the package's public configuration, and written by its own exporter."""
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    from ultralytics import RTDETR, YOLO

    made = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    with contextlib.chdir(path.parent):
        written = made.export(format="onnx", imgsz=160, opset=17, simplify=False, device="cpu", verbose=False)
        Path(written).rename(path)


def pytorchcv(name: str, path: Path) -> None:
    """A network of pytorchcv's model provider."""
    import torch
    from pytorchcv.model_provider import get_model

    export(get_model(name, pretrained=False), torch.randn(1, 3, 224, 224), path)


def torchvision(name: str, path: Path) -> None:
    """An optical flow network of torchvision, for two images."""
    import torch
    from torchvision.models import get_model

    export(get_model(name, weights=None), (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128)), path)


def timm(name: str, path: Path) -> None:
    """A network of timm."""
    import torch
    from timm import create_model

    export(create_model(name, pretrained=False), torch.randn(1, 3, 64, 64), path)


def crnn(name: str, path: Path) -> None:
    """CRNN (Shi et al. 2015): convolutions, two bidirectional LSTMs over columns, a class for each column."""
    import torch
    from torch import nn

    def block(width: int, out: int, *, norm: bool) -> list[nn.Module]:
        return [nn.Conv2d(width, out, 3, padding=1), *([nn.BatchNorm2d(out)] if norm else []), nn.ReLU()]

    class Columns(nn.Module):
        """The recurrent half: a map of one row, column by column."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(512, 256, bidirectional=True)
            self.between = nn.Linear(512, 256)
            self.second = nn.LSTM(256, 256, bidirectional=True)
            self.last = nn.Linear(512, 37)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = x.squeeze(2).permute(2, 0, 1)
            return self.last(self.second(self.between(self.first(steps)[0]))[0])

    maps = [*block(1, 64, norm=False), nn.MaxPool2d(2), *block(64, 128, norm=False), nn.MaxPool2d(2)]
    maps += [*block(128, 256, norm=True), *block(256, 256, norm=False), nn.MaxPool2d((2, 1))]
    maps += [*block(256, 512, norm=True), *block(512, 512, norm=False), nn.MaxPool2d((2, 1))]
    maps += [nn.Conv2d(512, 512, 2), nn.BatchNorm2d(512), nn.ReLU()]
    export(nn.Sequential(*maps, Columns()), torch.randn(1, 1, 32, 100), path)


def condconv(name: str, path: Path) -> None:
    """CondConv (Yang et al. 2019): each image mixes the kernels of four experts for itself."""
    import torch
    from torch import nn
    from torch.nn import functional

    class CondConv(nn.Module):
        """A convolution whose kernel is a sum of experts, weighed by the image."""

        def __init__(self, width: int, out: int) -> None:
            super().__init__()
            self.routes = nn.Linear(width, 4)
            self.experts = nn.Parameter(torch.randn(4, out * width * 9) * (9 * width) ** -0.5)
            self.width, self.out = width, out

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shares = torch.sigmoid(self.routes(x.mean((2, 3))))
            kernel = (shares @ self.experts).reshape(self.out, self.width, 3, 3)  # of the one image
            return functional.conv2d(x, kernel, padding=1)

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
    for width, out in ((16, 32), (32, 64)):
        layers += [CondConv(width, out), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    export(nn.Sequential(*layers), torch.randn(1, 3, 64, 64), path)


YOLO = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolov8n-seg", "yolov9c-seg", "yolo11n-seg")
NETWORKS: dict[tuple[str, str], Callable[[str, Path], None]] = {
    **{("ultralytics", name): ultralytics for name in (*YOLO, "yolov8n-pose", "yolo11n-pose", "rtdetr-l")},
    **{("pytorchcv", n): pytorchcv for n in ("dicenet_wd5", "shufflenet_g3_wd4", "bam_resnet50")},
    ("torchvision", "raft_small"): torchvision,
    **{("timm", n): timm for n in ("fasternet_t0", "efficientnet_cc_b0_4e")},
    ("written here", "crnn"): crnn,
    ("written here", "condconv"): condconv,
}


def export(model: Any, arguments: Any, path: Path) -> None:
    """Write the ONNX file, by the exporter that takes the network."""
    import torch

    try:
        torch.onnx.export(model.eval(), arguments, str(path), opset_version=17, dynamo=False)
    except Exception:  # any: what this exporter cannot do, the other one may
        torch.onnx.export(model.eval(), arguments, str(path), dynamo=True, verbose=False)
