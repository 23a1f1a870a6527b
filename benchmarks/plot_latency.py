"""Draw measured over predicted times, a point a network that the table had not seen.

python benchmarks/plot_latency.py docs/data/latency.csv --svg docs/images/latency.svg
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

Points = list[tuple[float, float]]  # predicted and measured, as shares of the original's time


def points_of(path: Path) -> dict[str, Points]:
    """The points of each network."""
    found: dict[str, Points] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "unseen":
                found[row["network"]].append((float(row["predicted"]), float(row["measured"])))
    return found


def off(points: Points) -> float:
    """The median error of the predictions."""
    return statistics.median(abs(predicted / measured - 1) for predicted, measured in points)


def draw(found: dict[str, Points], path: Path) -> None:
    """One plot of all networks, with the line on which predictions hold."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "conet-graph"  # the same rows, the same file
    from matplotlib import pyplot

    figure, plot = pyplot.subplots(figsize=(6, 5))
    plot.plot([0.25, 1], [0.25, 1], color="gray", linewidth=1)
    for number, (network, points) in enumerate(found.items()):
        label = f"{network} ({100 * off(points):.1f} %)"
        plot.scatter(*zip(*points, strict=True), marker="os^vDP*X"[number % 8], label=label)
    plot.set(title="Time as a share of the original's (median error)", xlabel="predicted", ylabel="measured")
    plot.grid(alpha=0.3)
    plot.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str]) -> None:
    """Print the errors and draw."""
    parser = argparse.ArgumentParser(description="Plot of predicted and measured times.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--svg", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    found = points_of(chosen.rows)
    for network, points in found.items():
        print(f"{network}: {100 * off(points):.1f} %")
    draw(found, chosen.svg)


if __name__ == "__main__":
    main(sys.argv[1:])
