"""Times of narrowed networks: at half the work, as predicted, and for a given time.

    python benchmarks/bench_latency.py FILE.onnx ... [--threads 1] [--json OUT]

Networks are timed in turn with their originals, in one process; a ratio is the median over rounds. Prints
three tables: the time left at half the multiply-accumulates (with default widths, and with any width), what
the latency table predicts for networks that it has not seen, and what comes of goals for the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.costs.cost_model import CostModel
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

GOALS = ("0.75", "0.5", "0.35")
UNSEEN = (
    3  # networks of random widths for which predictions are checked, beside those at these shares of MACs
)
SHARES = (0.75, 0.5, 0.3)


def counts_of(graph: Graph, copies: Copies) -> Copies:
    """How many classes each group keeps."""
    return np.array([copies[g.classes].sum() for g in graph.result(CHANNELS).groups], np.int64)


def share_of_macs(graph: Graph, copies: Copies) -> float:
    """Multiply-accumulates left, as a share."""
    model = CostModel(graph)
    whole = np.ones_like(copies)
    left, all_ = (model.macs(counts_of(graph, c).astype(np.float64)) for c in (copies, whole))
    return left / all_


def at_half_the_work(graph: Graph, conditions: Conditions) -> dict[str, Any]:
    """Ratios of time at half the MACs, written as ``rewrite --macs 0.5`` writes it."""
    original = original_of(graph, conditions)
    found: dict[str, Any] = {}
    for name, multiple in (("default", None), ("any width", 1), ("16", 16)):
        try:
            copies = choose_copies(graph, WidthRequest(macs=0.5, multiple_of=multiple))
        except Refused:
            continue
        made = opened(rewrite_model(graph, lay_out(graph, copies)), graph.folder, conditions)
        found[name] = {"time": raced(original, made)[2], "macs": share_of_macs(graph, copies)}
    return found


def unseen(graph: Graph) -> Iterator[Copies]:
    """Networks that no table has seen: at shares of the MACs, and of random widths."""
    for share in SHARES:
        yield choose_copies(graph, WidthRequest(macs=share))
    groups, steps = graph.result(CHANNELS).groups, step_ladder(graph, Alignment())[0]
    rng = np.random.default_rng(99)
    for _ in range(UNSEEN):
        copies = np.ones(len(graph.result(CHANNELS).units.frozen_class), np.int64)
        for group, step in zip(groups, steps.tolist(), strict=True):
            kept = max(int(rng.uniform(0.15, 1) * len(group.classes)) // step, 1) * step
            if group.free:
                copies[group.classes[kept:]] = 0
        yield copies


def predictions(graph: Graph, table: Table, conditions: Conditions) -> list[dict[str, float]]:
    """Predicted and measured ratios to the original (its weights constants, as in all candidates)."""
    prediction = Prediction.of(graph, table)
    whole = candidate_of(graph, np.ones(len(graph.result(CHANNELS).units.frozen_class), np.int64), conditions)
    now = prediction.original_ms
    return [
        {
            "predicted": prediction.milliseconds(counts_of(graph, copies)) / now,
            "measured": raced(whole, candidate_of(graph, copies, conditions))[2],
        }
        for copies in unseen(graph)
    ]


def goals(graph: Graph, table: Table, conditions: Conditions) -> list[dict[str, Any]]:
    """What comes of each goal."""
    found: list[dict[str, Any]] = []
    for text in GOALS:
        try:
            met = meet(graph, WidthRequest(), Goal.parse(text), table, conditions)
        except Refused as refusal:
            found.append({"goal": text, "refused": str(refusal)})
            continue
        macs = share_of_macs(graph, met.copies)
        found.append({"goal": text, "missed": met.missed, "macs": macs, **met.to_json()})
    return found


def bench(path: Path, conditions: Conditions) -> dict[str, Any]:
    """All three measurements of one file."""
    graph = analysed(load_model(path))
    half = at_half_the_work(graph, conditions)
    table = profiled(graph, conditions, Alignment())
    seen = predictions(graph, table, conditions)
    off = statistics.median(abs(p["predicted"] / p["measured"] - 1) for p in seen)
    reached = goals(graph, table, conditions)
    found = {"network": path.stem, "half": half, "predictions": seen, "off": off, "goals": reached}
    _print(found)
    return found


def _print(found: dict[str, Any]) -> None:
    half = ", ".join(f"{n} {h['time']:.2f} (MACs {h['macs']:.2f})" for n, h in found["half"].items())
    print(f"{found['network']}\n  time at half the MACs: {half}")
    pairs = " ".join(f"{p['predicted']:.3f}/{p['measured']:.3f}" for p in found["predictions"])
    print(f"  predicted/measured: {pairs}: median error {100 * found['off']:.1f} %")
    for goal in found["goals"]:
        if "refused" in goal:
            print(f"  goal {goal['goal']}: {goal['refused']}")
            continue
        predicted = goal["predicted_ms"] / goal["original_ms"]["median"]
        print(
            f"  goal {goal['goal']}: measured {goal['share']:.3f}, predicted {predicted:.3f},"
            f" MACs {goal['macs']:.2f}, {goal['networks_measured']} networks measured",
            flush=True,
        )


def main() -> None:
    """Measure the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [bench(path, Conditions(threads=options.threads)) for path in options.files]
    off = statistics.median(network["off"] for network in found)
    print(f"median over {len(found)} networks of their median error: {100 * off:.1f} %")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
