"""What peer_coverage.py found: a row for each network and peer as CSV, and the totals as tables."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PRUNERS = ("Torch-Pruning", "torch-kirigami", "onnxsim", "conet-graph")
BACK = ("onnx2torch", "onnx2pytorch", "conet-graph to_torch")
WEIGHTS = ("fresh", "random")
COLUMNS = ("network", "weights", "peer", "changed", "convolutions", "parameters", "result", "version", "made")
LEGEND = """
- *equal*: the result is the original with the dropped channels masked (largest difference under 1e-4 of the
  largest magnitude, or four times what a nudge of the input by a millionth does; PyTorch modules in float64).
- *differs*: it runs and is not equal. *mixing*: it is not equal, in a network in which an operator mixes
  channels without weights (layer norm, softmax, a mean over channels), where no pruner can be equal.
- *unchecked*: it runs, and its weights do not say which channels stayed: they are computed in the graph, or
  all equal.
- *equal* in the totals: of the networks that are not mixing or unchecked.
- *breaks*: the result does not run. *fails*: an error, no result. *no graph*: not even the graph was built.
"""


def outcome(row: Row, mixing: bool) -> str:
    """What came of a pruner's row, in a word."""
    if "error" in row:
        if not row.get("built"):
            return "no graph"
        return "breaks" if "changed" in row and not row.get("runs") else "fails"
    if row["equal"] == "no":
        return "mixing" if mixing else "differs"
    return {"yes": "equal"}.get(row["equal"], row["equal"])


def back_cell(row: Row) -> str:
    """What came of a converter's row."""
    if "error" in row:
        return "does not run" if row.get("built") else "does not convert"
    told = "equal" if row["equal"] == "yes" else "differs"
    return told if row["trains"] else f"{told}, no gradients"


class Rows:
    """Rows by network, weights and peer."""

    def __init__(self, rows: list[Row]) -> None:
        self.by_key = {(r["network"], r["weights"], r["peer"]): r for r in rows}
        # A network that no exporter takes is nobody's failure.
        self.without_file = list(dict.fromkeys(r["network"] for r in rows if r["peer"] == "export"))
        names = dict.fromkeys(r["network"] for r in rows)
        self.networks = [name for name in names if name not in self.without_file]

    def mixing(self, network: str) -> bool:
        """Whether an operator of the network mixes channels without weights, as conet-graph found."""
        return any((self.by_key.get((network, w, "conet-graph")) or {}).get("mixing") for w in WEIGHTS)


def header(first: str, peers: tuple[str, ...]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {first} | " + " | ".join(peers) + " |", "|---|" + "---|" * len(peers)]


def table(rows: list[Row]) -> str:
    """The totals as markdown."""
    found = Rows(rows)
    tables = ([*header(f"{weights} weights", PRUNERS), *totals(found, weights)] for weights in WEIGHTS)
    parts = [LEGEND, *("\n".join(lines) + "\n" for lines in tables), back_table(found)]
    if found.without_file:
        parts.append(f"No file: {', '.join(found.without_file)}: neither exporter takes them.\n")
    return "\n".join(parts)


def write_csv(rows: list[Row], path: Path) -> None:
    """A row for each network, kind of weights and peer: what it changed, what is left, and the result."""
    found = Rows(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for (network, _, peer), row in found.by_key.items():
            if peer in BACK:
                writer.writerow({**row, "result": back_cell(row)})
            elif peer in PRUNERS:
                told = {
                    **row,
                    "convolutions": row.get("layers"),
                    "result": outcome(row, found.mixing(network)),
                }
                if "changed" in row:
                    told["parameters"] = f"{row['parameters']:.2f}"
                writer.writerow(told)


def totals(found: Rows, weights: str) -> list[str]:
    """The last rows: networks built, run and equal; convolutions changed; parameters left."""
    titles = (
        "graph built",
        "result runs",
        "equal",
        "differs, breaks or fails",
        "mixing or unchecked",
        "convolutions changed",
    )
    lines: dict[str, list[str]] = defaultdict(list)
    for peer in PRUNERS:
        keys = [(network, weights, peer) for network in found.networks]
        own = {key[0]: found.by_key[key] for key in keys if key in found.by_key}
        told = [outcome(row, found.mixing(n)) for n, row in own.items()]
        layers = {n: max((r.get("layers", 0) for r in _all(found, n, weights)), default=0) for n in own}
        # A result that does not run, or fails, has changed nothing.
        changed = sum(r.get("changed", 0) for r in own.values() if r.get("runs"))
        lines["graph built"].append(f"{sum(bool(r.get('built')) for r in own.values())} of {len(own)}")
        lines["result runs"].append(f"{sum(bool(r.get('runs')) for r in own.values())} of {len(own)}")
        judged = len(told) - told.count("mixing") - told.count("unchecked")
        lines["equal"].append(f"{told.count('equal')} of {judged}")
        lines["mixing or unchecked"].append(str(len(told) - judged))
        bad = len([t for t in told if t in ("differs", "breaks", "fails")])
        lines["differs, breaks or fails"].append(str(bad))
        share = 100 * changed / max(sum(layers.values()), 1)
        lines["convolutions changed"].append(f"{changed} of {sum(layers.values())} ({share:.1f} %)")
    return [f"| **{title}** | " + " | ".join(lines[title]) + " |" for title in titles]


def _all(found: Rows, network: str, weights: str) -> list[Row]:
    return [found.by_key[network, weights, p] for p in PRUNERS if (network, weights, p) in found.by_key]


def back_table(found: Rows) -> str:
    """The way back to PyTorch."""
    counts: dict[str, list[str]] = {peer: [] for peer in BACK}
    for network in found.networks:
        for peer in BACK:
            row = found.by_key.get((network, "random", peer))
            counts[peer] += [] if row is None else [back_cell(row)]
    told = (f"{c.count('equal')} of {len(c)}" if c else "not run" for c in counts.values())
    lines = header("narrowed by conet-graph, back to PyTorch", BACK)
    return "\n".join([*lines, "| **equal to the file** | " + " | ".join(told) + " |"]) + "\n"
