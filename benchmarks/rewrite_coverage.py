"""Rewrites of zoo, torchvision and timm networks, each verified: docs/REWRITES.md.

Every network has fresh weights, is exported into a temporary folder, and is rewritten at half, three
quarters and five quarters of its widths, and at random narrower ones. What is in the rows already is not
measured again. Examples:

    python benchmarks/rewrite_coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/rewrite_coverage.py --largest 12 --seconds 600
    python benchmarks/rewrite_coverage.py --summary
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from exports import TooLarge, choices, networks, sentence, silence, written
from numpy.typing import NDArray
from rows import DATA, Row, Rows, put_summary

from conet_graph import models
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, Channels
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import shared_evenly
from conet_graph.verification.verification import verify

Copies = NDArray[np.int64]
SCALES = ("0.5", "0.75", "1.25")
SEED = 0
KEY = ("source", "network")
COLUMNS = (
    *KEY,
    "exporter",
    "rewrite",
    "layers",
    "changed",
    "equality",
    "exact",
    "why",
    "difference",
    "seconds",
)
FILE = DATA / "rewrites.csv"
PAGE = DATA.parent / "REWRITES.md"
VERDICTS = ("passed", "failed", "not checked", "refused", "error", "not run")


def scaled(channels: Channels, factor: float) -> Copies:
    """How often each class of channels stays, for every free group at ``factor`` of its width."""
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            count = len(group.classes)
            copies[group.classes] = shared_evenly(max(1, round(count * factor)), count)
    return copies


def random_widths(channels: Channels, seed: int) -> Copies:
    """The same, with a random part of every free group."""
    rng = np.random.default_rng(seed)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            kept = rng.permutation(group.classes)[: rng.integers(1, len(group.classes) + 1)]
            copies[group.classes] = np.isin(group.classes, kept)
    return copies


def attempt(graph: Graph, copies: Copies) -> dict[str, object]:
    """Rewrite and verify, the weights kept."""
    begun = time.perf_counter()
    try:
        plan, layout = planned(graph, copies, "keep", noise=False, seed=0)
        found = verdict(graph, plan, copies, rewritten(graph, plan, layout))
    except Refused as error:
        return {"equality": "refused", "why": error}
    except Exception as error:  # any: a bug of ours, which one row shows and others survive
        return {"equality": "error", "why": sentence(error)}
    return {**found, "seconds": time.perf_counter() - begun}


def verdict(graph: Graph, plan: Plan, copies: Copies, made: onnx.ModelProto) -> dict[str, object]:
    """The verdict of ``equality``, and why it, or exactness, is not what it could be."""
    report = verify(graph, made, plan, graph.folder)
    found, _, why = report.equality.partition(": ")
    kinds = Counter(reason.split(" ", 1)[0] for reason in report.inexact_because)
    told = [*report.failures, *[run["skipped"] for run in report.runs if "skipped" in run], why]
    told += [f"mixes channels: {', '.join(kinds)}"] if kinds else []
    told += [f"{len(plan.kept)} groups kept: {plan.kept[0].reason}"] if plan.kept else []
    return {
        "changed": changed(graph, copies, {group.id for group in plan.kept}),
        "equality": found if report.ok else "failed",
        "exact": "yes" if report.exact else "no",
        "why": "; ".join(filter(None, told)),
        "difference": "" if report.largest_difference is None else report.largest_difference,
    }


def changed(graph: Graph, copies: Copies, kept: set[str]) -> int:
    """How many layers have other output channels."""
    channels = graph.result(CHANNELS)
    axes = (channels.layer_axes[layer.op.index][1] for layer in graph.result(LAYERS))
    groups = ([g for g in channels.groups_on(axis) if g.id not in kept] for axis in axes)
    return sum(any((copies[g.classes] != 1).any() for g in found) for found in groups)


def measure(source: str, name: str, smallest: int, largest: float) -> list[dict[str, object]]:
    """The rows of one network, a row a rewrite."""
    cells: dict[str, object] = {"source": source, "network": name, "rewrite": "all"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with silence():
                cells["exporter"] = written(source, name, smallest, largest, path)
        except TooLarge:
            return []
        except Exception as error:  # any: what a network of another library raises is a row
            return [{**cells, "equality": "not run", "why": sentence(error)}]
        try:
            graph = analysed(load_model(path))
        except Exception as error:  # any: a bug of ours
            return [{**cells, "equality": "error", "why": sentence(error)}]
        channels = graph.result(CHANNELS)
        wanted = {factor: scaled(channels, float(factor)) for factor in SCALES}
        wanted[f"random {SEED}"] = random_widths(channels, SEED)
        cells["layers"] = len(graph.result(LAYERS))
        return [{**cells, "rewrite": told, **attempt(graph, copies)} for told, copies in wanted.items()]


def summary(rows: list[Row]) -> str:
    """What the rows say: a table, and all that did not pass."""
    lines = [f"| networks | {' | '.join(VERDICTS)} | exact |", "|---|" + "---:|" * (len(VERDICTS) + 1)]
    for source in ("zoo", "torchvision", "timm"):
        mine = [r for r in rows if r["source"] == source]
        verdicts = Counter(r["equality"] for r in mine)
        cells = [str(verdicts[v]) for v in VERDICTS] + [str(sum(r["exact"] == "yes" for r in mine))]
        lines.append(f"| {source}: {len({r['network'] for r in mine})} | {' | '.join(cells)} |")
    others: dict[tuple[str, ...], list[str]] = {}
    for r in rows:
        if r["equality"] != "passed":
            told = (r["source"], r["network"], r["equality"], r["why"])
            others.setdefault(told, []).append(r["rewrite"])
    lines += ["", "Not passed:" if others else "All passed.", ""]
    for (source, name, verdict, why), rewrites in others.items():
        lines.append(f"- {source} `{name}` ({', '.join(rewrites)}): {verdict}: {why}")
    dates = sorted(r["made"][:10] for r in rows)
    lines += ["", f"Measured from {dates[0]} to {dates[-1]}."]
    return "\n".join(lines)


def chosen_networks(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """The networks that the options ask for, the zoo first."""
    if chosen.source in (None, "zoo"):
        yield from (("zoo", name, 0) for name in models.names() if re.search(chosen.only, name))
    if chosen.source != "zoo":
        yield from networks(chosen.source, chosen.only)


def main(arguments: list[str]) -> int:
    """Measure what is missing, then write the summary into the page; 1 where a rewrite failed."""
    chosen = choices("Rewrites of many networks, each verified.", ("zoo", "torchvision", "timm"))
    wanted = chosen.parse_args(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    rows = Rows(FILE, COLUMNS, KEY)
    if not wanted.summary:
        import torch

        torch.set_num_threads(1)
        for source, name, smallest in chosen_networks(wanted):
            late = time.perf_counter() - begun > wanted.seconds
            if not late and not rows.has([source, name], wanted.before):
                found = measure(source, name, smallest, wanted.largest)
                rows.put(found)
                for row in found:
                    print(source, name, *(row.get(c, "") for c in COLUMNS[3:]), sep=" | ", flush=True)
    put_summary(PAGE, "rewrite_coverage.py", summary(rows.rows))
    return int(any(row["equality"] in ("failed", "error") for row in rows.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
