"""MobileNetV2 (Sandler et al. 2018) in its form for small images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import relu6

from conet_graph.models.sizes import MOBILENETV2_STAGES


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; a shortcut where the shape stays."""

    def __init__(self, inputs: int, hidden: int | None, outputs: int, stride: int) -> None:
        """Without ``hidden`` there is no expansion."""
        super().__init__()
        self.expand: nn.Module | None = None
        if hidden is not None:
            self.expand = nn.Sequential(
                nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
            )
        inner = inputs if hidden is None else hidden
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: bool) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        inner = x if self.expand is None else self.expand(x)
        inner = relu6(self.bn1(self.depthwise(inner)))
        out: Tensor = self.bn2(self.project(inner))
        return out + x if residual else out


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residual blocks, a wide 1x1 convolution, classifier."""

    def __init__(self, sizes: Mapping[str, int], classes: int) -> None:
        """Sizes as `mobilenetv2_sizes` names them."""
        super().__init__()
        channels = sizes["stem"]
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList()
        self.residual: list[bool] = []
        for stage, (_, _, count, stride) in enumerate(MOBILENETV2_STAGES):
            outputs = sizes[f"stage{stage}"]
            for index in range(count):
                hidden = sizes.get(f"blocks.{len(self.blocks)}")
                step = 1 if index else stride
                self.blocks.append(InvertedResidual(channels, hidden, outputs, step))
                # By place, not by equal widths: which sizes are tied must not depend on the widths.
                self.residual.append(index > 0)
                channels = outputs
        self.head = nn.Conv2d(channels, sizes["head"], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(sizes["head"])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(sizes["head"], classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, classes]."""
        x = relu6(self.bn1(self.stem(x)))
        for block, residual in zip(self.blocks, self.residual, strict=True):
            x = block(x, residual)
        x = relu6(self.bn2(self.head(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def build(_layout: tuple[int, ...], sizes: Mapping[str, int], classes: int) -> MobileNetV2:
    """Build MobileNetV2; its layout is fixed."""
    return MobileNetV2(sizes, classes)
