"""The picture of a sweep: accuracy against parameters (the paper's Fig. 6)."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from conet_graph.ir.save import atomic_write
from conet_graph.report.colors import size_color
from conet_graph.report.plots import PRINTED, new_figure, themed
from conet_graph.search.sweep import SweepRow

DPI = 160


def options_text(options: Mapping[str, float]) -> str:
    """What tells a combination apart, as in 'delta 0.01, phi 0.2'."""
    return ", ".join(f"{name} {value:g}" for name, value in options.items()) or "all"


def write_picture(rows: Sequence[SweepRow], path: Path) -> list[Path]:
    """Draw a dot for every search and a ring for every mean over seeds; as PNG and SVG.

    Args:
        rows: the sweep's.
        path: the files' path without a suffix.

    Returns:
        The files; none where no search has an accuracy yet.

    """
    from matplotlib.ticker import PercentFormatter

    shown = [row for row in rows if row.mean("accuracy") is not None]
    if not shown:
        return []
    written = []
    with themed(PRINTED):
        figure = new_figure(7.0, 4.4)
        axes = figure.add_subplot(title="Test accuracy against parameters")
        for k, row in enumerate(shown):
            color = size_color(k, len(shown))
            measured = [r for r in row.results if r.accuracy is not None and r.parameters is not None]
            parameters, accuracies = (
                [r.parameters or 0 for r in measured],
                [r.accuracy or 0.0 for r in measured],
            )
            axes.scatter(parameters, accuracies, s=14, color=color, alpha=0.55, linewidths=0)
            middle = [statistics.mean(parameters)], [statistics.mean(accuracies)]
            label = options_text(row.options)
            axes.scatter(middle[0], middle[1], s=70, facecolors="none", edgecolors=color, label=label)
        axes.set_xlabel("parameters")
        axes.set_ylabel("test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False, fontsize=8)
        for kind in ("png", "svg"):
            data = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(data, format=kind, dpi=DPI, metadata=metadata)
            written.append(path.with_suffix(f".{kind}"))
            atomic_write(written[-1], [data.getvalue()])
    return written
