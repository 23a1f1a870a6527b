"""From what a user asks for to the channels of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from conet_graph.analysis.frozen import frozen_parts
from conet_graph.costs.cost import cost
from conet_graph.costs.cost_model import CostModel
from conet_graph.costs.input_shapes import InputShapes, counting
from conet_graph.dead_channels.find import dead_channels
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, out_axis
from conet_graph.rewriting.alignment import (
    KEPT_IN_BLOCKS,
    NEAR,
    PAYS,
    alignment_of,
    block_steps,
    step_ladder,
)
from conet_graph.rewriting.block_work import BlockWork, Macs
from conet_graph.rewriting.fitting import CLOSE, Fit
from conet_graph.rewriting.knapsack import Knapsack, Loss, TimeModel, ranking_loss
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.named_widths import asked_counts, find_groups
from conet_graph.rewriting.ranking import below_the_living, importance

Copies = NDArray[np.int64]
Measure = Callable[[Copies], float]

WIDEST = 64.0  # the largest factor by which groups are widened
REASONS = 5  # so many reasons are told where nothing may change


class OutOfReach(Refused):
    """A time is shorter than the shortest that is predicted, both in milliseconds; ``why`` may follow."""

    def __init__(self, wanted: float, closest: float, why: str = "") -> None:
        super().__init__(
            f"{wanted:.4g} milliseconds cannot be reached: the closest is {closest:.4g} as predicted,"
            f" with every free width at its least.{why}"
        )
        self.closest = closest


@dataclass(frozen=True)
class WidthRequest:
    """What widths are asked for: at most one kind of target, ``widths`` by name, or both.

    ``params``, ``macs`` and ``weight_bytes`` are fractions of the original up to 1, absolute numbers above;
    MACs are counted at ``input_shapes`` (by input; where a size is free and none is named, one is assumed).
    ``lossless`` drops the channels that change nothing, and no others.
    ``measure_latency`` gives the milliseconds of a candidate, from the copies of each class.
    ``knowledge`` of the channels, measured, takes the place of ``importance``.

    ``predicted`` gives its time beforehand, from the classes of each group: then the widths are those of the
    least loss (known, or else by the ranking) that take no longer than ``latency_ms``.

    Widths that a target chooses are multiples of what suits ``runtime`` (a name of ``alignment.PRESETS``; by
    default of 8, for MACs without knowledge of 16 where that pays: ``alignment.block_steps``), in smaller
    steps where a group is narrow or the target would be missed. With ``multiple_of`` they are multiples of
    that, whatever is missed. ``widths`` are taken as they are.
    """

    scale: float | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    params: float | None = None
    macs: float | None = None
    weight_bytes: float | None = None
    latency_ms: float | None = None
    measure_latency: Callable[[Copies], float] | None = None
    predicted: TimeModel | None = None
    multiple_of: int | None = None
    runtime: str | None = None
    min_width: int = 1
    keep: tuple[str, ...] = ()
    lossless: bool = False
    importance: str = "l2"
    uniform: bool = False
    seed: int = 0
    input_shapes: InputShapes = field(default_factory=dict)
    knowledge: Knowledge | None = None


def shared_evenly(want: int, have: int) -> Copies:
    """``want`` channels as copies of ``have``: as even as possible, the first ones more often."""
    each, more = divmod(want, have)
    return np.where(np.arange(have) < more, each + 1, each)


def choose_copies(graph: Graph, request: WidthRequest) -> Copies:
    """How often each class of channels appears in the network that is asked for.

    Raises:
        BadUsage: a name, width or combination makes no sense.
        Refused: nothing may change, a frozen group is asked to, or a target cannot be met.

    """
    _check(request)
    return _Chooser(graph, request).choose()


def _check(request: WidthRequest) -> None:
    targets = {
        "--scale": request.scale,
        "--params": request.params,
        "--macs": request.macs,
        "weight_bytes": request.weight_bytes,
        "--latency": request.latency_ms,
    }
    given = {option: value for option, value in targets.items() if value is not None}
    named = [*given, *(["--lossless"] if request.lossless else [])]
    if len(named) > 1 or (request.lossless and request.widths):
        raise BadUsage(f"Give one of {' and '.join(named or ['--lossless'])}, not several.")
    if not named and not request.widths:
        raise BadUsage(
            "Say what size you want: a scale, widths, or a target for parameters, MACs or latency."
        )
    for option, value in given.items():
        if not 0 < value < float("inf"):
            raise BadUsage(f"{option} is {value}: give a number above 0.")
    if request.scale is not None and request.scale > WIDEST:
        raise BadUsage(f"--scale is {request.scale}: give a factor of at most {WIDEST:.0f}.")
    if request.latency_ms is not None and request.measure_latency is None and request.predicted is None:
        raise BadUsage("A latency needs measure_latency, a function that measures a candidate.")
    if request.min_width < 1:
        raise BadUsage("--multiple-of and --min-width are 1 or more.")


class _Chooser:
    """Counts of the classes that each group keeps, and from them the channels."""

    def __init__(self, graph: Graph, request: WidthRequest) -> None:
        self.graph, self.request = graph, request
        self.channels = graph.result(CHANNELS)
        self.groups = self.channels.groups
        self.known = request.knowledge
        self.scores = self.known.scores if self.known else self._by_weights(request.seed)
        self.counts = np.array([len(g.classes) for g in self.groups], np.int64)
        self.movable = np.array([g.free for g in self.groups], np.bool_)
        # Classes of each group that come and go together: as wished for, then smaller. The first are used
        # until a target cannot be met with them.
        alignment = alignment_of(request.multiple_of, request.runtime)
        by_size = any(target is not None for target in (request.params, request.macs, request.weight_bytes))
        if not by_size or request.knowledge is not None:
            # A scale says the widths, a table their times, and known losses are least in small steps.
            alignment = replace(alignment, wide=1)
        self.ladder = step_ladder(graph, alignment)
        self.steps = self.ladder[0]

    def _by_weights(self, seed: int = 0) -> NDArray[np.float64]:
        return below_the_living(self.graph, importance(self.graph, self.request.importance, seed))

    def choose(self) -> Copies:
        request = self.request
        if not any(g.free for g in self.groups):
            raise Refused(f"Nothing may change in this network: {self._reasons()}.{self._advice()}")
        for name in request.keep:
            self.movable[list(find_groups(self.graph, name))] = False
        if request.lossless:
            return self._lossless()
        asked = asked_counts(self.graph, request.widths, request.keep)
        counts = self.counts.copy()
        for number, count in asked.items():
            self.movable[number] = False
            counts[number] = count
        if request.scale is not None:
            counts = self._scaled(counts, request.scale)
        elif request.latency_ms is not None and request.predicted is not None:
            return self._copies(self._to_predicted(counts, request.latency_ms, request.predicted))
        elif request.latency_ms is not None:
            counts = self._to_latency(counts, request.latency_ms)
        elif request.params or request.macs or request.weight_bytes:
            counts = self._to_cost(counts)
        if np.array_equal(counts, self.counts) and not asked and request.scale != 1.0:
            raise Refused(self._unchanged())
        return self._copies(counts)

    def _unchanged(self) -> str:
        """Why no width changes: a limit that was asked for, or groups whose channels move many at once."""
        request = self.request
        limits = {
            "--multiple-of": (request.multiple_of or 1) > 1,
            "--min-width": request.min_width > 1,
            "--keep": bool(request.keep),
        }
        given = [option for option, is_given in limits.items() if is_given]
        if given:
            return f"With {' and '.join(given)} nothing changes: loosen it, or ask for another size."
        moving = [g for g, can in zip(self.groups, self.movable, strict=True) if can]
        told = [f"{g.id} moves {g.multiple} of its {g.width} channels at once" for g in moving[:REASONS]]
        more = f", and {len(moving) - REASONS} more groups" if len(moving) > REASONS else ""
        return (
            f"Nothing changes: {', '.join(told)}{more}; ask for a size that is further from the original,"
            " or for widths by name."
        )

    def _reasons(self) -> str:
        told = self._frozen_because()
        more = f"; and {len(told) - REASONS} more reasons" if len(told) > REASONS else ""
        return "; ".join(told[:REASONS]) + more if told else "it has no layers"

    def _advice(self) -> str:
        """What frees channels of layers that nothing but a default keeps."""
        units = self.channels.units
        kept = any(units.reasons[unit] in self._frozen_because() for unit in units.kept)
        return " --free-kept frees what is kept by default." if kept else ""

    def _frozen_because(self) -> list[str]:
        """The reasons that the layers' own channels meet, each once."""
        units = self.channels.units
        parts = frozen_parts(units)
        told: dict[str, None] = {}
        for layer in self.graph.result(LAYERS):
            axis = out_axis(units, layer)
            met = [axis] if isinstance(axis, int) else distinct(parts.reason[parts.of[axis]]).tolist()
            told.update((units.reasons[unit], None) for unit in met if unit >= 0)
        return list(told)

    def _lossless(self) -> Copies:
        """Without the channels that change nothing, as far as multiples and least widths let them go."""
        request = self.request
        rounded = request.multiple_of is not None or request.runtime is not None
        removable = dead_channels(self.graph).removable()
        copies = np.ones(len(removable), np.int64)
        for k in np.flatnonzero(self.movable).tolist():
            group = self.groups[k]
            dead = group.classes[removable[group.classes]]
            step = int(self.steps[k]) if rounded else 1
            left = max(-(-(len(group.classes) - len(dead)) // step) * step, self._least(k, step), 1)
            copies[dead[: max(0, len(group.classes) - left)]] = 0
        if (copies == 1).all():
            raise Refused("No channel of this network can go without a change of its outputs.")
        return copies

    # -- scale -------------------------------------------------------------------------------------

    def _least(self, k: int, step: int) -> int:
        return -(-self.request.min_width // (step * self.groups[k].multiple)) * step

    def _scaled(self, counts: Copies, scale: float) -> Copies:
        """Every movable group at the nearest multiple of ``scale`` times its width."""
        counts = counts.copy()
        if scale == 1 and self.request.multiple_of is None:
            return counts
        for k in np.flatnonzero(self.movable).tolist():
            old, step = int(self.counts[k]), self._step_for(k, float(self.counts[k] * scale))
            least = self._least(k, step)
            new = max(int(old * scale / step + 0.5) * step, least)
            if scale > 1:
                counts[k] = max(new, old)  # rounding may not narrow what is to become wider,
                continue
            if new > old:  # nor widen what is to become narrower
                below = old // step * step
                new = below if below >= least else old
            counts[k] = new
        return counts

    def _step_for(self, k: int, wished: float) -> int:
        """The largest step to a width within a third of what is wished for: not the old one, if it can be."""
        steps = [int(steps[k]) for steps in self.ladder]
        widths = {s: int(wished / s + 0.5) * s for s in steps}
        near = [s for s in steps if abs(widths[s] - wished) <= wished / 3]
        return next((s for s in near if widths[s] != self.counts[k]), (near or steps[-1:])[0])

    # -- targets -----------------------------------------------------------------------------------

    def _costs(self) -> CostModel:
        if self.known and self.known.costs:
            return self.known.costs
        return CostModel(self._countable() if self.request.macs is not None else self.graph)

    def _to_cost(self, counts: Copies) -> Copies:
        request = self.request
        model = self._costs()
        if request.params is not None:
            wanted, by_cost, what = request.params, model.parameters, "parameters"
        elif request.macs is not None:
            wanted, by_cost, what = request.macs, model.macs, "MACs"
        else:
            assert request.weight_bytes is not None
            wanted, by_cost, what = request.weight_bytes, model.weight_bytes, "bytes of weights"

        def measure(candidate: Copies) -> float:
            return by_cost(candidate.astype(np.float64))

        original = measure(self.counts)
        if not original:
            raise Refused(f"This network has no {what} that can be counted.")
        goal = wanted * original if wanted <= 1 else wanted
        if measure(counts) <= goal:
            # Named widths may have met a target below the original already.
            return self._widened(counts, measure, goal, what) if goal > original else counts
        reached = self._fitted(counts, measure, goal, what)
        return reached if request.macs is None else self._in_blocks(reached, counts, model, measure, goal)

    def _fitted(
        self, counts: Copies, measure: Measure, goal: float, what: str, reached: Copies | None = None
    ) -> Copies:
        """The widths that come closest to a goal below, in the largest steps that come near it.

        ``reached`` is what to go on from: widths that meet the goal already.
        """
        if reached is not None and measure(reached) >= NEAR * goal:
            return reached
        for steps in self.ladder:
            self.steps = steps
            least = self._narrowest(counts)
            if reached is None:
                if steps is not self.ladder[-1] and measure(least) > goal:
                    continue
                reached = self._narrowed(counts, measure, goal, what, rounds=50)
            order = self._drop_order(counts, least)[::-1]
            if self.request.uniform:
                order = np.tile(np.flatnonzero(self.movable), 4)  # in turn, so that it stays even
            reached = Fit(measure, goal, least, counts, steps, order).fill(reached)
            if measure(reached) >= NEAR * goal:
                break
        assert reached is not None
        return reached

    def _in_blocks(
        self, reached: Copies, counts: Copies, model: CostModel, measure: Measure, goal: float
    ) -> Copies:
        """Widths in whole blocks, of the least loss, where they save runtimes work; else what was reached."""
        request = self.request
        if request.multiple_of or request.runtime or request.uniform or self.known:
            return reached
        work, loss, macs = BlockWork(model.graph), ranking_loss(self.scores, self.groups), Macs(model)
        for steps in block_steps(self.graph):
            self.steps = steps
            share = np.ceil(KEPT_IN_BLOCKS * counts / steps).astype(np.int64) * steps
            least = np.minimum(np.maximum(self._narrowest(counts), share), counts)
            kept = Knapsack(macs, loss, self.movable, least, counts, steps, rounds=0).fill(goal)
            if kept is None:
                continue
            tried = self._fitted(counts, measure, goal, "MACs", kept)
            if work.at(tried) < PAYS * work.at(reached):
                reached = tried
        return reached

    def _countable(self) -> Graph:
        """The network at sizes at which its layers' MACs are known: a share of some of them is no target."""
        sizes = counting(self.graph, self.request.input_shapes)
        sizes.require_share(self.request.macs)
        graph = sizes.of(self.graph)
        found = cost(graph)
        unknown = [layer for layer in found.layers.values() if layer.macs is None]
        if unknown:
            raise Refused(
                f"The MACs of {len(unknown)} of {len(found.layers)} layers cannot be counted, their sizes are"
                " not known: name those of the inputs by --input-shape, or use --params."
            )
        return graph

    def _to_latency(self, counts: Copies, goal: float) -> Copies:
        meter = self.request.measure_latency
        assert meter is not None

        def measure(candidate: Copies) -> float:
            return meter(self._copies(candidate))

        now = measure(counts)
        if now <= goal:
            if np.array_equal(counts, self.counts):
                raise Refused(f"The network runs in {now:.4g} milliseconds already: nothing changes.")
            return counts
        return self._narrowed(counts, measure, goal, "milliseconds", rounds=7)

    def _loss(self) -> Loss:
        known = self.known
        if known is None or not known.losses:
            return ranking_loss(self.scores, self.groups)
        return lambda group, kept: known.loss(group, int(self.counts[group]) - kept)

    def _to_predicted(self, counts: Copies, budget: float, time: TimeModel) -> Copies:
        """The widths of least loss within a budget of time, in the largest steps that come near it."""
        loss, found = self._loss(), list[tuple[float, Copies]]()
        for steps in self.ladder:
            self.steps = steps
            least = self._narrowest(counts)
            kept = Knapsack(time, loss, self.movable, least, counts, steps).fill(budget)
            if kept is not None:
                lost = sum(loss(k, int(kept[k])) for k in np.flatnonzero(self.movable).tolist())
                found.append((lost, kept))
                if time.milliseconds(kept) >= NEAR * budget:
                    break
        if found:
            return min(found, key=lambda one: one[0])[1]
        raise OutOfReach(budget, time.milliseconds(least), self._inseparable())

    def _narrowed(self, counts: Copies, measure: Measure, goal: float, what: str, rounds: int) -> Copies:
        """The widest rung of a ladder of widths that meets the goal."""
        least = self._narrowest(counts)
        order = self._drop_order(counts, least)

        def rung(share: float) -> Copies:
            if self.request.uniform:
                wished = np.floor(np.where(self.movable, counts * (1 - share), counts)).astype(np.int64)
            else:
                dropped = order[: round(share * len(order))]
                wished = counts - np.bincount(dropped, minlength=len(counts))
            return np.maximum(self._snapped(wished, counts), least)

        closest = measure(rung(1.0))
        if closest > goal:
            raise Refused(
                f"{goal:.4g} {what} cannot be reached: the closest is {closest:.4g},"
                f" with every free width at its least.{self._inseparable()}"
            )
        low, high = 0.0, 1.0  # at 0 nothing is dropped, at 1 all that may be
        for _ in range(rounds):
            middle = (low + high) / 2
            if measure(rung(middle)) <= goal:
                high = middle
            else:
                low = middle
        return rung(high)

    def _inseparable(self) -> str:
        """Which free groups hold so large a part of the cost that stays: those that only move as a whole."""
        whole = [self.groups[k].id for k in np.flatnonzero(self.movable) if len(self.groups[k].classes) == 1]
        if not whole:
            return ""
        named = ", ".join([*whole[:REASONS], *(["..."] if len(whole) > REASONS else [])])
        return (
            f" {len(whole)} of {int(self.movable.sum())} free groups cannot be narrower, because all of their"
            f" channels belong together: {named}."
        )

    def _narrowest(self, counts: Copies) -> Copies:
        least = counts.copy()
        for k in np.flatnonzero(self.movable).tolist():
            least[k] = min(self._least(k, int(self.steps[k])), counts[k])
        return least

    def _drop_order(self, counts: Copies, least: Copies) -> Copies:
        """Groups' numbers in the order in which they lose a class: the least important first."""
        if self.known is not None and self.known.losses:
            costs = self._costs()
            by_cost = costs.parameters if self.request.params is not None else costs.macs
            return self.known.drop_order(counts, least, self.steps, lambda c: by_cost(c.astype(np.float64)))
        by_weights = self._by_weights() if self.known else self.scores
        numbers: list[int] = []
        scores: list[float] = []
        for k in np.flatnonzero(self.movable):
            values = np.sort(by_weights[self.groups[k].classes])[: counts[k] - least[k]]
            numbers += [int(k)] * len(values)
            scores += values.tolist()
        return np.array(numbers, np.int64)[np.argsort(np.array(scores), kind="stable")]

    def _snapped(self, wished: Copies, counts: Copies) -> Copies:
        """Round what changes down to the multiple that is asked for."""
        snapped = wished.copy()
        for k in np.flatnonzero(self.movable & (wished != counts)):
            snapped[k] = wished[k] // self.steps[k] * self.steps[k]
        return snapped

    def _widened(self, counts: Copies, measure: Measure, goal: float, what: str) -> Copies:
        closest = measure(self._scaled(counts, WIDEST))
        if closest < CLOSE * goal:
            raise Refused(
                f"{goal:.4g} {what} cannot be reached: the closest is {closest:.4g},"
                f" with every free width {WIDEST:.0f} times as large."
            )
        low, high = 1.0, WIDEST
        for _ in range(60):
            middle = (low + high) / 2
            if measure(self._scaled(counts, middle)) <= goal:
                low = middle
            else:
                high = middle
        reached = self._scaled(counts, low) if low > 1 else counts
        full = np.maximum(self._scaled(counts, high), reached)
        for steps in self.ladder:
            order = np.repeat(np.arange(len(full)), (full - reached).clip(max=1))
            reached = Fit(measure, goal, counts, full, steps, order).fill(reached)
            if measure(reached) >= NEAR * goal:
                break
        return reached

    # -- channels ----------------------------------------------------------------------------------

    def _copies(self, counts: Copies) -> Copies:
        copies = np.ones(len(self.channels.units.frozen_class), np.int64)
        for k, group in enumerate(self.groups):
            have, want = len(group.classes), int(counts[k])
            if want < have:
                best = np.argsort(-self.scores[group.classes], kind="stable")[:want]
                copies[group.classes] = 0
                copies[group.classes[best]] = 1
            elif want > have:
                copies[group.classes] = shared_evenly(want, have)
        return copies
