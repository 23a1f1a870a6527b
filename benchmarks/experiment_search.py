"""Search resnet8's widths on CIFAR-10 at CPU scale, beside compound scaling; and rank against accuracy.

    python benchmarks/experiment_search.py --npz cifar10.npz --out build/search-experiment

Everything runs as the commands of conet-graph do: a sweep over three deltas and three seeds, `compare` for
each search, and networks of random widths that are searched for one trial, which records their ranks.
Interrupted, the same command goes on. Prints the tables of docs/EXPERIMENTS.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from conet_graph import analyze, load
from conet_graph.models import export_onnx
from conet_graph.search.read_run import read_run
from conet_graph.search.recorded import RecordedRun

DELTAS = (0.005, 0.015, 0.04)
# The least and the largest width of a size, in the searches as in the random networks.
BOUNDS = (8, 32)
COMMON = ("--batch", "64", "--lr", "0.1", "--min-width", str(BOUNDS[0]), "--max-width", str(BOUNDS[1]))
KINDS = {"conet": "found", "uniform": "compound", "random": "random", "original": "the file's own"}


class Commands:
    """Runs conet-graph's commands on the CPU."""

    def __init__(self, npz: Path, threads: int) -> None:
        """Train on the images of a file, with so many threads."""
        self.training = ("--data", f"npz:{npz}", "--device", "cpu", *COMMON)
        self.env = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run(self, *arguments: object) -> dict[str, Any]:
        """Run one command; gives its JSON."""
        command = [sys.executable, "-m", "conet_graph", *map(str, arguments)]
        print("$ conet-graph", *command[3:], file=sys.stderr, flush=True)
        done = subprocess.run(command, env=self.env, stdout=subprocess.PIPE, check=True, text=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def compared(commands: Commands, model: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Searches at each delta and seed, and what `compare` says of each."""
    deltas = ",".join(map(str, DELTAS))
    rest = (*commands.training, "--width", 16, "--trials", options.trials, "--epochs", options.epochs)
    sweep = commands.run(
        *("sweep", model, "--out", out / "sweep", "--delta", deltas, "--seeds", options.seeds),
        *("--jobs", 1, "--json", "--", *rest),
    )
    for search in sweep["searches"]:
        told = commands.run(
            *("compare", search["folder"], "--epochs", options.final_epochs, "--schedule", "cosine"),
            *("--seeds", 1, "--json"),
        )
        search["networks"] = {network["kind"]: network for network in told["networks"]}
    searches: list[dict[str, Any]] = sweep["searches"]
    return searches


def comparison_table(searches: Sequence[dict[str, Any]], epochs: int) -> str:
    """One row a kind of network and delta."""
    lines = [
        f"| delta | widths | parameters | MACs | test accuracy after {epochs} epochs | search, minutes |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for delta in DELTAS:
        mine = [s for s in searches if s["delta"] == delta]
        for kind, name in KINDS.items():
            networks = [s["networks"][kind] for s in mine]
            cost = f"{statistics.mean(s['seconds'] for s in mine) / 60:.1f}" if kind == "conet" else ""
            parameters = f"{statistics.mean(n['parameters'] for n in networks):,.0f}"
            macs = f"{statistics.mean(n['macs'] for n in networks) / 1e6:.1f} M"
            accuracy = _spread([n["accuracy"] for n in networks])
            lines.append(f"| {delta} | {name} | {parameters} | {macs} | {accuracy} | {cost} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.2f} +- {100 * statistics.stdev(values):.2f} %"


def random_networks(
    commands: Commands, model: Path, out: Path, options: argparse.Namespace
) -> list[RecordedRun]:
    """Networks of random widths, each trained for one trial whose ranks are recorded."""
    out.mkdir(exist_ok=True)
    low, high = (math.log(bound) for bound in BOUNDS)
    groups = [group.id for group in analyze(load(model)).groups if group.free]
    runs = []
    for number in range(options.networks):
        rng = np.random.default_rng(number)
        widths = [f"{group}={2 * round(math.exp(rng.uniform(low, high)) / 2)}" for group in groups]
        network, folder = out / f"{number:02d}.onnx", out / f"{number:02d}"
        if not network.exists():
            asked = itertools.chain.from_iterable(("--set", width) for width in widths)
            commands.run("rewrite", model, "-o", network, *asked, "--init", "fresh", "--json")
        resume = ("--resume",) if folder.exists() else ()
        commands.run(
            *("search", network, "--out", folder, *commands.training, "--width", "own", "--trials", 1),
            *("--epochs", options.random_epochs, "--schedule", "cosine", "--seed", number, "--json", *resume),
        )
        runs.append(read_run(folder))
    return runs


def correlation_table(runs: Sequence[RecordedRun]) -> str:
    """Spearman's rank correlation of accuracy with the mean rank, and with plain sizes."""
    accuracy = [run.trials[-1].accuracy or 0.0 for run in runs]
    measures = {
        "mean rank over the sizes, last epoch": [_mean_rank(run) for run in runs],
        "parameters": [run.trials[-1].parameters for run in runs],
        "MACs": [run.trials[-1].macs for run in runs],
    }
    lines = ["| accuracy against | Spearman | p |", "|---|---:|---:|"]
    for name, values in measures.items():
        found = spearmanr(values, accuracy)
        lines.append(f"| {name} | {found.statistic:.3f} | {found.pvalue:.2g} |")
    lines.append(f"\n{len(runs)} networks, {min(accuracy):.1%} to {max(accuracy):.1%} accuracy.")
    return "\n".join(lines)


def _mean_rank(run: RecordedRun) -> float:
    return statistics.mean(ranks[-1][1] for ranks in run.trials[-1].ranks.values())


def overhead(searches: Iterable[dict[str, Any]]) -> float:
    """The share of indicators and graph work in the time of all searches."""
    runs = [read_run(search["folder"]) for search in searches]
    return sum(run.overhead_seconds for run in runs) / sum(run.seconds for run in runs)


def main() -> None:
    """Run, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--npz", type=Path, required=True, help="CIFAR-10 images: x_train, y_train, x_test, y_test"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of a trial")
    parser.add_argument("--final-epochs", type=int, default=8, help="of what is compared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=20, help="of random widths")
    parser.add_argument("--random-epochs", type=int, default=8, help="of each of them")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.out / "resnet8.onnx"
    if not model.exists():
        export_onnx("resnet8", model, width=16, keep_batchnorm=False)
    commands = Commands(options.npz, options.threads)
    searches = compared(commands, model, options.out, options)
    print(comparison_table(searches, options.final_epochs), flush=True)
    print(f"\nIndicators and graph work: {overhead(searches):.2%} of the searches' time.\n", flush=True)
    print(correlation_table(random_networks(commands, model, options.out / "random-widths", options)))


if __name__ == "__main__":
    main()
