"""Draw accuracy over MACs, a line a method, and print the table: from the rows of ``peer_calibrated.py``.

python benchmarks/plot_calibrated.py docs/data/calibrated.csv --svg docs/images/calibrated.svg
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    """The rows in which a method gave a network."""
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["macs"]]


def table(rows: list[Row], network: str) -> str:
    """Markdown for one network: a method a line, inputs and share a column, means over seeds."""
    mine = [row for row in rows if row["network"] == network]
    cases = sorted({(int(r["samples"]), -float(r["asked"])) for r in mine})
    found: dict[str, dict[tuple[int, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in mine:
        found[r["method"]][int(r["samples"]), -float(r["asked"])].append(100 * float(r["accuracy"]))
    head = " | ".join(f"{count} inputs, {-100 * share:.0f} %" for count, share in cases)
    lines = [f"| {network} | {head} |", "|---|" + "---:|" * len(cases)]
    for method in sorted(
        found, key=lambda name: (not name.startswith("conet-graph"), list(found).index(name))
    ):
        cells = found[method]
        told = " | ".join(f"{mean(cells[case]):.1f}" if case in cells else "" for case in cases)
        lines.append(f"| {method} | {told} |")
    return "\n".join(lines)


def _ours(method: str) -> bool:
    return method.startswith("conet-graph --calibrate")


def draw(rows: list[Row], path: Path) -> None:
    """One plot a network, at the number of inputs that has the most rows."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    networks = sorted({row["network"] for row in rows})
    # A method looks the same in every plot.
    styles = {
        method: {"marker": "os^vDP*X"[number % 8], "color": "black" if _ours(method) else f"C{number % 10}"}
        for number, method in enumerate(dict.fromkeys(row["method"] for row in rows))
    }
    lines: dict[str, Any] = {}
    figure, plots = pyplot.subplots(1, len(networks), figsize=(6 * len(networks), 4.5), squeeze=False)
    for plot, network in zip(plots[0], networks, strict=True):
        counts = [row["samples"] for row in rows if row["network"] == network]
        mine = [
            r for r in rows if r["network"] == network and r["samples"] == max(set(counts), key=counts.count)
        ]
        for method in dict.fromkeys(row["method"] for row in mine):
            points: dict[str, list[Row]] = defaultdict(list)
            for row in mine:
                if row["method"] == method:
                    points[row["asked"]].append(row)
            line = sorted(
                (mean(float(r["macs"]) for r in p), mean(float(r["accuracy"]) for r in p))
                for p in points.values()
            )
            across, up = [100 * x for x, _ in line], [100 * y for _, y in line]
            (lines[method],) = plot.plot(across, up, linewidth=2.5 if _ours(method) else 1, **styles[method])
        plot.set(title=network, xlabel="MACs, % of the original", ylabel="accuracy, %")
        plot.grid(alpha=0.3)
    shown = [method for method in styles if method in lines]
    plots[0][-1].legend(
        [lines[m] for m in shown], shown, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str]) -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description="Table and plot of calibrated narrowing.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--svg", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    rows = rows_of(chosen.rows)
    print("\n\n".join(table(rows, network) for network in dict.fromkeys(row["network"] for row in rows)))
    draw(rows, chosen.svg)


if __name__ == "__main__":
    main(sys.argv[1:])
