"""Quality of narrowing beside Torch-Pruning: one trained network at equal MACs, before and after fine-tuning.

MODEL is a trained classifier of the zoo as ONNX. BatchNorm that was folded away is put back, with the
statistics of the training data, so that everybody starts from the same network and can fine-tune it:
conet-graph as ONNX, Torch-Pruning as the zoo's own PyTorch module with the same weights. All rows have the
same share of the MACs and the same short fine-tuning: same order of images, same schedule, same seed.
*uniform*: the same share of every width; *global*: channels of all layers in one ranking. Rows are kept in a
JSON-lines file; a run that was cut goes on.

    conet-graph train resnet8 --data npz:cifar10.npz --epochs 10 --augment -o trained.onnx
    python benchmarks/peers/peer_quality.py trained.onnx --name resnet8 --data npz:cifar10.npz --rows r.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conet_graph.bridge import from_torch, to_torch
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.models import build
from conet_graph.passes.insert_batchnorm import insert_batchnorm
from conet_graph.rewriting.ranking import WAYS
from conet_graph.rewriting.rewriting import plan, rewrite
from conet_graph.trials.data import Data, open_data
from conet_graph.trials.settings import TrainSettings
from conet_graph.trials.settle_batchnorm import settle_batchnorm
from conet_graph.trials.training import ClassificationTrial

Row = dict[str, Any]
Narrow = Callable[[], nn.Module]
BATCH = 128


def settled(path: Path, data: Data) -> LoadedModel:
    """The trained network with BatchNorms that hold the statistics of the training data."""
    model = insert_batchnorm(load_model(path))
    module = to_torch(model)
    batches = (images for images, _ in data.train(BATCH, seed=0, epoch=0, device="cpu"))
    settle_batchnorm(module, batches)
    return from_torch(module, model)


def native(name: str, model: LoadedModel, data: Data) -> nn.Module:
    """The zoo's module with the same weights, which is checked by its outputs."""
    module = build(name, classes=data.classes, image=data.shape[1]).eval()
    converted = to_torch(model).eval()
    pairs = zip(_layers(module), _layers(converted), strict=True)
    for ours, theirs in pairs:
        if isinstance(ours, nn.Linear) and not isinstance(theirs, nn.Linear):
            raise SystemExit(f"{name} is not the network in the file: its layers are others.")
        ours.load_state_dict(theirs.state_dict(), strict=False)
    images = torch.rand(4, *data.shape)
    with torch.no_grad():
        torch.testing.assert_close(module(images), converted(images), rtol=1e-3, atol=1e-3)
    return module


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.Linear)
    return (layer for layer in module.modules() if isinstance(layer, kinds))


def macs(module: nn.Module, data: Data) -> float:
    """Multiply-accumulates for one image, counted by Torch-Pruning for everybody."""
    import torch_pruning as tp

    return float(tp.utils.count_ops_and_params(copy.deepcopy(module).eval(), torch.rand(1, *data.shape))[0])


def by_conet_graph(model: LoadedModel, share: float, how: str, uniform: bool) -> nn.Module:
    """Narrowed as an ONNX file, and brought to PyTorch."""
    return to_torch(rewrite(model, plan(model, macs=share, importance=how, uniform=uniform)))


def by_torch_pruning(module: nn.Module, data: Data, share: float, how: str, everywhere: bool) -> nn.Module:
    """Narrowed by Torch-Pruning, with the ratio that comes nearest to the share of MACs."""
    from pruners import classifiers

    image = torch.rand(1, *data.shape)
    whole = macs(module, data)

    def at(ratio: float) -> nn.Module:
        import torch_pruning as tp

        pruned = copy.deepcopy(module)
        ways = {
            "magnitude": tp.importance.MagnitudeImportance(p=2),
            "group norm": tp.importance.GroupMagnitudeImportance(p=2),
        }
        keep = classifiers(pruned, pruned(image))
        tp.pruner.BasePruner(
            pruned, image, ways[how], pruning_ratio=ratio, global_pruning=everywhere, ignored_layers=keep
        ).step()
        return pruned

    low, high = 0.0, 0.95
    best = module
    for _ in range(12):
        middle = (low + high) / 2
        pruned = at(middle)
        found = macs(pruned, data) / whole
        best = min(best, pruned, key=lambda m: abs(macs(m, data) / whole - share))
        low, high = (middle, high) if found > share else (low, middle)
    return best


def accuracy(module: nn.Module, data: Data) -> float:
    """Share of the test images that are classified rightly."""
    module.eval()
    with torch.no_grad():
        right = sum(
            int((module(images).argmax(1) == labels).sum()) for images, labels in data.test(500, device="cpu")
        )
    return right / data.test_count


def ways(
    model: LoadedModel, module: nn.Module, data: Data, share: float
) -> dict[str, Callable[[], nn.Module]]:
    """Everybody's narrowed network, made when it is asked for."""
    found: dict[str, Narrow] = {"not narrowed": lambda: copy.deepcopy(module)}
    for scope in ("uniform", "global"):
        for how in WAYS:
            found[f"conet-graph, {how}, {scope}"] = lambda h=how, u=scope == "uniform": by_conet_graph(
                model, share, h, u
            )
        for how in ("magnitude", "group norm"):
            found[f"Torch-Pruning, {how}, {scope}"] = lambda h=how, e=scope == "global": by_torch_pruning(
                module, data, share, h, e
            )
    return found


def measure(narrow: Narrow, whole: float, data: Data, chosen: argparse.Namespace) -> Row:
    """Accuracy before and after fine-tuning."""
    start = time.perf_counter()
    network = narrow()
    row: Row = {
        "macs": macs(network, data) / whole,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    row["before"] = accuracy(network, data)
    settings = TrainSettings(batch=BATCH, learning_rate=chosen.rate, schedule="cosine")
    trial = ClassificationTrial(data, settings, "cpu")
    for metrics in trial(network, chosen.epochs, seed=chosen.seed):
        row["after"] = metrics["test_accuracy"]
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def table(rows: list[Row]) -> str:
    """The rows as markdown: a network a line, seeds together."""
    lines = [
        "| network | MACs | parameters | accuracy | after fine-tuning |",
        "|---|---:|---:|---:|---:|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        after = [row["after"] for row in own]
        spread = f" [{min(after):.2%}-{max(after):.2%}, {len(after)} seeds]" if len(after) > 1 else ""
        first = own[0]
        lines.append(
            f"| {way} | {first['macs']:.3f} | {first['parameters']} | {first['before']:.2%}"
            f" | {sum(after) / len(after):.2%}{spread} |"
        )
    return "\n".join(lines)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Quality of narrowing beside Torch-Pruning.")
    parser.add_argument("model", type=Path, help="a trained classifier as ONNX")
    parser.add_argument("--name", required=True, help="its name in the zoo")
    parser.add_argument("--data", required=True, help="digits, npz:FILE, cifar10:DIR, ...")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines: read, and added to")
    parser.add_argument("--share", type=float, default=0.5, help="of the MACs")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="ways whose name contains this")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing, then print the table."""
    warnings.simplefilter("ignore")
    chosen = options(arguments)
    rows = [json.loads(line) for line in chosen.rows.read_text().splitlines()] if chosen.rows.exists() else []
    known = {(row["way"], row["seed"]) for row in rows}
    plain = open_data(chosen.data)
    model = settled(chosen.model, plain)
    module = native(chosen.name, model, plain)
    whole = macs(module, plain)
    data = open_data(chosen.data, augment=plain.shape[0] == 3)
    for way, narrow in ways(model, module, plain, chosen.share).items():
        if chosen.only not in way or (way, chosen.seed) in known:
            continue
        row = {"way": way, "seed": chosen.seed, **measure(narrow, whole, data, chosen)}
        rows.append(row)
        with chosen.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
