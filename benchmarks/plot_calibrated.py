"""Draw accuracy over MACs, a line a method, and write the table: from the rows of ``peer_calibrated.py``.

python benchmarks/plot_calibrated.py
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from rows import DATA, put_summary

Row = dict[str, str]
Case = tuple[str, int, str]  # network, inputs, method
ROWS, PLOT = DATA / "calibrated.csv", DATA.parent / "images" / "calibrated.svg"
OURS = "conet-graph --calibrate"


def rows_of(path: Path) -> list[Row]:
    """The rows in which a method gave a network."""
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["macs"]]


def table(rows: list[Row]) -> str:
    """Markdown: a method a line, a share of the MACs a column; means over draws of inputs, best ones bold."""
    found: dict[Case, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        case = (row["network"], int(row["samples"]), row["method"])
        found[case][float(row["asked"])].append(100 * float(row["accuracy"]))
    shares = sorted({share for cells in found.values() for share in cells}, reverse=True)
    best: dict[tuple[str, int, float], float] = defaultdict(float)
    for (network, samples, _), cells in found.items():
        for share, values in cells.items():
            best[network, samples, share] = max(best[network, samples, share], mean(values))
    lines = [
        f"| network | inputs | method | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |",
        "|---|---:|---|" + "---:|" * len(shares),
    ]
    order = list(dict.fromkeys(row["network"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    told: tuple[str, int] | None = None
    for network, samples, method in sorted(
        found, key=lambda c: (order.index(c[0]), c[1], not _ours(c[2]), methods.index(c[2]))
    ):
        cells = [
            _cell(found[network, samples, method].get(share, []), best[network, samples, share])
            for share in shares
        ]
        names = ("", "") if told == (network, samples) else (network, str(samples))
        told = (network, samples)
        lines.append(f"| {names[0]} | {names[1]} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], best: float) -> str:
    """The mean, with the number of draws where there are several."""
    if not values:
        return ""
    shown = f"{mean(values):.1f}"
    shown = f"**{shown}**" if mean(values) >= best else shown
    return shown + (f" ({len(values)})" if len(values) > 1 else "")


def _ours(method: str) -> bool:
    return method.startswith(OURS)


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


def main() -> None:
    """Write the table into the page, and draw."""
    rows = rows_of(ROWS)
    put_summary(DATA.parent / "CALIBRATION.md", Path(__file__).name, table(rows))
    draw(rows, PLOT)


if __name__ == "__main__":
    main()
