"""How much of the accuracy that a network loses with half its MACs comes back without any label.

    conet-graph train resnet20.onnx --data npz:cifar.npz ... -o teacher.onnx
    python benchmarks/experiment_distill.py --teacher teacher.onnx --data npz:cifar.npz

The trained network is narrowed to a share of its MACs with the weights kept, and the narrow one learns the
original's outputs from the training images, whose labels are not used. Accuracy is that of the ONNX files in
ONNX Runtime on the test images. Everything is done twice: with BatchNorm as nodes, as networks are trained,
and folded into the convolutions, as they are deployed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import conet_graph as cg
from conet_graph.cost import Cost, cost
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.trials.data import Data, open_data
from conet_graph.trials.distill import DistillSettings
from conet_graph.trials.distributed import chosen_device
from conet_graph.trials.onnx_teacher import OnnxTeacher
from conet_graph.trials.recover import Recovery, corresponding, signature
from conet_graph.trials.unlabelled import open_images

TITLE = "## Accuracy back without labels"
CPU = torch.device("cpu")


@dataclass
class Outcome:
    """One network: test accuracies (0 to 1) of the original, the narrow and the distilled one."""

    form: str
    original: float
    narrow: float
    distilled: list[float]
    seconds: list[float]
    before: Cost
    after: Cost
    images: int

    def share(self, seed: int) -> float:
        """The share of the lost accuracy that came back."""
        return (self.distilled[seed] - self.narrow) / (self.original - self.narrow)

    def row(self) -> str:
        """A line of the table."""
        shares = [self.share(k) for k in range(len(self.distilled))]
        mean = statistics.mean(self.distilled)
        spread = f" +- {statistics.stdev(self.distilled):.2%}" if len(shares) > 1 else ""
        cells = (
            f"BatchNorm {self.form}",
            f"{self.original:.2%}",
            f"{self.narrow:.2%}",
            f"{mean:.2%}{spread}",
            f"**{statistics.mean(shares):.0%}** ({', '.join(f'{s:.0%}' for s in shares)})",
            f"{(self.after.macs or 0) / (self.before.macs or 1):.1%}",
            f"{self.after.parameters / self.before.parameters:.1%}",
            f"{statistics.mean(self.seconds) / 60:.0f} min",
        )
        return f"| {' | '.join(cells)} |"


def accuracy(model: LoadedModel, data: Data, folder: Path) -> float:
    """The share of the test images that the ONNX file names rightly in ONNX Runtime."""
    path = folder / "measured.onnx"
    cg.save(model, path)
    net = OnnxTeacher(path, [model.proto.graph.output[0].name], CPU)
    right = sum(int((net(x)[0].argmax(1) == y).sum()) for x, y in data.test(256, device=CPU))
    return right / data.test_count


def run(original: LoadedModel, form: str, options: argparse.Namespace, folder: Path) -> Outcome:
    """Narrow, distil with each seed, measure."""
    teacher = folder / f"{form}.onnx"
    cg.save(original, teacher)
    original = cg.load(teacher)
    narrow = cg.rewrite(original, cg.plan(original, macs=options.macs))
    data = open_data(options.data)
    images = open_images(options.data, signature(narrow, "student").image)
    outcome = Outcome(
        form=form,
        original=accuracy(original, data, folder),
        narrow=accuracy(narrow, data, folder),
        distilled=[],
        seconds=[],
        before=cost(analysed(original)),
        after=cost(analysed(narrow)),
        images=images.count,
    )
    print(f"BatchNorm {form}: original {outcome.original:.2%}, narrow {outcome.narrow:.2%}", flush=True)
    settings = DistillSettings(epochs=options.epochs, batch=options.batch, learning_rate=options.lr)
    for seed in range(options.seeds):
        recovery = Recovery(
            student=narrow,
            teacher=teacher,
            outputs=corresponding(narrow, original),
            images=images,
            settings=settings,
            device=chosen_device(options.device),
            seed=seed,
        )
        begun = time.perf_counter()
        for metrics in recovery.run():
            print({key: round(value, 4) for key, value in metrics.items()}, flush=True)
        outcome.seconds.append(time.perf_counter() - begun)
        outcome.distilled.append(accuracy(recovery.student, data, folder))
        print(f"seed {seed}: {outcome.distilled[-1]:.2%}, {outcome.share(seed):.0%} came back", flush=True)
    return outcome


def section(outcomes: list[Outcome], options: argparse.Namespace) -> str:
    """The section of docs/EXPERIMENTS.md."""
    first = outcomes[0]
    command = (
        f"python benchmarks/experiment_distill.py --teacher {options.teacher.name} --data npz:cifar.npz"
        f" --macs {options.macs:g} --epochs {options.epochs} --batch {options.batch} --lr {options.lr:g}"
        f" --seeds {options.seeds}"
    )
    rows = "\n".join(outcome.row() for outcome in outcomes)
    return f"""{TITLE}

`{command}`

A trained {options.teacher.stem} on CIFAR-10 is narrowed to {options.macs:.0%} of its MACs with its weights
kept (l2, the default), and learns the original's outputs from {first.images} training images without labels.
Test accuracy of the ONNX files in ONNX Runtime; the share of the lost accuracy that came back, mean and each
seed; time of a run on {options.device}.

| network | original | narrow | distilled | came back | MACs | parameters | time |
|---|---:|---:|---:|---:|---:|---:|---:|
{rows}
"""


def written(text: str, path: Path) -> None:
    """Put a section into a Markdown file, in the place of an older one."""
    old = path.read_text("utf-8") if path.exists() else "# Experiments\n"
    place = re.compile(rf"^{re.escape(TITLE)}$.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    made, found = place.subn(lambda _: text + "\n", old)
    path.write_text((made if found else f"{old.rstrip()}\n\n{text}").rstrip() + "\n", "utf-8")


def main() -> None:
    """Run and print the section; write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--teacher", type=Path, required=True, help="a trained ONNX file with BatchNorm nodes"
    )
    parser.add_argument("--data", required=True, help="as for conet-graph train")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--forms", nargs="+", default=["kept", "folded"], choices=["kept", "folded"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", type=Path, help="the Markdown file whose section is replaced")
    options = parser.parse_args()
    original = cg.load(options.teacher)
    forms = {"kept": original, "folded": fold_batchnorm(original)}
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
        outcomes = [run(forms[form], form, options, Path(folder)) for form in options.forms]
    text = section(outcomes, options)
    print(text)
    if options.write:
        written(text, options.write)


if __name__ == "__main__":
    main()
