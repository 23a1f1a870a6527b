"""Networks of DARTS and DARTS+ cells (Liu et al. 2019, Liang et al. 2019) with free widths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conet_graph.models.darts_ops import (
    DilConv,
    FactorizedReduce,
    ReluConvBn,
    SepConv,
    drop_path,
)
from conet_graph.models.genotypes import GENOTYPES, CellSpec, is_reduction, stem_sizes
from conet_graph.models.zoo import IMAGENET_FROM


class Cell(nn.Module):
    """Four nodes, each the sum of two operations; the output is their concatenation."""

    def __init__(
        self,
        spec: CellSpec,
        sizes: Mapping[str, int],
        inputs: tuple[int, int],
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        """Build the cell.

        Args:
            spec: Its operations.
            sizes: The widths of its sizes: C0, C1, ..., mid1, ...
            inputs: Channels of the outputs of the cell before the last one, and of the last one.
            reduction: Whether it halves the resolution.
            after_reduction: Whether the last cell did, so that the first input is twice as large.

        """
        super().__init__()
        widths = [sizes[state] for state in spec.states]
        first = FactorizedReduce if after_reduction else ReluConvBn
        self.preprocess0 = first(inputs[0], widths[0])
        self.preprocess1 = ReluConvBn(inputs[1], widths[1])
        self.reads = [state for _, state in spec.ops]
        self.ops = nn.ModuleList()
        middle = 0
        for index, (op, state) in enumerate(spec.ops):
            stride = 2 if reduction and state < 2 else 1
            outputs = widths[2 + index // 2]
            if op.startswith("sep_conv"):
                middle += 1
                kernel = int(op[-1])
                built: nn.Module = SepConv(widths[state], sizes[f"mid{middle}"], outputs, kernel, stride)
            elif op.startswith("dil_conv"):
                built = DilConv(widths[state], outputs, int(op[-1]), stride)
            elif op == "max_pool_3x3":
                built = nn.MaxPool2d(3, stride, padding=1)
            else:
                built = nn.Identity() if stride == 1 else FactorizedReduce(widths[state], outputs)
            self.ops.append(built)
        self.outputs = sum(widths[2:])

    def forward(self, before: Tensor, last: Tensor, drop: float) -> Tensor:
        """Map the outputs of the two cells before to [N, outputs, H, W] (halved in a reduction)."""
        states = [self.preprocess0(before), self.preprocess1(last)]
        terms: list[Tensor] = []
        for op, state in zip(self.ops, self.reads, strict=True):
            term = op(states[state])
            if self.training and drop > 0 and not isinstance(op, nn.Identity):
                term = drop_path(term, drop)
            terms.append(term)
            if len(terms) % 2 == 0:
                states.append(terms[-2] + terms[-1])
        return torch.cat(states[2:], dim=1)


class AuxiliaryHead(nn.Module):
    """The second classifier of DARTS' evaluation, on the feature map after the last reduction."""

    def __init__(self, inputs: int, side: int, classes: int) -> None:
        """Set up for feature maps of this side, in pixels."""
        super().__init__()
        if side < 6:
            raise ValueError(
                f"the auxiliary head sees {side}x{side} pixels and needs 6x6: take larger images"
            )
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=side - 5, count_include_pad=False),
            nn.Conv2d(inputs, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, side, side] to logits [N, classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def cifar_stem(widths: list[int]) -> nn.Sequential:
    """3x3 convolution and BatchNorm, full resolution."""
    return nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]))


def imagenet_stems(widths: list[int]) -> tuple[nn.Sequential, nn.Sequential]:
    """DARTS' ImageNet stem: to a quarter of the resolution, and on to an eighth."""

    def halve(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return conv, nn.BatchNorm2d(outputs)

    quarter = nn.Sequential(*halve(3, widths[0]), nn.ReLU(), *halve(widths[0], widths[1]))
    return quarter, nn.Sequential(nn.ReLU(), *halve(widths[1], widths[2]))


class CellNetwork(nn.Module):
    """Stem, cells, mean over the image, classifier.

    ``drop_path`` may be changed between epochs, as DARTS' evaluation does, which raises it
    linearly.
    """

    def __init__(
        self,
        family: str,
        cells: int,
        sizes: Mapping[str, int],
        classes: int,
        image: int,
        auxiliary: bool,
        drop_path: float,
    ) -> None:
        """Sizes as `cell_network_sizes` names them; the other options as in `zoo.build`."""
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop path {drop_path} is no probability below 1")
        self.drop_path = drop_path
        imagenet = image >= IMAGENET_FROM
        widths = [sizes[name] for name in stem_sizes(imagenet)]
        self.stem1: nn.Module | None = None
        if imagenet:
            self.stem, self.stem1 = imagenet_stems(widths)
            inputs = (widths[1], widths[2])
        else:
            self.stem = cifar_stem(widths)
            inputs = (widths[0], widths[0])
        self.cells = nn.ModuleList()
        genotype, reduced = GENOTYPES[family], imagenet
        self.auxiliary_after = 2 * cells // 3
        self.auxiliary_head: nn.Module | None = None
        for index in range(cells):
            reduction = is_reduction(index, cells)
            spec = genotype.reduction if reduction else genotype.normal
            own = {size: sizes[f"cells.{index}.{size}"] for size in spec.sizes()}
            cell = Cell(spec, own, inputs, reduction, reduced)
            self.cells.append(cell)
            inputs, reduced = (inputs[1], cell.outputs), reduction
            if auxiliary and index == self.auxiliary_after:
                side = image // (32 if imagenet else 4)
                self.auxiliary_head = AuxiliaryHead(cell.outputs, side, classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs[1], classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[N, 3, H, W] to logits [N, classes]; with an auxiliary head in training, to both."""
        before = last = self.stem(x)
        if self.stem1 is not None:
            last = self.stem1(before)
        extra: Tensor | None = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.training and self.auxiliary_head is not None and index == self.auxiliary_after:
                extra = self.auxiliary_head(last)
        logits: Tensor = self.classifier(torch.flatten(self.pool(last), 1))
        return logits if extra is None else (logits, extra)


def build(
    family: str,
    cells: int,
    sizes: Mapping[str, int],
    classes: int,
    image: int,
    auxiliary: bool,
    drop_path: float,
) -> CellNetwork:
    """Build a network of so many cells."""
    return CellNetwork(family, cells, sizes, classes, image, auxiliary, drop_path)
