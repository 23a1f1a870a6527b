"""Draw accuracy over MACs, a line a method, and write the table: from the rows of ``peer_calibrated.py``.

The table of ``peer_distilled.py`` is written, too.

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
ROWS, DISTILLED = DATA / "calibrated.csv", DATA / "distilled.csv"
PLOT = DATA.parent / "images" / "calibrated.svg"
OURS = "conet-graph --calibrate"
# A share of the MACs that is so much above the one asked for is none.
FAR = 0.05


def rows_of(path: Path) -> list[Row]:
    """All rows, also those in which a method failed."""
    with path.open() as file:
        return list(csv.DictReader(file))


def table(rows: list[Row]) -> str:
    """Markdown: a method a line, a share of the MACs a column; means over draws of inputs, best ones bold.

    Seconds are the mean of a line's cells, memory is the most of them that was measured.
    """
    found: dict[Case, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["network"], int(row["samples"]), row["method"]].append(row)
    shares = sorted({row["asked"] for row in rows}, key=float, reverse=True)
    best: dict[tuple[str, int, str], float] = defaultdict(float)
    for (network, samples, _), mine in found.items():
        for share in shares:
            if values := _accuracies(mine, share):
                best[network, samples, share] = max(best[network, samples, share], mean(values))
    columns = [f"{100 * float(share):.0f} %" for share in shares]
    lines = [
        f"| network | inputs | method | {' | '.join(columns)} | seconds | MB |",
        "|---|---:|---|" + "---:|" * (len(shares) + 2),
    ]
    order = list(dict.fromkeys(row["network"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    told: tuple[str, int] | None = None
    for case in sorted(found, key=lambda c: (order.index(c[0]), c[1], not _ours(c[2]), methods.index(c[2]))):
        network, samples, method = case
        cells = [_cell(found[case], share, best[network, samples, share]) for share in shares]
        names = ("", "") if told == (network, samples) else (network, str(samples))
        told = (network, samples)
        lines.append(f"| {' | '.join([*names, method, *cells, *_costs(found[case])])} |")
    return "\n".join(lines)


def _accuracies(rows: list[Row], share: str) -> list[float]:
    """In percent, at a share of the MACs, of the rows in which there is a network of so few."""
    return [
        100 * float(row["accuracy"])
        for row in rows
        if row["asked"] == share and row["macs"] and float(row["macs"]) < float(share) + FAR
    ]


def _cell(rows: list[Row], share: str, best: float) -> str:
    """The mean, with the number of draws where there are several; or that the method failed."""
    values = _accuracies(rows, share)
    if not values:
        here = [row for row in rows if row["asked"] == share]
        return ("not narrowed" if here[0]["macs"] else "fails") if here else ""
    shown = f"{mean(values):.1f}"
    shown = f"**{shown}**" if mean(values) >= best else shown
    return shown + (f" ({len(values)})" if len(values) > 1 else "")


def _costs(rows: list[Row]) -> tuple[str, str]:
    """Seconds and MB."""
    seconds = [float(row["seconds"]) for row in rows if row["macs"]]
    memory = [int(row["memory"]) for row in rows if row["memory"]]
    return (f"{mean(seconds):.1f}" if seconds else "", str(max(memory)) if memory else "")


def distilled_table(rows: list[Row]) -> str:
    """Markdown: what each method gave, and what became of it by distillation, in percent right."""
    lines = ["| network | MACs | method | narrowed | distilled |", "|---|---:|---|---:|---:|"]
    told = ""
    for row in sorted(rows, key=lambda r: (r["network"], -float(r["asked"]), -float(r["after"]))):
        case = f"| {row['network']} | {100 * float(row['asked']):.0f} % |"
        figures = (f"{100 * float(row[key]):.1f}" for key in ("before", "after"))
        lines.append(f"{case if case != told else '|  |  |'} {row['method']} | {' | '.join(figures)} |")
        told = case
    return "\n".join(lines)


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
    rows, page = rows_of(ROWS), DATA.parent / "CALIBRATION.md"
    put_summary(page, Path(__file__).name, table(rows))
    if DISTILLED.exists():
        put_summary(page, "peer_distilled.py", distilled_table(rows_of(DISTILLED)))
    draw([row for row in rows if row["macs"]], PLOT)


if __name__ == "__main__":
    main()
