"""Which layers come out free on torchvision's and timm's networks: docs/COVERAGE.md.

Every network has fresh weights, is exported into a temporary folder, and is analysed. What is in the
rows already is not measured again. Examples:

    python benchmarks/coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/coverage.py --source timm --bn folded --before 2027-01-01
    python benchmarks/coverage.py --summary
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from exports import BN, Case, TooLarge, cases_of, choices, export, networks, prepared, sentence, silence
from rows import DATA, Row, Rows, put_summary

from conet_graph.analysis.frozen import Parts, frozen_parts
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.channels.units import Axis, Units
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, out_axis

KEY = ("source", "network", "exporter", "batchnorm", "batch")
COLUMNS = (*KEY, "layers", "free", "at_output", "sizes", "frozen", "seconds", "problem")
FILE = DATA / "coverage.csv"
PAGE = DATA.parent / "COVERAGE.md"
# Independent sizes, counted by hand.
EXPECTED = {"resnet18": 12, "resnet34": 20, "resnet50": 37, "densenet121": 120, "mobilenet_v2": 25}


def counts(graph: Graph) -> dict[str, object]:
    """How many layers are free, and the reasons for the rest."""
    channels, layers = graph.result(CHANNELS), graph.result(LAYERS)
    parts = frozen_parts(channels.units)
    free = at_output = 0
    reasons: Counter[str] = Counter()
    for layer in layers:
        groups = channels.groups_on(channels.layer_axes[layer.op.index][1])
        if any(g.free for g in groups):
            free += 1
            continue
        reason = _why(channels.units, parts, out_axis(channels.units, layer))
        at_output += reason.startswith("graph output")
        reasons[re.sub(r" \(node '[^']*'\)|'[^']*'", "", reason)] += 1
    told = [f"{n}: {re.sub(' +', ' ', text).strip()}" for text, n in reasons.most_common()]
    return {
        "layers": len(layers),
        "free": free,
        "at_output": at_output,
        "sizes": len({g.size for g in channels.groups if g.free}),
        "frozen": "; ".join(told),
    }


def _why(units: Units, parts: Parts, axis: Axis) -> str:
    """Why the channels of an axis are frozen: the reason that most of them meet."""
    if isinstance(axis, int):
        return units.reasons[axis]
    unit, _ = Counter(parts.reason[parts.of[axis]].tolist()).most_common(1)[0]
    return units.reasons[unit]


def measured(case: Case, model: object, image: object, *, dynamic: bool) -> dict[str, object]:
    """The row of one export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with silence():
                export(model, image, case, path, dynamic)
        except Exception as error:  # any: what a network of another library raises is a row
            return {"problem": f"does not export: {sentence(error)}"}
        start = time.perf_counter()
        try:
            graph = analysed(load_model(path))
        except Exception as error:  # any: a bug of ours, which one row shows and others survive
            return {"problem": f"analysis failed: {sentence(error)}"}
        return {**counts(graph), "seconds": time.perf_counter() - start}


def measure(rows: Rows, source: str, name: str, smallest: int, chosen: argparse.Namespace) -> None:
    """Measure the exports of one network that are missing."""
    batch = "free" if chosen.dynamic else "fixed"
    cases = {case: {**case.cells, "batch": batch} for case in cases_of(source, name, chosen)}
    missing = {c: k for c, k in cases.items() if not rows.has([k[n] for n in KEY], chosen.before)}
    if not missing:
        return
    try:
        model, image = prepared(source, name, smallest, chosen.largest)
    except TooLarge:
        return
    except Exception as error:  # any: what a network of another library raises is a row
        for cells in missing.values():
            rows.put([{**cells, "problem": f"not run: {sentence(error)}"}])
        return
    for case, cells in missing.items():
        told = rows.put([{**cells, **measured(case, model, image, dynamic=chosen.dynamic)}])
        print(*told[0].values(), sep=" | ", flush=True)


def summary(rows: list[Row]) -> str:
    """What the rows say, as a table and a few lines."""
    lines = [
        "| networks | batch | exports | layers | free | graph outputs | frozen otherwise | exports without |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for source, batch in sorted({(r["source"], r["batch"]) for r in rows}, reverse=True):
        ran = [r for r in rows if r["layers"] and (r["source"], r["batch"]) == (source, batch)]
        layers, free, out = (sum(int(r[name]) for r in ran) for name in ("layers", "free", "at_output"))
        whole = sum(int(r["free"]) + int(r["at_output"]) == int(r["layers"]) for r in ran)
        names = len({r["network"] for r in ran})
        cells = [f"{source}: {names}", batch, len(ran), layers, free, out, layers - free - out, whole]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"{sum(not r['layers'] for r in rows)} exports gave no graph; their rows say why."]
    counted = [r for r in rows if r["layers"] and r["source"] == "torchvision" and r["network"] in EXPECTED]
    right = sum(int(r["sizes"]) == EXPECTED[r["network"]] for r in counted)
    told = ", ".join(f"{name} {count}" for name, count in EXPECTED.items())
    lines.append(f"Sizes counted by hand ({told}): {right} of {len(counted)} exports have them.")
    return "\n".join(lines)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = choices("Which layers come out free.", ("torchvision", "timm"))
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), help="default: both")
    parser.add_argument("--bn", choices=tuple(BN.values()), help="default: both")
    parser.add_argument("--dynamic", action="store_true", help="a free batch dimension")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing, then write the summary into the page."""
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    rows = Rows(FILE, COLUMNS, KEY)
    for source, name, smallest in [] if chosen.summary else networks(chosen.source, chosen.only):
        if time.perf_counter() - begun < chosen.seconds:
            measure(rows, source, name, smallest, chosen)
    put_summary(PAGE, "coverage.py", summary(rows.rows))


if __name__ == "__main__":
    main(sys.argv[1:])
