"""Calibrated narrowing from end to end: look at the network, choose widths and channels, refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.calibration.allocation import Trials, neighbours, sharpened
from conet_graph.calibration.importance import BEST, BEST_OF, knowledge_of
from conet_graph.calibration.inputs import Calibration, some
from conet_graph.calibration.judged import judged_values
from conet_graph.calibration.memory import feeds_held, within, within_memory
from conet_graph.calibration.output_error import Judge
from conet_graph.calibration.refit import refit
from conet_graph.calibration.stages import Feeds
from conet_graph.calibration.statistics import Reading, readings
from conet_graph.costs.cost_model import CostModel, costs_at
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import Layout, lay_out, rewrite_model, with_constants
from conet_graph.rewriting.alignment import alignment_of, step_ladder
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.named_widths import asked_counts, find_groups
from conet_graph.rewriting.refits import Refit
from conet_graph.rewriting.targets import WidthRequest, choose_copies

Copies = NDArray[np.int64]
Progress = Callable[[str, float], None]

# Samples that are looked at, and those on which widths are compared: of a large network fewer.
LOOKED_AT, TRIED_ON = (96, 512), (16, 96)
# Samples that judge them: for each that is fitted on, at least, and at most.
JUDGED_FOR_ONE, LEAST_JUDGED, MOST_JUDGED = 4, 64, 256
# Multiply-accumulates of the original on the samples that are looked at, on those of one comparison, and of
# all that measure curves.
WORK_OF_LOOK, WORK_OF_ONE, WORK_OF_ALL = 4e11, 4e10, 4e11
# Sets of groups that are narrowed to measure what a step costs, and how often that is done.
MOST_SETS, ROUNDS = 12, 2
LEAST_TO_MEASURE = 2
# Choices near the best that are tried at last, and the spread of the factors on their curves (a logarithm).
NEARBY, NEAR_BY = 10, 0.4
# Exponents of the loss curves that are tried: under 1 whole groups are spared, over 1 all give alike.
EXPONENTS = (0.7, 1.5)


@dataclass(frozen=True)
class Choice:
    """The channels that stay, what was tried, and the loss that each narrowed group was predicted.

    ``tried`` holds the error of the outputs, after a quick refit, of each choice by its name.
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
        choose_copies(graph, replace(request, importance="l2"))  # says why
    return Chooser(graph, data, progress).choose(request)


class Chooser:
    """Chooses widths and channels, also for several requests of one network, which is looked at once."""

    def __init__(self, graph: Graph, data: Calibration, progress: Progress = _silent) -> None:
        """Run the original on the inputs.

        Raises:
            Refused: its outputs are the same for all of them.

        """
        self.graph, self.progress = graph, progress
        held = feeds_held(graph, data)
        self.data = data = within(data, held)
        self.costs = costs_at(graph, data.sizes)
        counts = np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.float64)
        # A network whose multiply-accumulates cannot be counted is taken for a small one.
        one = max((self.costs or CostModel(graph)).macs(counts), 1.0)
        progress("looking at the network", 0.0)
        looked_at = some(data.fit, int(np.clip(WORK_OF_LOOK / one, *LOOKED_AT)))
        self.found: list[Reading] = readings(graph, looked_at)
        samples = int(np.clip(WORK_OF_ONE / one, *TRIED_ON))
        # How many trials a network is worth: of a large one, fewer steps are measured, and less is tried.
        worth = int(WORK_OF_ALL / (one * samples))
        self.sets = min(worth, MOST_SETS)
        self.rounds = ROUNDS if worth > ROUNDS * MOST_SETS else 1
        self.nearby = min(max(worth - MOST_SETS, 0), NEARBY)
        tried_on, judged_on = _split(data, samples)
        judge = Judge(graph, with_constants(graph, {}), judged_values(graph), judged_on)
        self.trials = Trials(graph, tried_on, judge, at_once=max(held // len(tried_on), 1))
        self.known: dict[str, Knowledge] = {}
        self.sharp: dict[str, Knowledge] = {}

    def choose(self, request: WidthRequest) -> Choice:
        """Choose for a request; see ``choose``."""
        offers = _Offers(self.trials)
        for ranking in BEST_OF if request.importance == BEST else (request.importance,):
            offers.add(f"{ranking}, losses", request, self._knowledge(ranking))
        if self._has_target(request) and self.found:
            ranking = _ranking(offers.best(partial(self.progress, "comparing rankings")))
            self._offer_widths(request, ranking, offers)
            if ranking not in self.sharp:
                self._offer_measured(request, ranking, offers)
        best = offers.best()
        return Choice(offers.made[best], self._predicted(best, offers.made[best]), offers.tried(), best)

    def _knowledge(self, ranking: str) -> Knowledge:
        if ranking not in self.known:
            self.progress(f"ranking channels by {ranking}", 0.0)
            self.known[ranking] = knowledge_of(self.graph, self.found, ranking, self.costs, self.data.fit)
        return self.known[ranking]

    def _offer_widths(self, request: WidthRequest, ranking: str, offers: _Offers) -> None:
        """Other widths for a ranking: by bent curves, by weights alone, by what was measured before.

        Of a large network trials are few, and kept for measuring.
        """
        known = self._knowledge(ranking)
        for power in EXPONENTS if self.nearby else ():
            bent = replace(known, losses={k: curve**power for k, curve in known.losses.items()})
            offers.add(f"{ranking}, losses^{power:g}", request, bent)
        if self.nearby:
            by_weights = replace(request, importance="l2")
            offers.add(f"{ranking}, weights", by_weights, replace(known, losses={}))
        if ranking in self.sharp:
            offers.add(f"{ranking}, measured", request, self.sharp[ranking])
        offers.best(partial(self.progress, "comparing widths"))

    def _offer_measured(self, request: WidthRequest, ranking: str, offers: _Offers) -> None:
        """Widths by curves that are measured about the best choice so far, and about the next one again."""
        for number in range(1, self.rounds + 1):
            before = offers.best()
            given = offers.known[before]
            given = given if given.losses else self._knowledge(ranking)
            for k, known in enumerate(self._measured(request, given, offers.made[before])):
                name = f"{ranking}, measured {number}{'ab'[k]}"
                offers.add(name, request, known)
                if k == 0 or offers.best() == name:
                    self.sharp[ranking] = known
            if offers.best() == before:
                break
        self._offer_nearby(request, ranking, offers)

    def _offer_nearby(self, request: WidthRequest, ranking: str, offers: _Offers) -> None:
        """Widths near the best ones: their curves, changed at random, and what helps is kept."""
        if ranking not in self.sharp:
            return
        best = offers.known[offers.best()]
        known = best if best.losses else self.sharp[ranking]
        draws = np.random.default_rng(0)
        for number in range(1, self.nearby + 1):
            factors = np.exp(NEAR_BY * draws.standard_normal(len(known.losses)))
            curves = zip(known.losses.items(), factors, strict=True)
            changed = replace(known, losses={k: curve * factor for (k, curve), factor in curves})
            name = f"{ranking}, nearby {number}"
            offers.add(name, request, changed)
            if offers.best() == name:
                known = changed
            self.progress("comparing widths nearby", number / self.nearby)

    def _measured(self, request: WidthRequest, known: Knowledge, copies: Copies) -> list[Knowledge]:
        """Curves that are measured about a choice which was made by others."""
        graph, groups = self.graph, self.graph.result(CHANNELS).groups
        held = {k for name in request.keep for k in find_groups(graph, name)}
        held |= set(asked_counts(graph, request.widths, request.keep))
        movable = [k for k, g in enumerate(groups) if g.free and k in known.losses and k not in held]
        if len(movable) < LEAST_TO_MEASURE:
            return []
        steps = step_ladder(graph, alignment_of(request.multiple_of, request.runtime))[0]
        tick = partial(self.progress, "measuring what widths cost")
        return sharpened(known, copies, steps, neighbours(movable, self.sets), self.trials, tick)

    def _has_target(self, request: WidthRequest) -> bool:
        """Whether widths are to be chosen, and not only channels."""
        targets = (request.params, request.macs, request.weight_bytes, request.latency_ms)
        return any(target is not None for target in targets) and not request.uniform

    def _predicted(self, name: str, copies: Copies) -> dict[str, float]:
        ranking = _ranking(name)
        known = self.sharp.get(ranking, self.known[ranking])
        groups = enumerate(self.graph.result(CHANNELS).groups)
        return {
            group.id: known.loss(number, int((copies[group.classes] == 0).sum()))
            for number, group in groups
            if group.free and (copies[group.classes] != 1).any()
        }


@dataclass
class _Offers:
    """Choices by their names - the ranking, a comma, what sets the widths - and what they were made by."""

    trials: Trials
    made: dict[str, Copies] = field(default_factory=dict)
    known: dict[str, Knowledge] = field(default_factory=dict)

    def add(self, name: str, request: WidthRequest, known: Knowledge) -> None:
        """Add the choice for a request by what is known of the channels."""
        self.made[name] = choose_copies(self.trials.graph, replace(request, knowledge=known))
        self.known[name] = known

    def best(self, tick: Callable[[float], None] = lambda share: None) -> str:
        """The choice with the least error; nothing is measured where all are the same."""
        if len({copies.tobytes() for copies in self.made.values()}) == 1:
            return next(iter(self.made))
        self.trials.measure(self.made.values(), tick)
        return min(self.made, key=lambda name: self.trials.error(self.made[name]))

    def tried(self) -> dict[str, float]:
        """The errors that were measured."""
        return {
            name: self.trials.known[copies.tobytes()]
            for name, copies in self.made.items()
            if copies.tobytes() in self.trials.known
        }


def _split(data: Calibration, samples: int) -> tuple[Feeds, Feeds]:
    """Inputs to fit trials on, so many, and others to judge them on.

    Of many choices one is the best by chance on few inputs: those that trials are not fitted on judge them,
    and what was kept aside stays unseen, if they are enough.
    """
    fitted = some(data.fit, samples)
    chosen = {id(feed) for feed in fitted}
    others = [feed for feed in data.fit if id(feed) not in chosen]
    count = sum(len(next(iter(feed.values()))) for feed in others)
    wanted = min(max(JUDGED_FOR_ONE * samples, LEAST_JUDGED), MOST_JUDGED)
    return fitted, some(others, wanted) if count >= LEAST_JUDGED else [*others, *data.aside]


def _ranking(name: str) -> str:
    return name.split(",")[0]


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
