"""Times of narrowed networks: at half the work, as predicted, and for a given time.

    python benchmarks/bench_latency.py [FILE.onnx ...] [--runs 3] [--rows build/latency/rows.csv] [--half]

Networks are timed in turn with their originals, in one process; a ratio is the median over rounds. A row is
written for each measurement, and what has a row is not measured again. Kinds of rows: *half*, the time left
at half the multiply-accumulates (with ``--half`` the only one); *unseen*, what the latency table predicts for
networks that it has not seen; *goal*, what comes of goals for the time.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conet_graph.costs.cost_model import CostModel
from conet_graph.costs.input_shapes import counting
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.latency.meeting import Goal, candidate_of, meet, original_of
from conet_graph.latency.prediction import Prediction
from conet_graph.latency.profile import profiled
from conet_graph.latency.sessions import Conditions, opened, raced
from conet_graph.latency.table import Table
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.alignment import Alignment, step_ladder
from conet_graph.rewriting.targets import WidthRequest, choose_copies

Copies = NDArray[np.int64]
Case = tuple[str, str, str, str]  # network, run, kind, setting

FIELDS = ("network", "run", "kind", "setting", "macs", "predicted", "measured", "note")
GOALS = ("0.75", "0.5", "0.35")
HALVED = {"default": None, "any width": 1, "multiples of 16": 16}
RANDOM = (
    3  # networks of random widths for which predictions are checked, beside those at these shares of MACs
)
SHARES = (0.75, 0.5, 0.3)
SAMPLES = Path(__file__).parents[1] / "models" / "samples"


class Rows:
    """Measurements in a CSV file, each written as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(",".join(FIELDS) + "\n")
        with path.open(newline="") as file:
            self.all = list(csv.DictReader(file))
        self._there = {self._case(row) for row in self.all}

    def __contains__(self, case: Case) -> bool:
        """Whether a case has a row."""
        return case in self._there

    def add(self, case: Case, **found: str | float) -> None:
        """Append a measurement; ratios to the original with four digits."""
        told = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in found.items()}
        row = {**dict.fromkeys(FIELDS, ""), **dict(zip(FIELDS[:4], case, strict=True)), **told}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow(row)
        self.all.append(row)
        self._there.add(case)
        print("  ".join(value for value in row.values() if value), flush=True)

    @staticmethod
    def _case(row: dict[str, str]) -> Case:
        network, run, kind, setting = (row[name] for name in FIELDS[:4])
        return network, run, kind, setting


def counts_of(graph: Graph, copies: Copies) -> Copies:
    """How many classes each group keeps."""
    return np.array([copies[g.classes].sum() for g in graph.result(CHANNELS).groups], np.int64)


def share_of_macs(graph: Graph, copies: Copies) -> float:
    """Multiply-accumulates left, as a share; free sizes are those that ``rewrite`` assumes."""
    model = CostModel(counting(graph, {}).of(graph))
    whole = np.ones_like(copies)
    left, all_ = (model.macs(counts_of(graph, c).astype(np.float64)) for c in (copies, whole))
    return float(left / all_)


@dataclass(frozen=True)
class Bench:
    """One file in one run."""

    graph: Graph
    network: str
    run: int
    conditions: Conditions
    rows: Rows

    def measure(self, only_half: bool) -> None:
        """All that has no row yet."""
        for setting, multiple in HALVED.items():
            if self._case("half", setting) not in self.rows:
                self._half(setting, multiple)
        if only_half:
            return
        asked = [self._case("goal", goal) for goal in GOALS]
        asked += [self._case("unseen", setting) for setting, _ in self._unseen()]
        if all(case in self.rows for case in asked):
            return
        path = self.rows.path.with_name(f"{self.network}.{self.run}.table.json")
        table = profiled(self.graph, self.conditions, Alignment(), path=path)
        self._predict(table)
        for goal in GOALS:
            if self._case("goal", goal) not in self.rows:
                self._meet(goal, table)

    def _case(self, kind: str, setting: str) -> Case:
        return self.network, str(self.run), kind, setting

    def _half(self, setting: str, multiple: int | None) -> None:
        """The time at half the MACs, written as ``rewrite --macs 0.5`` writes it."""
        case = self._case("half", setting)
        try:
            copies = choose_copies(self.graph, WidthRequest(macs=0.5, multiple_of=multiple))
        except Refused as refusal:
            self.rows.add(case, note=str(refusal))
            return
        made = opened(
            rewrite_model(self.graph, lay_out(self.graph, copies)), self.graph.folder, self.conditions
        )
        ratio = raced(original_of(self.graph, self.conditions), made)[2]
        self.rows.add(case, macs=share_of_macs(self.graph, copies), measured=ratio)

    def _unseen(self) -> Iterator[tuple[str, Copies | float]]:
        """Networks that no table has seen: at shares of the MACs, and of random widths. In the first run."""
        if self.run:
            return
        for share in SHARES:
            yield f"MACs {share}", share
        groups, steps = self.graph.result(CHANNELS).groups, step_ladder(self.graph, Alignment())[0]
        rng = np.random.default_rng(99)
        for number in range(RANDOM):
            copies = np.ones(len(self.graph.result(CHANNELS).units.frozen_class), np.int64)
            for group, step in zip(groups, steps.tolist(), strict=True):
                kept = max(int(rng.uniform(0.15, 1) * len(group.classes)) // step, 1) * step
                if group.free:
                    copies[group.classes[kept:]] = 0
            yield f"random {number + 1}", copies

    def _predict(self, table: Table) -> None:
        """Predicted and measured ratios to the original (its weights constants, as in all candidates)."""
        prediction = Prediction.of(self.graph, table)
        whole = np.ones(len(self.graph.result(CHANNELS).units.frozen_class), np.int64)
        for setting, what in self._unseen():
            case = self._case("unseen", setting)
            if case in self.rows:
                continue
            copies = choose_copies(self.graph, WidthRequest(macs=what)) if isinstance(what, float) else what
            self.rows.add(
                case,
                macs=share_of_macs(self.graph, copies),
                predicted=prediction.milliseconds(counts_of(self.graph, copies)) / prediction.original_ms,
                measured=raced(
                    candidate_of(self.graph, whole, self.conditions),
                    candidate_of(self.graph, copies, self.conditions),
                )[2],
            )

    def _meet(self, goal: str, table: Table) -> None:
        case = self._case("goal", goal)
        try:
            met = meet(self.graph, WidthRequest(), Goal.parse(goal), table, self.conditions)
        except Refused as refusal:
            self.rows.add(case, note=str(refusal))
            return
        predicted = met.predicted / met.original.median
        note = "missed" if met.missed else ""
        macs = share_of_macs(self.graph, met.copies)
        self.rows.add(case, macs=macs, predicted=predicted, measured=met.share, note=note)


def summary(rows: list[dict[str, str]]) -> None:
    """How far predictions were off, and how much of the saved work was saved time."""
    off: dict[str, list[float]] = defaultdict(list)
    halved: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "unseen":
            off[row["network"]].append(abs(float(row["predicted"]) / float(row["measured"]) - 1))
        if row["kind"] == "half" and row["setting"] == "default" and row["measured"]:
            halved[row["network"]].append((float(row["measured"]), float(row["macs"])))
    for network, errors in off.items():
        print(f"{network}: predictions off by {100 * statistics.median(errors):.1f} % (median)")
    saved = []
    for network, pairs in halved.items():
        time, macs = (statistics.median(column) for column in zip(*pairs, strict=True))
        if macs == 1:
            print(f"{network}: none of its work could be saved")
            continue
        saved.append((1 - time) / (1 - macs))
        print(
            f"{network}: {time:.2f} of the time at {macs:.2f} of the MACs, {saved[-1]:.2f} of what was saved"
        )
    if saved and min(saved) > 0:
        print(f"geometric mean of time saved over MACs saved: {statistics.geometric_mean(saved):.3f}")


def main() -> None:
    """Measure the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, default=sorted(SAMPLES.glob("*.onnx")))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--rows", type=Path, default=Path("build/latency/rows.csv"))
    options = parser.parse_args()
    rows = Rows(options.rows)
    for run in range(options.runs):
        for path in options.files:
            graph = analysed(load_model(path))
            Bench(graph, path.stem, run, Conditions(threads=options.threads), rows).measure(options.half)
    summary(rows.all)


if __name__ == "__main__":
    main()
