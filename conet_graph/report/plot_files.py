"""A run's pictures as files: PNG to look at, SVG to print and to edit; the network is an SVG only."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.save import atomic_write
from conet_graph.report.plots import (
    PRINTED,
    draw_accuracy,
    draw_final,
    draw_parameters,
    draw_ranks,
    draw_slopes,
    draw_tradeoff,
    draw_widths,
    new_figure,
    rank_top,
    size_label,
    themed,
)
from conet_graph.report.run_drawing import draw_network
from conet_graph.search.recorded import RecordedRun

_DPI = 160


def write_plots(run: RecordedRun, folder: Path) -> list[Path]:
    """Write every plot of a run as PNG and SVG, and the drawing of its network where there is one.

    Returns:
        The files.

    Raises:
        BadUsage: the folder cannot be made or written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"{shown(str(folder))} cannot be made: {error.strerror}.") from None
    written = []
    with themed(PRINTED):
        for name, draw in _FIGURES.items():
            figure = draw(run)
            for kind in ("png", "svg"):
                data = io.BytesIO()
                # Without a date the same run gives the same bytes.
                metadata = {"Date": None} if kind == "svg" else {}
                figure.savefig(data, format=kind, dpi=_DPI, metadata=metadata)
                path = folder / f"{name}.{kind}"
                atomic_write(path, [data.getvalue()])
                written.append(path)
    drawn = draw_network(run)
    if drawn is not None and drawn.svg is not None:
        written.append(folder / "network.svg")
        atomic_write(written[-1], [drawn.svg.encode()])
    return written


def _widths(run: RecordedRun) -> Figure:
    figure = new_figure(8.0, 4.4)
    draw_widths(figure.add_subplot(title="Channel sizes per trial"), run)
    return figure


def _slopes(run: RecordedRun) -> Figure:
    figure = new_figure(8.0, 4.4)
    draw_slopes(figure.add_subplot(title="Rank-slope per trial"), run)
    return figure


def _progress(run: RecordedRun) -> Figure:
    figure = new_figure(11.0, 3.4)
    titles = ("Parameters", "Accuracy", "Accuracy against parameters")
    for k, draw in enumerate((draw_parameters, draw_accuracy, draw_tradeoff)):
        draw(figure.add_subplot(1, 3, k + 1, title=titles[k]), run)
    return figure


def _ranks(run: RecordedRun) -> Figure:
    columns = min(6, max(1, len(run.sizes)))
    rows = max(1, math.ceil(len(run.sizes) / columns))
    width, height = 1.9 * columns + 0.5, 1.35 * rows + 0.35
    # Of a fixed layout: fitting 60 panels to their labels takes seconds.
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.6 / width, 0.6 / height, 1 - 0.1 / width, 1 - 0.3 / height, 0.35, 0.7)
    top = rank_top(run)
    for k, axes in enumerate(grid.flat):
        if k >= len(run.sizes):
            axes.remove()
            continue
        axes.set_title(size_label(run, k, 24), fontsize=8.5)
        axes.tick_params(labelsize=7)
        draw_ranks(axes, run, k, top)
    figure.supxlabel("epoch (a line a trial, the last one strongest)", fontsize=8.5, y=0.1 / height)
    figure.supylabel("rank", fontsize=8.5, x=0.08 / width)
    return figure


def _final(run: RecordedRun) -> Figure:
    figure = new_figure(min(14.0, max(6.0, 0.24 * len(run.sizes) + 1.5)), 3.6)
    draw_final(figure.add_subplot(title="Last widths beside the first"), run)
    return figure


_FIGURES: dict[str, Callable[[RecordedRun], Figure]] = {
    "widths": _widths,
    "ranks": _ranks,
    "slopes": _slopes,
    "progress": _progress,
    "final_widths": _final,
}
