"""The network of a search as its DAG, in its last form that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from conet_graph.analysis.analysis import analysis_of
from conet_graph.ir.errors import ConetGraphError
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.report.graph_drawing import draw_graph
from conet_graph.report.palette import Palette
from conet_graph.search.recorded import RecordedRun


@dataclass(frozen=True, slots=True)
class Drawing:
    """What could be drawn.

    Attributes:
        what: which widths are shown, in words.
        layers: how many layers the network has.
        svg: the drawing; None where the network is too large to be drawn.

    """

    what: str
    layers: int
    svg: str | None


@lru_cache(maxsize=1)
def draw_network(run: RecordedRun) -> Drawing | None:
    """Draw the network of a search, once for all that show it; None where none of its files can be read."""
    for path, what in _candidates(run):
        if not path.is_file():
            continue
        try:
            graph = analysed(load_model(path))
        except ConetGraphError:
            continue
        analysis = analysis_of(graph)
        palette = Palette.of_run(run, analysis)
        svg = draw_graph(graph, analysis, palette, f"The network with {what}")
        return Drawing(what, len(analysis.layers), svg)
    return None


def _candidates(run: RecordedRun) -> Iterator[tuple[Path, str]]:
    yield run.folder / "final.onnx", "its final widths"
    for trial in reversed(run.trials):
        yield run.folder / f"trials/{trial.number:03d}.onnx", f"the widths of trial {trial.number}"
    yield run.folder / "original.onnx", "the widths of the file that was searched"
