"""How much of the accuracy that a network loses with half its MACs comes back without any label.

    python benchmarks/experiment_train.py --npz cifar10.npz --out build/resnet20
    python benchmarks/experiment_distill.py --teacher build/resnet20/trained.onnx --data npz:cifar10.npz

The trained network is narrowed to a share of its MACs with the weights kept, and the narrow one learns the
original's outputs from the training images, whose labels are not used. Accuracy is that of the ONNX files in
ONNX Runtime on the test images.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import conet_graph as cg
from conet_graph.costs.cost import Cost, cost
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.trials.data import Data, open_data
from conet_graph.trials.distill import DistillSettings
from conet_graph.trials.onnx_teacher import OnnxTeacher
from conet_graph.trials.recover import Recovery, corresponding, signature
from conet_graph.trials.unlabelled import open_images

TITLE = "## Accuracy back without labels"
CPU = torch.device("cpu")


@dataclass
class Outcome:
    """Test accuracies (0 to 1) of the original, the narrow and, for each seed, the distilled network."""

    original: float
    narrow: float
    before: Cost
    after: Cost
    images: int
    classes: int
    distilled: list[float] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def share(self, seed: int) -> float:
        """The share of the lost accuracy that came back."""
        return (self.distilled[seed] - self.narrow) / (self.original - self.narrow)

    def row(self, seed: int) -> str:
        """A line of the table."""
        minutes = self.seconds[seed] / 60
        return (
            f"| {seed} | {self.distilled[seed]:.2%} | {self.share(seed):.1%} | {self.best_epochs[seed]} |"
            f" {minutes:.1f} |"
        )


def accuracy(model: LoadedModel, data: Data, folder: Path) -> float:
    """The share of the test images that the ONNX file names rightly in ONNX Runtime."""
    path = folder / "measured.onnx"
    cg.save(model, path)
    net = OnnxTeacher(path, [model.proto.graph.output[0].name], CPU)
    right = sum(int((net(x)[0].argmax(1) == y).sum()) for x, y in data.test(256, device=CPU))
    return right / data.test_count


def run(options: argparse.Namespace, folder: Path) -> Outcome:
    """Narrow, distil with each seed, measure."""
    original = cg.load(options.teacher)
    narrow = cg.rewrite(original, cg.plan(original, macs=options.macs))
    data = open_data(options.data)
    images = open_images(options.data, signature(narrow, "student").image, augment=("crop", "flip"))
    outcome = Outcome(
        original=accuracy(original, data, folder),
        narrow=accuracy(narrow, data, folder),
        before=cost(analysed(original)),
        after=cost(analysed(narrow)),
        images=images.count,
        classes=data.classes,
    )
    print(f"original {outcome.original:.2%}, narrow {outcome.narrow:.2%}", flush=True)
    settings = DistillSettings(epochs=options.epochs, batch=options.batch, learning_rate=options.lr)
    for seed in range(options.seeds):
        recovery = Recovery(
            student=narrow,
            teacher=options.teacher,
            outputs=corresponding(narrow, original),
            images=images,
            settings=settings,
            device=CPU,
            seed=seed,
        )
        begun, history = time.perf_counter(), []
        for metrics in recovery.run():
            history.append(metrics)
            print({key: round(value, 4) for key, value in metrics.items()}, flush=True)
        outcome.seconds.append(time.perf_counter() - begun)
        outcome.best_epochs.append(int(min(history, key=lambda m: m["error"])["epoch"]))
        outcome.distilled.append(accuracy(recovery.student, data, folder))
        print(f"seed {seed}: {outcome.distilled[-1]:.2%}, {outcome.share(seed):.1%} came back", flush=True)
    return outcome


def section(outcome: Outcome, options: argparse.Namespace) -> str:
    """The section of docs/EXPERIMENTS.md."""
    shares = [outcome.share(seed) for seed in range(options.seeds)]
    rows = "\n".join(outcome.row(seed) for seed in range(options.seeds))
    distilled = statistics.mean(outcome.distilled)
    macs = (outcome.after.macs or 0) / (outcome.before.macs or 1)
    parameters = outcome.after.parameters / outcome.before.parameters
    narrow = f"{outcome.narrow:.2%} (guessing gets {1 / outcome.classes:.0%})"
    return f"""{TITLE}

The trained network is narrowed to {macs:.1%} of its MACs and {parameters:.1%} of its parameters with its
weights kept, and learns the original's outputs (as `conet-graph distill` does) from {outcome.images:,} of
its training images, whose labels are not used. ONNX Runtime tests all files on the test images.

    python benchmarks/experiment_distill.py --teacher {options.teacher} --data {options.data} \\
        --macs {options.macs:g} --epochs {options.epochs} --batch {options.batch} --lr {options.lr:g} \\
        --seeds {options.seeds} --threads {options.threads}

Original {outcome.original:.2%}, narrow {narrow}, distilled {distilled:.2%}:
{statistics.mean(shares):.1%} of the lost accuracy comes back (mean over seeds).

| seed | distilled | came back | best of {options.epochs} epochs | minutes |
|---|---|---|---|---|
{rows}

The seed decides the order of the images and their variation; the narrow network is the same. The epoch is
chosen by the error on training images kept aside. CPU, threads: {options.threads}, shared with other work.
"""


def written(text: str, path: Path) -> None:
    """Put a section into a Markdown file, in the place of an older one."""
    old = path.read_text("utf-8") if path.exists() else "# Experiments\n"
    place = re.compile(rf"^{re.escape(TITLE)}$.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    made, found = place.subn(lambda _: text + "\n", old)
    path.write_text((made if found else f"{old.rstrip()}\n\n{text}").rstrip() + "\n", "utf-8")


def main() -> None:
    """Run and print the section; write it where asked."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--teacher", type=Path, required=True, help="a trained ONNX file")
    parser.add_argument("--data", required=True, help="as for conet-graph train")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="the Markdown file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
        text = section(run(options, Path(folder)), options)
    print(text)
    if options.write:
        written(text, options.write)


if __name__ == "__main__":
    main()
