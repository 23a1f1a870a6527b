"""Rewrites of zoo, torchvision and timm networks, each verified: the table in docs/REWRITES.md.

Every network has fresh weights, is exported into a temporary folder, and is rewritten at half and
three quarters of its widths, at random narrower widths (three seeds) and at five quarters. Examples:

    python benchmarks/rewrite_coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/rewrite_coverage.py --largest 12 --seconds 600 --table docs/REWRITES.md
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from coverage import Case, TooLarge, export, networks, prepared, sentence, silence
from numpy.typing import NDArray

from conet_graph import models
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, Channels
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import shared_evenly
from conet_graph.verification.report import Report
from conet_graph.verification.verification import verify

Copies = NDArray[np.int64]
SEEDS = (0, 1, 2)
OUT_OF_TIME = "out of time"
TOO_LARGE = "over --largest"
LEFT_OUT = (OUT_OF_TIME, TOO_LARGE)
HEADER = (
    "| network | layers | changed | 0.5 | 0.75 | random x3 | 1.25 | seconds |\n"
    "|---|---:|---:|---|---|---|---|---:|"
)
INTRODUCTION = """# Rewrites: which networks come out right at other widths

Networks with fresh weights, exported (TorchScript-based exporter, or the dynamo-based one where that fails;
BatchNorm folded, in zoo networks kept), rewritten with the weights kept, and verified: checker, strict shape
inference, a run in ONNX Runtime, and equality with the original.

- *Changed*: the layers (operators with a weight) whose output channels were changed by one of the rewrites.
- *exact*: the result equals the original (narrower: with the dropped channels zeroed) within the tolerance.
- *inexact (what)*: valid, and it runs; the operators named mix channels, so equality cannot be asked for.
- *refused (reason)*: an error that says why, and no file. *FAILED*: verification found a fault.
- 0.5, 0.75, 1.25: every free size times that. Random: a random part of each free size, three seeds.

"""


@dataclass
class Row:
    """What came of one network."""

    name: str
    layers: int = 0
    changed: int = 0
    results: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    not_run: str = ""

    def text(self) -> str:
        """The row in markdown."""
        if self.not_run:
            return f"| {self.name} | | | not run: {self.not_run} | | | | |"
        randoms = Counter(v for k, v in self.results.items() if k.startswith("random"))
        random = "; ".join(f"{n}x {told}" if len(randoms) > 1 else told for told, n in randoms.items())
        shown = [self.results["0.5"], self.results["0.75"], random, self.results["1.25"]]
        share = f"{100 * self.changed / self.layers:.0f} %" if self.layers else "-"
        return f"| {self.name} | {self.layers} | {share} | {' | '.join(shown)} | {self.seconds:.0f} |"


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


def attempt(graph: Graph, copies: Copies) -> str:
    """Rewrite and verify; what came of it."""
    try:
        plan, layout = planned(graph, copies, "keep", noise=False, seed=0)
        report = verify(graph, rewritten(graph, plan, layout), plan, graph.folder)
    except Refused as error:
        return f"refused ({sentence(error)})"
    except Exception as error:  # any: a bug of ours, which one cell shows and others survive
        return f"FAILED ({sentence(error)})"
    return told(report)


def told(report: Report) -> str:
    """A report in a few words."""
    if not report.ok:
        return "FAILED (" + "; ".join(report.failures).replace("|", "/")[:160] + ")"
    if not report.exact:
        kinds = Counter(reason.split(" ", 1)[0] for reason in report.inexact_because)
        return "inexact (" + ", ".join(kinds) + ")"
    skipped = [run["skipped"] for run in report.runs if "skipped" in run]
    return "exact" if report.equality == "passed" and not skipped else f"unchecked ({skipped or 'no run'})"


def measure(row: Row, graph: Graph) -> None:
    """All rewrites of one analysed network."""
    channels = graph.result(CHANNELS)
    wanted = {f"{factor}": scaled(channels, factor) for factor in (0.5, 0.75, 1.25)}
    wanted |= {f"random {seed}": random_widths(channels, seed) for seed in SEEDS}
    changed: set[int] = set()
    for label, copies in wanted.items():
        row.results[label] = attempt(graph, copies)
        if row.results[label].startswith("refused"):
            continue
        for layer in graph.result(LAYERS):
            classes = channels.layer_axes[layer.op.index][1]
            if any((copies[g.classes] != 1).any() for g in channels.groups_on(classes)):
                changed.add(layer.op.index)
    row.layers, row.changed = len(graph.result(LAYERS)), len(changed)


def write(source: str, name: str, smallest: int, path: Path, largest: float) -> None:
    """Build the network, and export it into ``path``."""
    if source == "zoo":
        models.export_onnx(name, path)
        return
    model, image = prepared(source, name, smallest, largest)
    try:
        export(model, image, Case(source, name, "torchscript", False), path, dynamic=False)
    except Exception:  # any: what this exporter cannot do, the other one may
        export(model, image, Case(source, name, "dynamo", False), path, dynamic=False)


def run(source: str, name: str, smallest: int, largest: float) -> Row:
    """The row of one network."""
    row = Row(f"{source} {name}")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with silence():
                write(source, name, smallest, path, largest)
        except TooLarge:
            row.not_run = TOO_LARGE
            return row
        except Exception as error:  # any: what a network of another library raises is a row
            row.not_run = sentence(error)
            return row
        try:
            graph = analysed(load_model(path))
        except Exception as error:  # any: a bug of ours
            row.results = dict.fromkeys(("0.5", "0.75", "1.25", "random"), f"FAILED ({sentence(error)})")
            return row
        measure(row, graph)
    row.seconds = time.perf_counter() - begun
    return row


def summary(rows: list[Row]) -> str:
    """What the table says, in a few lines."""
    ran = [r for r in rows if not r.not_run]
    counts = Counter(result.split(" ", 1)[0] for r in ran for result in r.results.values())
    layers, changed = sum(r.layers for r in ran), sum(r.changed for r in ran)
    results = ", ".join(f"{counts[k]} {k}" for k in ("exact", "inexact", "unchecked", "refused", "FAILED"))
    lines = [
        f"{len(ran)} networks, {sum(counts.values())} rewrites: {results}.",
        f"{changed} of {layers} layers were changed.",
    ]
    for why in LEFT_OUT:
        left = [r.name for r in rows if r.not_run == why]
        if left:
            lines.append(f"Not run, {why}: {', '.join(left)}.")
    return "\n".join(f"- {line}" for line in lines)


def chosen_networks(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """The networks that the options ask for, the zoo first."""
    source = chosen.source
    if source in (None, "zoo"):
        started = not chosen.start or chosen.start in models.names()
        yield from (("zoo", n, 0) for n in models.names() if started and chosen.only in n)
    if source != "zoo":
        yield from networks(source, chosen.only, chosen.limit, chosen.start)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rewrites of many networks, each verified.")
    parser.add_argument("--source", choices=("zoo", "torchvision", "timm"), help="default: all")
    parser.add_argument("--only", default="", help="regular expression that the name matches")
    parser.add_argument("--start", default="", help="leave out what stands before this network")
    parser.add_argument("--limit", type=int, default=10**6, help="the first N of each source")
    parser.add_argument("--largest", type=float, default=150, help="millions of parameters at most")
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after this time")
    parser.add_argument("--table", type=Path, help="write the table here, after every network")
    parser.add_argument("--append", action="store_true", help="add to the file instead")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Print a row a network, then the summary; 1 where a rewrite failed."""
    import torch

    torch.set_num_threads(1)
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    command = shlex.join(["python", "benchmarks/rewrite_coverage.py", *arguments])
    before = INTRODUCTION
    if chosen.append and chosen.table is not None and chosen.table.exists():
        before = chosen.table.read_text("utf-8") + "\n"
    rows: list[Row] = []
    print(HEADER)
    for source, name, smallest in chosen_networks(chosen):
        late = time.perf_counter() - begun > chosen.seconds
        late_row = Row(f"{source} {name}", not_run=OUT_OF_TIME)
        rows.append(late_row if late else run(source, name, smallest, chosen.largest))
        if rows[-1].not_run not in LEFT_OUT:
            print(rows[-1].text(), flush=True)
        if chosen.table is not None:
            body = "\n".join(r.text() for r in rows if r.not_run not in LEFT_OUT)
            section = f"## `{command}`\n\n{summary(rows)}\n\n{HEADER}\n{body}\n"
            chosen.table.write_text(before + section, "utf-8")
    print("\n" + summary(rows))
    return int("FAILED" in "".join(r.text() for r in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
