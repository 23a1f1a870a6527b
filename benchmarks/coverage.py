"""Which layers come out free on torchvision's and timm's networks: the table in docs/COVERAGE.md.

Every network has fresh weights, is exported into a temporary folder, and is analysed. A network
that does not export is a row with its reason. Examples:

    python benchmarks/coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/coverage.py --table docs/COVERAGE.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS

# The numbers of independent sizes.
EXPECTED = {"resnet18": 12, "resnet34": 20, "resnet50": 37, "densenet121": 120, "mobilenet_v2": 25}

# One network a line: library, name, and the smallest image side where it must be said.
NETWORKS = Path(__file__).with_name("networks.txt")
BN = {False: "folded", True: "kept"}
OUT_OF_TIME = "not run: out of time (--seconds)"
SIZES = (64, 96, 128, 192, 224, 256, 299, 384)


class TooLarge(ValueError):
    """More parameters than --largest: left for another run."""


@dataclass(frozen=True)
class Case:
    """One export of one network."""

    source: str
    name: str
    exporter: str
    kept: bool

    @property
    def label(self) -> str:
        """The first columns of the row."""
        return f"{self.source} {self.name} | {self.exporter} | {BN[self.kept]}"


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    case: Case
    layers: int = 0
    free: int = 0
    at_output: int = 0
    sizes: int = 0
    seconds: float = 0.0
    reasons: str = ""

    @property
    def complete(self) -> bool:
        """Whether every layer is free, or makes a graph output."""
        return self.layers > 0 and self.free + self.at_output == self.layers

    def text(self) -> str:
        """The row in markdown."""
        if not self.layers:
            return f"| {self.case.label} | | | | | {self.reasons} | |"
        share = f"{100 * self.free / self.layers:.0f} %"
        numbers = f"{self.layers} | {self.free} | {share} | {self.sizes}"
        return f"| {self.case.label} | {numbers} | {self.reasons} | {self.seconds:.2f} |"


HEADER = (
    "| network | exporter | BatchNorm | layers | free | share | sizes | frozen, and why | seconds |\n"
    "|---|---|---|---:|---:|---:|---:|---|---:|"
)


def networks(source: str | None, only: str, limit: int, start: str) -> list[tuple[str, str, int]]:
    """The chosen networks, as (library, name, smallest image)."""
    found: list[tuple[str, str, int]] = []
    begun = not start
    for line in NETWORKS.read_text().splitlines():
        if line.startswith("#"):
            continue
        library, name, *side = line.split()
        begun = begun or (name == start and source in (None, library))
        if begun and source in (None, library) and re.search(only, name):
            found.append((library, name, int(side[0]) if side else SIZES[0]))
    counts: Counter[str] = Counter()
    chosen = []
    for library, name, smallest in found:
        counts[library] += 1
        if counts[library] <= limit:
            chosen.append((library, name, smallest))
    return chosen


INTRODUCTION = """# Coverage: which layers are free

Networks with fresh weights, exported and analysed by the command over each table.

- A *layer* is an operator with a weight; it is *free* if some of its output channels may go.
- *Sizes* counts the independent free sizes.
- BatchNorm *kept*: the export was told not to fold it (constant folding off, or the dynamo-based exporter
  without its optimiser).
- Layers that make a graph output, the classifier mostly, are frozen in every network, and rightly so.

"""


def build(source: str, name: str) -> Any:
    """The network, freshly initialised, in eval mode."""
    import torch

    torch.manual_seed(0)
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval()
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return models.get_model(name, **options).eval()


def smallest_image(model: Any, at_least: int = 0) -> Any:
    """The smallest image that the network takes."""
    import torch

    fault: Exception | None = None
    for size in (n for n in SIZES if n >= at_least):
        image = torch.zeros(1, 3, size, size)
        try:
            with torch.no_grad():
                model(image)
        except Exception as error:  # any: each network says "too small" in its own way
            fault = error
        else:
            return image
    raise ValueError(f"no square image up to {SIZES[-1]} fits it: {fault}")


def export(model: Any, image: Any, case: Case, path: Path, dynamic: bool) -> None:
    """Write the ONNX file."""
    import torch

    options: dict[str, Any] = {"input_names": ["input"]}
    if case.exporter == "dynamo":
        options |= {"dynamo": True, "optimize": not case.kept, "verbose": False}
        if dynamic:
            options["dynamic_shapes"] = [{0: torch.export.Dim("batch", min=1)}]
            image = image.expand(2, -1, -1, -1).clone()
    else:
        options["dynamo"] = False
        if case.kept:
            options |= {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
        if dynamic:
            options["dynamic_axes"] = {"input": {0: "batch"}}
    torch.onnx.export(model, (image,), str(path), **options)


def prepared(source: str, name: str, smallest: int, largest: float) -> tuple[Any, Any]:
    """A network, and the smallest image it takes.

    Raises:
        TooLarge: it has more million parameters than ``largest``.

    """
    with silence():
        model = build(source, name)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if millions > largest:
        raise TooLarge(f"{millions:.0f} million parameters (--largest {largest:g})")
    return model, smallest_image(model, smallest)


def measure(case: Case, graph: Graph, seconds: float) -> Row:
    """Count the free layers and the reasons for the rest."""
    channels, layers = graph.result(CHANNELS), graph.result(LAYERS)
    free = at_output = 0
    reasons: Counter[str] = Counter()
    for layer in layers:
        groups = channels.groups_on(channels.layer_axes[layer.op.index][1])
        if any(g.free for g in groups):
            free += 1
            continue
        reason = (groups[0].reason if groups else None) or "its output carries no channels"
        at_output += reason.startswith("graph output")
        reasons[re.sub(r" \(node '[^']*'\)|'[^']*'", "", reason).replace("|", "/")] += 1
    sizes = len({g.size for g in channels.groups if g.free})
    told = [f"{n}: {re.sub(' +', ' ', text).strip()}" for text, n in reasons.most_common()]
    return Row(case, len(layers), free, at_output, sizes, seconds, "; ".join(told))


def run(cases: list[Case], smallest: int, chosen: argparse.Namespace) -> Iterator[Row]:
    """The rows of one network."""
    try:
        model, image = prepared(cases[0].source, cases[0].name, smallest, chosen.largest)
    except Exception as error:  # any: what a network of another library raises is a row
        yield from (Row(case, reasons=f"not run: {sentence(error)}") for case in cases)
        return
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with silence():
                    export(model, image, case, path, chosen.dynamic)
            except Exception as error:  # any, as above
                yield Row(case, reasons=f"does not export: {sentence(error)}")
                continue
            start = time.perf_counter()
            try:
                graph = analysed(load_model(path))
            except Exception as error:  # any: a bug of ours, which one row shows and others survive
                yield Row(case, reasons=f"analysis failed: {sentence(error)}")
            else:
                yield measure(case, graph, time.perf_counter() - start)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what an exporter writes to standard output, from C++ too, out of the table."""
    sys.stdout.flush()
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def sentence(error: Exception) -> str:
    """An error in one short line that fits a table."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:120]}".replace("|", "/")


def summary(rows: list[Row]) -> str:
    """What the table says, in a few lines."""
    ran = [r for r in rows if r.layers]
    names = {(r.case.source, r.case.name) for r in ran}
    layers, free = sum(r.layers for r in ran), sum(r.free for r in ran)
    at_output = sum(r.at_output for r in ran)
    lines = [
        f"{len(names)} networks, {len(ran)} exports: {free} of {layers} layers are free, {at_output}"
        f" make a graph output, {layers - free - at_output} are frozen for another reason.",
        f"{sum(r.complete for r in ran)} exports have every layer free but those that make a graph output.",
        f"{len(rows) - len(ran)} cases gave no graph; their rows say why.",
    ]
    counted = [r for r in ran if r.case.source == "torchvision" and r.case.name in EXPECTED]
    right = sum(r.sizes == EXPECTED[r.case.name] for r in counted)
    told = ", ".join(f"{name} {count}" for name, count in EXPECTED.items())
    lines.append(f"Sizes expected ({told}): {right} of {len(counted)} exports have them.")
    return "\n".join(lines)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Which layers come out free.")
    parser.add_argument("--source", choices=("torchvision", "timm"), help="default: both")
    parser.add_argument("--only", default="", help="regular expression that the name matches")
    parser.add_argument("--start", default="", help="leave out what stands before this network")
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), help="default: both")
    parser.add_argument("--bn", choices=("folded", "kept"), help="default: both")
    parser.add_argument("--limit", type=int, default=10**6, help="the first N of each source")
    parser.add_argument("--largest", type=float, default=150, help="millions of parameters at most")
    parser.add_argument("--dynamic", action="store_true", help="a free batch dimension")
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after this time")
    parser.add_argument("--table", type=Path, help="write the table here")
    parser.add_argument("--append", action="store_true", help="add to the file instead")
    return parser.parse_args(arguments)


def cases_of(source: str, name: str, chosen: argparse.Namespace) -> list[Case]:
    """The exports of one network that the options ask for."""
    return [
        Case(source, name, exporter, kept)
        for exporter in ("torchscript", "dynamo")
        for kept in (False, True)
        if chosen.exporter in (None, exporter) and chosen.bn in (None, BN[kept])
    ]


def main(arguments: list[str]) -> None:
    """Print a row an export, then the summary."""
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    rows: list[Row] = []
    print(HEADER)
    for source, name, smallest in networks(chosen.source, chosen.only, chosen.limit, chosen.start):
        cases = cases_of(source, name, chosen)
        late = time.perf_counter() - begun > chosen.seconds
        made = run(cases, smallest, chosen)
        for row in [Row(c, reasons=OUT_OF_TIME) for c in cases] if late else made:
            rows.append(row)
            print(row.text(), flush=True)
    print("\n" + summary(rows))
    if chosen.table is not None:
        write_table(chosen.table, chosen.append, rows, arguments)


def write_table(path: Path, append: bool, rows: list[Row], arguments: list[str]) -> None:
    """Write the document, or one more section of it, with the command that makes it."""
    command = shlex.join(["python", "benchmarks/coverage.py", *arguments])
    body = "\n".join(row.text() for row in rows if row.reasons != OUT_OF_TIME)
    late = dict.fromkeys(row.case.name for row in rows if row.reasons == OUT_OF_TIME)
    points = "\n".join(f"- {line}" for line in summary(rows).splitlines())
    if late:
        points += f"\n- Not run, out of time: {', '.join(late)}."
    section = f"## `{command}`\n\n{points}\n\n{HEADER}\n{body}\n"
    before = path.read_text() + "\n" if append and path.exists() else INTRODUCTION
    path.write_text(before + section)


if __name__ == "__main__":
    main(sys.argv[1:])
