"""Widths that searches find, beside compound scaling at equal parameters and equal MACs, equally trained.

    python benchmarks/experiment_widths.py --npz cifar10.npz --work build/widths \
        --network resnet8 --base 8 --kinds compound flat random --seeds 0-7
    python benchmarks/experiment_widths.py --table

Every network may have at most the parameters and the MACs of the file's own widths at this base width
(compound scaling). Searches see 5,000 held-out training images; every training of the comparison is tested
once, after its last epoch. Rows are kept as they come in docs/data/, and what has a row is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from widths_searches import BASELINES, SEARCHES, found_shape
from widths_table import tables
from widths_training import Images, read_images, sample, trained_accuracies

from conet_graph.bridge import trainable
from conet_graph.ir.load import load_model
from conet_graph.latency.sessions import LEAST_ROUNDS, RACE_SECONDS, Times, conditions_of, opened, rounds
from conet_graph.models import export_onnx
from conet_graph.search.begin import searched_network
from conet_graph.search.compare import MATCHES
from conet_graph.search.network import Limits, Network

DATA = Path(__file__).parents[1] / "docs" / "data"
# Images of these networks are larger than the experiment's 16 pixels: five poolings need 32.
SIDES = {"vgg11": 32}


@dataclass(frozen=True)
class Rows:
    """A file of JSON lines that grows."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        """All rows so far; those that do not say what was matched are of both budgets."""
        if not self.path.exists():
            return []
        return [{"match": "both", **json.loads(line)} for line in self.path.read_text().splitlines()]

    def add(self, row: dict[str, Any]) -> None:
        """Append one row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Budget:
    """One network at one base width: its file, and what compound scaling costs there in what is matched."""

    name: str
    base: int
    match: str
    side: int
    work: Path

    @cached_property
    def file(self) -> Path:
        """The network with its own widths."""
        path = self.work / f"{self.name}-{self.base}-{self.side}.onnx"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            export_onnx(self.name, path, width=self.base, image=self.side)
        return path

    @cached_property
    def network(self) -> Network:
        """The network as searches see it."""
        return searched_network(load_model(self.file))

    @cached_property
    def limits(self) -> Limits:
        """The budgets: what compound scaling costs."""
        parameters, macs = map(float, self.network.cost(self.network.own_widths()))
        return Limits(None if self.match == "macs" else parameters, None if self.match == "params" else macs)

    def widths(self, shape: dict[str, float]) -> dict[str, int]:
        """Widths of these proportions within the budgets."""
        widths = self.network.filled(shape, self.limits)
        if widths is None:
            raise SystemExit(f"{self.name}: no such widths fit the budget of base width {self.base}")
        return widths


class Experiment:
    """Runs what is asked for and has no row yet."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the command line."""
        side = SIDES.get(options.network, options.side)
        place = (options.network, options.base, options.match)
        self.options, self.budget = options, Budget(*place, side, options.work)
        print(f"{self.budget.file}: {self.budget.limits}", flush=True)
        self.final, self.searched = sample(options.npz, options.work, side, options.train, options.searched)
        self.rows, self.found = Rows(options.rows), Rows(options.found)
        self.place = dict(zip(("network", "base", "match"), place, strict=True))
        self.began = time.monotonic()

    def shape(self, kind: str, seed: int) -> dict[str, float]:
        """The proportions of a kind's widths for a seed."""
        own = self.budget.network.own_widths()
        if kind == "compound":
            return {name: float(width) for name, width in own.items()}
        if kind == "flat":
            return dict.fromkeys(own, 1.0)
        if kind == "random":
            rng = np.random.default_rng([7, seed])
            low, high = math.log(min(own.values()) / 2), math.log(max(own.values()) * 2)
            return {name: math.exp(rng.uniform(low, high)) for name in own}
        return self._searched(kind, seed % self.options.draws)

    def _searched(self, kind: str, draw: int) -> dict[str, float]:
        """What a search found; it is run if it has not been."""
        known = self._known(kind, draw)
        if known is not None:
            return known
        begun = time.process_time()
        folder = self.options.work / "-".join(map(str, (*self.place.values(), kind, draw)))
        whole = not folder.exists()
        found = found_shape(kind, self.budget.file, self.searched, folder, draw, self.options)
        shape, epochs, accuracy = found
        row = {
            **self.place, "kind": kind, "draw": draw, "shape": shape, "epochs": epochs,
            "held_out_accuracy": accuracy,
            # Of a search that was stopped the time is not known.
            "minutes": round((time.process_time() - begun) / 60, 2) if whole else None,
        }  # fmt: skip
        self.found.add(row)
        print(json.dumps(row), flush=True)
        return shape

    def _known(self, kind: str, draw: int) -> dict[str, float] | None:
        """What a search found before."""
        for row in self.found.read():
            if row == {**row, **self.place, "kind": kind, "draw": draw}:
                return row["shape"]
        return None

    def run(self) -> None:
        """Seed by seed, so that whatever stops it leaves pairs."""
        options = self.options
        images = None
        for seed, kinds in self._missing():
            if options.minutes is not None and time.monotonic() - self.began > 60 * options.minutes:
                print("the minutes are over; the same command goes on", flush=True)
                return
            shapes = [self.shape(kind, seed) for kind in kinds]
            if options.only == "search":
                continue
            images = images or read_images(self.final, options.device)
            self._train(kinds, shapes, seed, images)

    def _missing(self) -> Iterator[tuple[int, list[str]]]:
        """Seeds and kinds without a row; on a GPU all of a seed train side by side, else each alone."""
        done = [(*(row[key] for key in self.place), row["kind"], row["seed"]) for row in self.rows.read()]
        for seed in self.options.seeds:
            kinds = [k for k in self.options.kinds if (*self.place.values(), k, seed) not in done]
            if self.options.only == "train":
                kinds = [k for k in kinds if k in BASELINES or self._known(k, seed % self.options.draws)]
            together = max(len(kinds), 1) if self.options.device == "cuda" else 1
            for first in range(0, len(kinds), together):
                yield seed, kinds[first : first + together]

    def _train(
        self, kinds: Sequence[str], shapes: Sequence[dict[str, float]], seed: int, images: Images
    ) -> None:
        """Train each kind's network and write its row."""
        options, network = self.options, self.budget.network
        widths = [self.budget.widths(shape) for shape in shapes]
        models = [network.at(these, seed) for these in widths]
        modules = [trainable(model) for model in models]
        found, seconds = trained_accuracies(modules, images, options.epochs, options.batch, seed)
        for kind, these, model, accuracy in zip(kinds, widths, models, found, strict=True):
            parameters, macs = network.cost(these)
            row = {
                **self.place, "kind": kind, "seed": seed, "accuracy": accuracy, "parameters": parameters,
                "macs": macs, "ms": _milliseconds(model) if options.device == "cpu" else None,
                "minutes": round(seconds / 60 / len(kinds), 3), "epochs": options.epochs,
                "train": options.train, "widths": these,
            }  # fmt: skip
            self.rows.add(row)
            print(json.dumps(row), flush=True)


def _milliseconds(model: Any) -> float:
    """Time of one image on one thread of the processor, in ONNX Runtime."""
    timed = opened(model.proto, None, conditions_of(None, 1))
    return round(Times.of([timed.run() for _ in rounds(LEAST_ROUNDS, RACE_SECONDS / 4)]).median, 4)


def _seeds(text: str) -> Sequence[int]:
    ends, _, step = text.partition("/")
    first, _, last = ends.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def main() -> None:
    """Run what is asked for, or print the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--npz", type=Path, help="CIFAR-10: x_train, y_train, x_test, y_test")
    parser.add_argument("--work", type=Path, default=Path("build/widths"), help="networks and searches")
    parser.add_argument("--rows", type=Path, default=DATA / "widths.jsonl", help="one row a training")
    parser.add_argument("--found", type=Path, default=DATA / "widths_found.jsonl", help="one row a search")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--base", type=int, default=8, help="base width of compound scaling: the budget")
    parser.add_argument("--match", choices=MATCHES, default="both", help="which budgets hold")
    parser.add_argument("--kinds", nargs="+", default=["compound"], choices=[*BASELINES, *SEARCHES])
    parser.add_argument("--seeds", type=_seeds, default=range(8), help="one, a range as 0-7, or 0-7/2")
    parser.add_argument("--draws", type=int, default=2, help="searches of a kind: seed s takes s modulo this")
    parser.add_argument("--only", choices=("search", "train"), help="find widths, or train those found")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--searched", type=int, default=10_000, help="training images of a search")
    parser.add_argument("--side", type=int, default=16, help="of the images, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="begin no training after so many")
    options = parser.parse_args()
    if options.table:
        print(tables(Rows(options.rows).read(), Rows(options.found).read()))
        return
    if options.npz is None:
        parser.error("--npz is missing")
    if options.device == "cpu":
        torch.set_num_threads(1)
    Experiment(options).run()


if __name__ == "__main__":
    main()
