"""Networks of other packages: what is free, rewrites and their verdict, the bridge: docs/COVERAGE.md.

The packages are tools of this benchmark (pytorchcv, timm, torchvision, ultralytics); a network whose package
is not there is left out. What is in the rows already is not measured again. Examples:

    python benchmarks/outside.py --only 'yolo|rtdetr'
    python benchmarks/outside.py --source pytorchcv
    python benchmarks/outside.py --summary
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import onnx
from coverage import counts
from exports import choices, sentence, silence
from outside_networks import NETWORKS
from rewrite_coverage import verdict
from rows import DATA, Row, Rows, put_summary

from conet_graph.bridge import batches, to_torch
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.rewriting.rewriting import plan_for, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies

KEY = ("source", "network", "part")
COLUMNS = (*KEY, "layers", "count", "result", "exact", "bins", "why", "difference", "seconds")
FILE = DATA / "outside.csv"
PAGE = DATA.parent / "COVERAGE.md"
REQUESTS: dict[str, dict[str, float]] = {
    "0.5": {"scale": 0.5},
    "1.5": {"scale": 1.5},
    "half the MACs": {"macs": 0.5},
}


def bins(model: onnx.ModelProto) -> str:
    """How many bins the fixed convolution of a box head reads: one number, if there is such a convolution."""
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = {
        weights.get(node.input[1], [0])[1:2][0] for node in model.graph.node if _is_box_head(node, weights)
    }
    return ", ".join(str(number) for number in sorted(found))


def _is_box_head(node: onnx.NodeProto, weights: dict[str, list[int]]) -> bool:
    shape = weights.get(node.input[1], []) if node.op_type == "Conv" else []
    return "dfl" in node.name and shape[:1] == [1] and shape[2:] == [1, 1]


def rewrite(graph: Graph, request: dict[str, float]) -> dict[str, object]:
    """A rewrite with default options, and its verdict."""
    begun = time.perf_counter()
    try:
        wanted = WidthRequest(**request)
        plan, layout = plan_for(graph, wanted, "keep", False, lambda asked: choose_copies(graph, asked))
        made = rewritten(graph, plan, layout)
        found = verdict(graph, plan, layout.labels.copies, made)
    except Refused as error:
        return {"result": "refused", "why": error}
    except Exception as error:  # any: a bug of ours, which one row shows and others survive
        return {"result": "error", "why": sentence(error)}
    found["count"], found["result"] = found.pop("changed"), found.pop("equality")
    return {**found, "bins": bins(made), "seconds": time.perf_counter() - begun}


def bridge(path: Path) -> dict[str, object]:
    """Whether the PyTorch module, checked once on three images beside ONNX Runtime, takes any batch."""
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = batches(to_torch(load_model(path)))
    except Exception as error:  # any: a row says it
        return {"result": "error", "why": sentence(error)}
    told = [str(w.message) for w in said if "Batch" in w.category.__name__]
    result = "any batch" if found.checked and found.only is None else "the file's batch"
    return {"result": result, "why": " ".join(told), "seconds": time.perf_counter() - begun}


def measure(rows: Rows, source: str, name: str, before: str) -> None:
    """All parts of one network that are missing."""
    parts = ["analyze", *REQUESTS, "bridge"]
    missing = [part for part in parts if not rows.has([source, name, part], before)]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            import torch

            torch.manual_seed(0)
            with silence():
                NETWORKS[source, name](name, path)
        except ImportError as error:
            print(f"{source} {name}: {error}", file=sys.stderr)
            return
        except Exception as error:  # any: what a network of another library raises is a row
            rows.put([{"source": source, "network": name, "part": "analyze", "why": sentence(error)}])
            return
        begun = time.perf_counter()
        graph = analysed(load_model(path))
        found = counts(graph)
        shared = {"source": source, "network": name, "layers": found["layers"]}
        for part in missing:
            if part == "analyze":
                row = {"count": found["free"], "why": found["frozen"], "seconds": time.perf_counter() - begun}
            else:
                row = rewrite(graph, REQUESTS[part]) if part in REQUESTS else bridge(path)
            told = rows.put([{**shared, "part": part, **row}])
            print(*told[0].values(), sep=" | ", flush=True)


def summary(rows: list[Row]) -> str:
    """A line a network, and what is frozen in it."""
    lines = [
        "| network | layers | free | 0.5 | 1.5 | half the MACs | bridge at batch 3 |",
        "|---|---:|---:|---|---|---|---|",
    ]
    frozen = []
    for source, name in dict.fromkeys((r["source"], r["network"]) for r in rows):
        parts = {r["part"]: r for r in rows if (r["source"], r["network"]) == (source, name)}
        analyze = parts["analyze"]
        cells = [f"{source} {name}", analyze["layers"], analyze["count"]]
        cells += [_told(parts.get(part)) for part in (*REQUESTS, "bridge")]
        lines.append(f"| {' | '.join(cells)} |")
        frozen.append(f"- {name}: {analyze['why']}.")
    return "\n".join([*lines, "", "Frozen, by reason:", "", *frozen])


def _told(row: Row | None) -> str:
    """A cell: the verdict, whether it is exact, the bins of a box head."""
    if row is None:
        return ""
    more = [f"{row['bins']} bins"] if row["bins"] else []
    more += ["inexact"] if row["exact"] == "no" else []
    return ", ".join([row["result"], *more])


def main(arguments: list[str]) -> None:
    """Measure what is missing, then write the summary into the page."""
    chosen = choices(
        "Networks of other packages.", tuple(dict.fromkeys(source for source, _ in NETWORKS))
    ).parse_args(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    rows = Rows(FILE, COLUMNS, KEY)
    for source, name in () if chosen.summary else NETWORKS:
        wanted = chosen.source in (None, source) and re.search(chosen.only, name)
        if wanted and time.perf_counter() - begun < chosen.seconds:
            measure(rows, source, name, chosen.before)
    put_summary(PAGE, "outside.py", summary(rows.rows))


if __name__ == "__main__":
    main(sys.argv[1:])
