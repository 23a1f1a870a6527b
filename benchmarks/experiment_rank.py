"""Whether the rank of weights foretells the accuracy, like for like: random cells of one space, one width.

    python benchmarks/experiment_rank.py --npz cifar10.npz --cells 60
    python benchmarks/experiment_rank.py --table

The space is that of NAS-Bench-201 (Dong and Yang, 2020), at a small size: three stages of one cell, each of
the cell's six edges one of five operations, all convolutions of a stage equally wide. Every cell is trained
alike and measured at its end. Rows are kept as they come; the same command goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment_widths import DATA, Rows
from scipy.stats import spearmanr
from torch import Tensor, nn
from widths_training import Images, read_images, sample, trained_accuracies

from conet_graph.indicators import layer_indicators
from conet_graph.search.rules.conetv2 import quality

# The cell's edges, from node to node; node 0 is its input, node 3 its output.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool3")
RESAMPLES = 2_000


class Cell(nn.Module):
    """Nodes are sums of what the operations on their edges make of the nodes before."""

    def __init__(self, operations: Sequence[str], width: int) -> None:
        """One operation an edge, in the order of `EDGES`."""
        super().__init__()
        self.ops = nn.ModuleDict(
            {str(k): _operation(op, width) for k, op in enumerate(operations) if op != "none"}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same shape."""
        nodes = [x]
        for node in (1, 2, 3):
            into = [(k, source) for k, (source, target) in enumerate(EDGES) if target == node]
            terms = [self.ops[str(k)](nodes[source]) for k, source in into if str(k) in self.ops]
            nodes.append(torch.stack(terms).sum(0) if terms else torch.zeros_like(x))
        return nodes[3]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(outputs))


def _operation(name: str, width: int) -> nn.Module:
    made: dict[str, Callable[[], nn.Module]] = {
        "skip": nn.Identity,
        "conv1": lambda: _convolution(width, width, 1),
        "conv3": lambda: _convolution(width, width, 3),
        "pool3": lambda: nn.AvgPool2d(3, stride=1, padding=1),
    }
    return made[name]()


def network(operations: Sequence[str], width: int) -> nn.Sequential:
    """Stem, three stages with a convolution of stride 2 between them, mean, classifier."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
    for stage in range(3):
        if stage:
            layers.append(_convolution(width << (stage - 1), width << stage, 3, 2))
        layers.append(Cell(operations, width << stage))
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width << 2, 10)]
    return nn.Sequential(*layers, *head)


def drawn(number: int) -> tuple[str, ...]:
    """A random cell whose output hears its input by way of at least one convolution."""
    rng = np.random.default_rng([201, number])
    while True:
        operations = tuple(OPERATIONS[k] for k in rng.integers(len(OPERATIONS), size=len(EDGES)))
        if _trains(operations):
            return operations


def _trains(operations: Sequence[str]) -> bool:
    heard = {0: False}  # node -> whether a convolution lies on a way to it
    for (source, target), op in zip(EDGES, operations, strict=True):
        if op != "none" and source in heard:
            heard[target] = heard.get(target, False) or heard[source] or op.startswith("conv")
    return heard.get(3, False)


def measured(module: nn.Module, side: int) -> dict[str, float]:
    """Means over both unfoldings of all convolutions of the cells, and what the network costs."""
    cells = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Conv2d) and ".ops." in name]
    found = layer_indicators({name: conv.weight.detach() for name, conv in cells}).values()
    ranks = [(f.out_rank, f.out_condition) for f in found] + [(f.in_rank, f.in_condition) for f in found]
    return {
        "rank": statistics.mean(rank for rank, _ in ranks),
        "qc": statistics.mean(quality(*pair) for pair in ranks),
        "condition": statistics.mean(condition for _, condition in ranks),
        "parameters": sum(p.numel() for p in module.parameters()),
        "macs": _macs(module, side),
    }


def _macs(module: nn.Module, side: int) -> int:
    """Multiply-accumulates of the convolutions for one image."""
    total = 0

    def count(conv: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(conv, nn.Conv2d)
        total += output[0].numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Spearman's correlation of each measure with the accuracy, with a 95 % interval over resampled cells."""
    accuracy = np.array([row["accuracy"] for row in rows])
    lines = ["| accuracy against | Spearman | 95 % interval |", "|---|---:|---:|"]
    for name in ("rank", "qc", "condition", "parameters", "macs"):
        values = np.array([row[name] for row in rows])
        rng = np.random.default_rng(0)
        drawn_again = (rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES))
        found = [spearmanr(values[k], accuracy[k]).statistic for k in drawn_again]
        low, high = np.nanpercentile(found, [2.5, 97.5])
        lines.append(f"| {name} | {spearmanr(values, accuracy).statistic:.3f} | {low:.2f} to {high:.2f} |")
    return "\n".join([*lines, "", f"{len(rows)} cells, {accuracy.min():.1%} to {accuracy.max():.1%}."])


def train(number: int, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """One cell's row."""
    torch.manual_seed(number)
    operations = drawn(number)
    module = network(operations, options.width)
    (accuracy,), seconds = trained_accuracies([module], images, options.epochs, options.batch, number)
    row = {"number": number, "cell": operations, "accuracy": accuracy, "minutes": round(seconds / 60, 3)}
    return {**row, **measured(module.to("cpu", memory_format=torch.contiguous_format), options.side)}


def main() -> None:
    """Train what has no row, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--npz", type=Path, help="CIFAR-10: x_train, y_train, x_test, y_test")
    parser.add_argument("--work", type=Path, default=Path("build/widths"))
    parser.add_argument("--rows", type=Path, default=DATA / "rank.jsonl")
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--side", type=int, default=16, help="of the images, in pixels")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = Rows(options.rows)
    if options.table:
        print(table(rows.read()))
        return
    if options.npz is None:
        parser.error("--npz is missing")
    if options.device == "cpu":
        torch.set_num_threads(1)
    final, _ = sample(options.npz, options.work, options.side, options.train, options.train)
    images = read_images(final, options.device)
    done = {row["number"] for row in rows.read()}
    for number in range(options.cells):
        if number not in done:
            rows.add(train(number, images, options))


if __name__ == "__main__":
    main()
