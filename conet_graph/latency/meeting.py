"""A network as fast as asked: widths by a latency table, then a few measurements of whole networks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.overridable import constant_weights
from conet_graph.ir.save import save_model
from conet_graph.latency.prediction import Prediction
from conet_graph.latency.sessions import LEAST_ROUNDS, Conditions, Timed, Times, opened, raced, rounds
from conet_graph.latency.table import Table, named
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.targets import OutOfReach, WidthRequest, choose_copies

Copies = NDArray[np.int64]

TOLERANCE = 0.05  # of the goal: what is over it by more has missed it
AIM = (0.96, 1.01)  # of the goal: what is outside is tried again with another budget
AIM_AT = 0.995  # of the goal: where the next try is to end
DOUBT = 0.15  # by so much predictions may be off: what they say is just out of reach is measured
TRIES = 5  # whole networks that are measured


@dataclass(frozen=True)
class Goal:
    """A time that is asked for: a share of the original's, or milliseconds."""

    number: float
    is_share: bool

    @staticmethod
    def parse(text: str) -> Goal:
        """Read ``0.6`` or ``60%`` (of the original's time), ``12ms`` or a number above 1 (milliseconds).

        Raises:
            BadUsage: it is none of these.

        >>> Goal.parse("60%"), Goal.parse("12"), Goal.parse("0.8ms")
        (Goal(number=0.6, is_share=True), Goal(number=12.0, is_share=False), Goal(number=0.8, is_share=False))

        """
        number, unit = text.strip(), ""
        for suffix in ("ms", "%"):
            if number.endswith(suffix):
                number, unit = number.removesuffix(suffix).strip(), suffix
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf") or (unit == "%" and value > 100):
            raise BadUsage(
                f"--latency {shown(text)} is no time: give a share of the original's (0.6, 60%)"
                " or milliseconds (12ms)."
            )
        if unit == "%":
            return Goal(value / 100, True)
        return Goal(value, not unit and value <= 1)


@dataclass(frozen=True)
class Met:
    """What came of a goal: the channels that stay, and the times, all in milliseconds."""

    copies: Copies
    goal: float
    predicted: float
    measured: Times
    original: Times
    share: float
    networks: int

    @property
    def missed(self) -> bool:
        """Whether the network takes longer than asked by more than the tolerance."""
        return self.measured.median > self.goal * (1 + TOLERANCE)

    def to_json(self) -> dict[str, Any]:
        """The times as plain data."""
        return {
            "goal_ms": self.goal,
            "predicted_ms": self.predicted,
            "measured_ms": self.measured.to_json(),
            "original_ms": self.original.to_json(),
            "share": self.share,
            "networks_measured": self.networks,
        }


def original_of(graph: Graph, conditions: Conditions) -> Timed:
    """The file that was given, as it is."""
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as temporary:
        path = Path(temporary) / "original.onnx"
        save_model(graph.loaded.proto, path, graph.folder)
        return Timed(path, conditions)


def candidate_of(graph: Graph, copies: Copies, conditions: Conditions) -> Timed:
    """A rewritten network, its weights constants."""
    proto = constant_weights(rewrite_model(graph, lay_out(graph, copies)))
    return opened(proto, graph.folder, conditions)


def require_slower(graph: Graph, goal: Goal, conditions: Conditions) -> None:
    """Refuse a goal that the original meets, before anything else is timed.

    Raises:
        Refused: it is met.

    """
    original = original_of(graph, conditions)
    now = Times.of([original.run() for _ in rounds(LEAST_ROUNDS, 0.0)]).median
    if goal.number >= (1 if goal.is_share else now):
        raise Refused(f"The network runs in {now:.4g} milliseconds already: nothing changes.")


def meet(
    graph: Graph,
    request: WidthRequest,
    goal: Goal,
    table: Table,
    conditions: Conditions,
    choose: Callable[[WidthRequest], Copies] | None = None,
) -> Met:
    """Widths of the least loss with which a network takes no longer than asked.

    Args:
        graph: an analysed graph.
        request: limits, ranking and losses; its own targets are left out.
        goal: the time.
        table: a latency table of the network or of its layers; whole networks that are timed are noted in it
            where it is the network's own.
        conditions: under which the networks are measured.
        choose: chooses channels, where the ranking is not to.

    Raises:
        Refused: the network is as fast already, cannot be that fast, or does not run.

    """
    known = table.wholes if table.sha256 == graph.loaded.sha256 else {}
    from_before = bool(known)
    found = _Meeting(graph, request, goal, table, conditions, choose, known).met()
    if found.missed and from_before:
        # What was measured before no longer holds: everything is measured anew.
        known.clear()
        found = _Meeting(graph, request, goal, table, conditions, choose, known).met()
    return found


@dataclass(frozen=True)
class _Try:
    """A network that was chosen, as shares of the original's time."""

    copies: Copies
    predicted: float
    measured: float


class _Meeting:
    """One search for a network, beside the original."""

    def __init__(
        self,
        graph: Graph,
        request: WidthRequest,
        goal: Goal,
        table: Table,
        conditions: Conditions,
        choose: Callable[[WidthRequest], Copies] | None,
        known: dict[str, float],
    ) -> None:
        self.graph, self.request, self.conditions, self.known = graph, request, conditions, known
        self.choose = choose or (lambda asked: choose_copies(graph, asked))
        self.prediction = Prediction.of(graph, table)
        self.original = original_of(graph, conditions)
        self.everything = np.ones(len(graph.result(CHANNELS).units.frozen_class), np.int64)
        self.races: dict[str, tuple[Times, Times, float]] = {}  # those of this search, by widths
        self.constant = self._share(self.everything)
        self.share = goal.number
        if not goal.is_share:
            self.share = goal.number / self._raced(self.everything)[0].median
        if self.share >= 1:
            before = self._raced(self.everything)[0].median
            raise Refused(f"The network runs in {before:.4g} milliseconds already: nothing changes.")

    def met(self) -> Met:
        """The slowest network that is fast enough, timed beside the original."""
        now, share = self.prediction.original_ms, self.share
        budget = now * share / self.constant
        tried: list[_Try] = []
        for _ in range(TRIES):
            copies, last = self._chosen(budget)
            predicted = self.prediction.milliseconds(_counts(self.graph, copies)) / now * self.constant
            tried.append(_Try(copies, predicted, self._share(copies)))
            off = tried[-1].measured / share
            if AIM[0] <= off <= AIM[1] or (off < 1 and budget >= now):
                break
            if last and off > 1:
                break  # nothing is faster
            budget *= AIM_AT / off
        best = _best(tried, share)
        first, second, ratio = self._raced(best.copies)
        if ratio > share * (1 + TOLERANCE) >= best.measured:  # today it says otherwise: a third time decides
            self.races.clear()
            first, second, ratio = self._raced(best.copies)
        # Both as of the median over rounds of their ratio: the two medians may be of different rounds.
        measured = Times(first.median * ratio, second.spread)
        wanted, said = share * first.median, best.predicted * first.median
        return Met(best.copies, wanted, said, measured, first, ratio, len(tried))

    def _chosen(self, budget: float) -> tuple[Copies, bool]:
        """The copies for a budget, and whether nothing is faster."""
        if budget >= self.prediction.original_ms:  # constant weights alone are fast enough
            return self.everything, False
        asked = replace(self.request, latency_ms=budget, predicted=self.prediction)
        return _nearest(asked, budget, self.choose)

    def _share(self, copies: Copies) -> float:
        """A network's time as a share of the original's: as it was measured first, now or in an earlier run.

        So that the same goal takes the same way, whatever the measurements of today.
        """
        name = named(_counts(self.graph, copies).tolist())
        if name not in self.known:
            self.known[name] = self._raced(copies)[2]
        return self.known[name]

    def _raced(self, copies: Copies) -> tuple[Times, Times, float]:
        """The times of the original and of a network, measured in this search, and their ratio."""
        name = named(_counts(self.graph, copies).tolist())
        if name not in self.races:
            self.races[name] = raced(self.original, candidate_of(self.graph, copies, self.conditions))
        return self.races[name]


def _nearest(
    asked: WidthRequest, budget: float, choose: Callable[[WidthRequest], Copies]
) -> tuple[Copies, bool]:
    """Copies for a budget, or the fastest network where it is predicted to be little slower; and whether."""
    try:
        return choose(asked), False
    except OutOfReach as refusal:
        if refusal.closest > budget * (1 + DOUBT):
            raise
        return choose(replace(asked, latency_ms=refusal.closest * (1 + 1e-9))), True


def _best(tried: list[_Try], share: float) -> _Try:
    """The slowest network that meets its goal, or the fastest there is."""
    met = [one for one in tried if one.measured <= share * AIM[1]]
    near = met or [one for one in tried if one.measured <= share * (1 + TOLERANCE)]
    return max(near, key=lambda one: one.measured) if near else min(tried, key=lambda one: one.measured)


def _counts(graph: Graph, copies: Copies) -> Copies:
    return np.array([copies[g.classes].sum() for g in graph.result(CHANNELS).groups], np.int64)
