"""What rank-slopes depend on: fresh weights, width, and who speaks for a size (the paper's Fig. 3).

    python benchmarks/experiment_slopes.py --npz cifar10.npz --rows build/slopes.jsonl

Trains a residual network of one width everywhere for a few epochs, from PyTorch's default weights and from
Kaiming's, with two seeds, and reads each size's slope twice: with the stem and the 1x1 shortcuts silent, and
with all convolutions speaking. Algorithm 2 comes to rest only where slopes fall with the width and two seeds
agree. Rows are kept as they come; the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from conet_graph.analysis.analysis import analysis_of
from conet_graph.bridge import to_torch, weights_by_name
from conet_graph.indicators import layer_indicators, rank_slope
from conet_graph.indicators.slope import mean_rank
from conet_graph.ir.load import load_model
from conet_graph.models import export_onnx
from conet_graph.search.network import Network
from conet_graph.search.runner import epochs_of
from conet_graph.search.settings import RunSettings
from conet_graph.search.tools import standard_tools
from conet_graph.search.voices import sizes_of

INITS = ("fresh", "fresh-kaiming")
VOICES = ("silent", "all")


def slopes(
    name: str, width: int, init: str, seed: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Slope of each size, and its last rank, for both sets of voices, after one trial."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(name, Path(folder) / "network.onnx", image=options.image)
        network = Network(load_model(Path(folder) / "network.onnx"))
        model = network.at(dict.fromkeys(network.grains, width), seed, init)
        spoken = {"silent": network.sizes, "all": sizes_of(analysis_of(network.graph))}
        weights = {layer.name: layer.weight for layer in analysis_of(network.graph).layers}
        settings = RunSettings(f"npz:{options.npz}", augment=True, image=options.image).changed(
            {"batch": options.batch, "learning_rate": options.lr}
        )
        module = to_torch(model)
        course: dict[str, list[list[float]]] = {kind: [] for kind in VOICES}
        training = epochs_of(
            standard_tools(settings).trial(1.0),
            module,
            options.epochs,
            seed,
            Path(folder) / "trial.safetensors",
        )
        for _ in training:
            stored = weights_by_name(module)
            measured = layer_indicators({n: stored[w] for n, w in weights.items() if w in stored})
            for kind, sizes in spoken.items():
                course[kind].append([mean_rank(size.voices, measured) for size in sizes])
    found = {f"slope {kind}": [rank_slope(r)[0] for r in zip(*c, strict=True)] for kind, c in course.items()}
    return found | {f"rank {kind}": c[-1] for kind, c in course.items()}


def table(rows: list[dict[str, object]]) -> str:
    """One row for fresh weights, voices and width: ranks, slopes, and how two seeds agree."""
    lines = [
        "| fresh weights | stem and shortcuts | width | mean rank | mean slope | correlation of two seeds |",
        "|---|---|---:|---:|---:|---:|",
    ]
    keys = dict.fromkeys((row["init"], row["width"]) for row in rows)
    for kind, (init, width) in itertools.product(VOICES, keys):
        mine = [row for row in rows if (row["init"], row["width"]) == (init, width)]
        ranks = [x for row in mine for x in row[f"rank {kind}"]]  # type: ignore[attr-defined]
        found = [row[f"slope {kind}"] for row in mine]
        together = [x for part in found for x in part]  # type: ignore[attr-defined]
        told = len(found) > 1 and all(np.std(part) for part in found[:2])
        agree = f"{np.corrcoef(*found[:2])[0, 1]:.2f}" if told else "-"
        lines.append(
            f"| {init} | {'speak' if kind == 'all' else 'silent'} | {width} | {statistics.mean(ranks):.3f}"
            f" | {statistics.mean(together):.4f} | {agree} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True, help="CIFAR-10: x_train, y_train, x_test, y_test")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines, one a training")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--image", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.03)
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    )
    have = {(row["init"], row["width"], row["seed"]) for row in rows}
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    for seed, width, init in itertools.product((0, 1), options.widths, INITS):
        if (init, width, seed) not in have:
            found = slopes(options.network, width, init, seed, options)
            rows.append({"init": init, "width": width, "seed": seed, **found})
            with options.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
