"""Measuring a latency table: a network at many widths, each operator where it runs."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from operator import truediv
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.analysis.layers import layer_names
from conet_graph.costs.operator_widths import Widths
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.overridable import constant_weights
from conet_graph.ir.save import save_model
from conet_graph.latency.events import configure_profile, marked, operator_times
from conet_graph.latency.prediction import shapes_of
from conet_graph.latency.sessions import Conditions, Timed, opened, rounds
from conet_graph.latency.table import Row, Table
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.alignment import Alignment, step_ladder

Counts = NDArray[np.int64]

EVEN = (0.75, 0.5, 0.25)  # those in which every group has this share of its channels
RUNS, SECONDS = 6, 0.7  # of each network: at least so many, and so long


def profiled(
    graph: Graph,
    conditions: Conditions,
    alignment: Alignment,
    *,
    networks: int = 28,
    path: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Table:
    """Measure a latency table of a network.

    The network is run at many widths, in ONNX Runtime, with its own timing of each node: layers are timed as
    they run, folded together with what follows them, in the layouts and with the caches of the whole network.
    After each run the original is run, and what has become slower for both is taken out.

    Args:
        graph: an analysed graph.
        conditions: provider and threads.
        alignment: the multiples that widths are taken from.
        networks: how many networks are run, 2 or more.
        path: the table is written here after each, and goes on from what is there.
        tell: called with how many of how many are done.

    Raises:
        Refused: nothing may change in the network, or ONNX Runtime does not run it.
        BadUsage: the table that is there already is another network's, or from other conditions.

    """
    table = _begun(graph, conditions, networks, path)
    widths = Widths(graph)
    shapes = shapes_of(graph, widths.operators)
    meter = _Meter(graph, conditions)
    for done, counts in enumerate(networks_for(graph, alignment, networks)):
        tell(done, networks)
        if done < table.measured:
            continue
        times, table.original_ms = meter.times(counts, table.original_ms)
        _note(table, graph, widths, shapes, counts, times)
        table.measured = done + 1
        if path is not None:
            table.write(path)
    tell(networks, networks)
    return table


def _begun(graph: Graph, conditions: Conditions, networks: int, path: Path | None) -> Table:
    """An empty table, or the one that is there."""
    import onnxruntime as ort

    runtime = {
        "name": "onnxruntime",
        "version": ort.__version__,
        **conditions.to_json(),
    }
    if path is None or not path.exists():
        return Table(runtime=runtime, sha256=graph.loaded.sha256, asked=networks)
    found = Table.read(path)
    if found.sha256 != graph.loaded.sha256 or found.runtime != runtime or found.asked != networks:
        raise BadUsage(
            f"{shown(str(path))} is a table of another network, or from other conditions: give another name."
        )
    return found


def networks_for(graph: Graph, alignment: Alignment, networks: int) -> Iterator[Counts]:
    """Classes that each group keeps: the original, even shares, then shares of every size in every group."""
    groups = graph.result(CHANNELS).groups
    steps = step_ladder(graph, alignment)[0]
    now = np.array([len(g.classes) for g in groups], np.int64)
    free = np.array([g.free for g in groups], np.bool_)
    if not free.any():
        raise Refused("Nothing may change in this network: there are no widths to measure.")
    most = np.where(free, now, 0) // steps  # whole steps
    rest = max(networks - 1 - len(EVEN), 0)
    rng = np.random.default_rng(0)
    # Latin hypercube: every group takes every share once, in an order of its own.
    drawn = np.array([rng.permutation(rest) for _ in groups]).reshape(len(now), rest) + 0.5
    yield now
    for share in [*[np.full(len(now), s) for s in EVEN], *drawn.T / max(rest, 1)][: networks - 1]:
        taken = np.maximum(np.rint(share * most), 1).astype(np.int64) * steps
        yield np.where(free & (most > 0), taken, now)


def copies_for(graph: Graph, counts: Counts) -> Counts:
    """Copies of each class where groups keep their first classes: to time it is all the same."""
    channels = graph.result(CHANNELS)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group, count in zip(channels.groups, counts.tolist(), strict=True):
        copies[group.classes[count:]] = 0
    return copies


class _Meter:
    """Runs networks beside the original."""

    def __init__(self, graph: Graph, conditions: Conditions) -> None:
        self.graph, self.conditions = graph, conditions
        whole = self._model(_everything(graph))
        self.reference = opened(whole, graph.folder, conditions)

    def _model(self, counts: Counts) -> onnx.ModelProto:
        made = rewrite_model(self.graph, lay_out(self.graph, copies_for(self.graph, counts)))
        return constant_weights(made)

    def times(self, counts: Counts, original: float | None) -> tuple[dict[int, float], float]:
        """Milliseconds of each operator at some widths, and of the original.

        What the nodes took says how a run's time is shared out among them; how long the run is comes from
        runs that nothing is written about, as the median of their ratio to the original's. ``original`` is
        its milliseconds in a table that is begun.
        """
        with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
            path = Path(folder) / "candidate.onnx"
            save_model(marked(self._model(counts)), path, self.graph.folder)
            plain = Timed(path, self.conditions)
            candidate = Timed(path, self.conditions, configure_profile(Path(folder)))
            wholes: list[float] = []
            beside: list[float] = []
            for _ in rounds(RUNS, SECONDS):
                candidate.run()
                wholes.append(plain.run())
                beside.append(self.reference.run())
            events = Path(candidate.session.end_profiling())
            optimized = onnx.load(str(Path(folder) / "optimized.onnx"), load_external_data=False)
            found = operator_times(events, optimized, self.graph)
        original = original or statistics.median(beside)
        whole = original * statistics.median(map(truediv, wholes, beside))
        stretched = whole / max(sum(found.values()), 1e-9)
        return {index: ms * stretched for index, ms in found.items()}, original


def _everything(graph: Graph) -> Counts:
    return np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.int64)


def _note(
    table: Table,
    graph: Graph,
    widths: Widths,
    shapes: list[str],
    counts: Counts,
    times: dict[int, float],
) -> None:
    """Add a point for each operator; one that was folded away takes no time."""
    first, second = widths.at(counts)
    names = layer_names(graph)
    for place, op in enumerate(widths.operators):
        row = table.rows.setdefault(shapes[place], Row(shapes[place]))
        name = names.get(op.index, op.name or op.outputs[0])
        if name not in row.names:
            row.names.append(name)
        row.points.append((float(first[place]), float(second[place]), times.get(op.index, 0.0)))
