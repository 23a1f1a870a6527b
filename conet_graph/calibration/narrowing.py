"""Calibrated narrowing from end to end: look at the network, choose widths and channels, refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.calibration.importance import knowledge_of
from conet_graph.calibration.inputs import Calibration, some
from conet_graph.calibration.memory import within_memory
from conet_graph.calibration.output_error import Judge, judged_values
from conet_graph.calibration.refit import refit
from conet_graph.calibration.sizes import costs_at
from conet_graph.calibration.stages import Feeds
from conet_graph.calibration.statistics import readings
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import Layout, lay_out, rewrite_model, with_constants
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.refits import Refit
from conet_graph.rewriting.targets import WidthRequest, choose_copies

Copies = NDArray[np.int64]
Progress = Callable[[str, float], None]

# Exponents of the loss curves that are tried: under 1 whole groups are spared, over 1 all give alike.
EXPONENTS = (1.0, 0.7, 1.5)
# Samples on which allocations are compared.
TRIED_ON = 96


@dataclass(frozen=True)
class Choice:
    """The channels that stay, what was tried, and the loss that each narrowed group was predicted.

    ``tried`` holds the error of the outputs, after a quick refit, of each allocation by its name.
    """

    copies: Copies
    predicted: dict[str, float]
    tried: dict[str, float] = field(default_factory=dict)
    best: str = ""


def _silent(what: str, share: float) -> None:
    pass


def choose(graph: Graph, request: WidthRequest, data: Calibration, progress: Progress = _silent) -> Choice:
    """Choose widths and channels by what calibration inputs show.

    Raises:
        BadUsage, Refused: as ``choose_copies``; or the outputs are the same for all inputs.

    """
    if not any(group.free for group in graph.result(CHANNELS).groups):
        choose_copies(graph, request)  # says why
    return Chooser(graph, request.importance, data, progress).choose(request)


class Chooser:
    """Looks at a network once, to choose widths and channels for any number of requests.

    Raises:
        Refused: the outputs are the same for all inputs.

    """

    def __init__(
        self, graph: Graph, importance: str, data: Calibration, progress: Progress = _silent
    ) -> None:
        data = within_memory(graph, data)
        self._graph, self._progress = graph, progress
        self._judge = Judge(graph, with_constants(graph, {}), judged_values(graph), data.aside)
        progress("looking at the network", 0.0)
        found = readings(graph, some(data.fit, 512))
        progress("ranking channels", 0.3)
        self._known = knowledge_of(graph, found, importance, costs_at(graph, data.sizes))
        # Where no layer could be read there is nothing to compare by.
        self._feeds = some(data.fit, TRIED_ON) if found else {}

    def choose(self, request: WidthRequest) -> Choice:
        """Choose widths and channels.

        Raises:
            BadUsage, Refused: as ``choose_copies``.

        """
        graph, tried = self._graph, dict[str, tuple[float, Copies]]()
        candidates = _candidates(graph, request, self._known)
        if not self._feeds or len({c.tobytes() for c in candidates.values()}) == 1:
            copies = next(iter(candidates.values()))
            return Choice(copies, _predicted(graph, self._known, copies))
        for number, (name, copies) in enumerate(candidates.items()):
            self._progress("comparing widths", 0.4 + 0.6 * number / len(candidates))
            tried[name] = (_quick(graph, copies, self._feeds, self._judge), copies)
        best = min(tried, key=lambda name: tried[name][0])
        copies = tried[best][1]
        errors = {name: error for name, (error, _) in tried.items()}
        return Choice(copies, _predicted(graph, self._known, copies), errors, best)


def _candidates(graph: Graph, request: WidthRequest, known: Knowledge) -> dict[str, Copies]:
    """Allocations worth comparing, by name."""
    made: dict[str, Copies] = {}
    for power in EXPONENTS:
        bent = replace(known, losses={k: curve**power for k, curve in known.losses.items()})
        made[f"loss^{power:g}"] = choose_copies(graph, replace(request, knowledge=bent))
        if request.scale is not None or request.uniform:
            return made
    by_weights = choose_copies(
        graph,
        replace(request, knowledge=replace(known, losses={}), importance="l2"),
    )
    return {**made, "weights": by_weights}


def _quick(graph: Graph, copies: Copies, feeds: Feeds, judge: Judge) -> float:
    layout = lay_out(graph, copies)
    model = rewrite_model(graph, layout)
    return judge.error(refit(graph, layout, model, feeds).applied(model))


def _predicted(graph: Graph, known: Knowledge, copies: Copies) -> dict[str, float]:
    groups = enumerate(graph.result(CHANNELS).groups)
    return {
        group.id: known.loss(number, int((copies[group.classes] == 0).sum()))
        for number, group in groups
        if group.free and (copies[group.classes] != 1).any()
    }


def refitted(
    graph: Graph,
    layout: Layout,
    model: onnx.ModelProto,
    data: Calibration,
    progress: Progress = _silent,
) -> Refit:
    """Refit a narrowed network; a refit that does not help the outputs on inputs kept aside is not done.

    Its errors are of these outputs: ``plain`` with channels of the same number ranked by their weights and
    nothing refitted, ``ranked`` with the channels that stay, not refitted.

    Args:
        graph: the analysed original.
        layout: of the narrowed network.
        model: the narrowed network, exact.
        data: calibration inputs.
        progress: told what is done, and how much of it.

    """
    given, data = data, within_memory(graph, data)
    judge = Judge(graph, with_constants(graph, {}), judged_values(graph), data.aside)
    made = refit(graph, layout, model, data.fit, lambda share: progress("refitting", share))
    before = judge.error(model)
    after = judge.error(made.applied(model))
    if after >= before:
        made, after = Refit(layers=made.layers, left=made.left), before
    if data.count < given.count:
        made.left.append(f"{data.count} of {given.count} inputs were used: memory holds no more at once")
    made.errors = {
        "plain": _finite(_plain_error(graph, layout, judge, before)),
        "ranked": _finite(before),
        "refitted": _finite(after),
    }
    return made


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None


def _plain_error(graph: Graph, layout: Layout, judge: Judge, ranked: float) -> float:
    """The error of the same widths with channels ranked by their weights."""
    channels = graph.result(CHANNELS)
    copies = layout.labels.copies
    widths = {g.id: int(copies[g.classes].sum()) * g.multiple for g in channels.groups if g.free}
    narrowed = {g.id: widths[g.id] for g in channels.groups if g.free and (copies[g.classes] == 0).any()}
    if not narrowed or (copies > 1).any():
        return ranked
    plain = choose_copies(graph, WidthRequest(widths=narrowed))
    return judge.error(rewrite_model(graph, lay_out(graph, plain)))
