"""From what a user asks for to the channels of each group."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conet_graph.cost_model import CostModel
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph
from conet_graph.layers import layer_names
from conet_graph.passes.tie_channels import Channels, Group
from conet_graph.ranking import importance

Copies = NDArray[np.int64]


@dataclass(frozen=True)
class WidthRequest:
    """What widths are asked for: exactly one kind of target, or ``widths`` by name, or both.

    ``params`` and ``macs`` are fractions of the original up to 1, absolute numbers above.
    """

    scale: float | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    params: float | None = None
    macs: float | None = None
    latency_ms: float | None = None
    measure_latency: Callable[[Copies], float] | None = None
    multiple_of: int = 1
    min_width: int = 1
    keep: tuple[str, ...] = ()
    importance: str = "l2"
    uniform: bool = False
    seed: int = 0


def choose_copies(graph: Graph, request: WidthRequest) -> Copies:
    """How often each class of channels appears in the network that is asked for.

    Raises:
        BadUsage: a name, width or combination makes no sense.
        Refused: nothing may change, a frozen group is asked to, or a target cannot be met.

    """
    return _Chooser(graph, request).choose()


class _Chooser:
    def __init__(self, graph: Graph, request: WidthRequest) -> None:
        self.graph, self.request = graph, request
        self.channels: Channels = graph.notes["channels"]
        self.groups = self.channels.groups
        self.scores = importance(graph, request.importance, request.seed)
        self.counts = np.array([len(g.classes) for g in self.groups], np.int64)
        self.movable = np.array([g.free for g in self.groups], np.bool_)
        self.model: CostModel | None = None

    def choose(self) -> Copies:
        request = self.request
        targets = [request.scale, request.params, request.macs, request.latency_ms]
        if sum(t is not None for t in targets) > 1:
            raise BadUsage("Give one of --scale, --params, --macs and --latency, not several.")
        if not any(g.free for g in self.groups):
            reasons = "; ".join(dict.fromkeys(g.reason or "" for g in self.groups)) or "it has no layers"
            raise Refused(f"Nothing may change in this network: {reasons}.")
        for name in request.keep:
            for number in self._numbers(name):
                self.movable[number] = False
        asked = self._asked_widths()
        self.movable[list(asked)] = False
        counts = self.counts.copy()
        for number, count in asked.items():
            counts[number] = count
        if request.scale is not None:
            self._by_scale(counts, request.scale)
        elif request.params is not None or request.macs is not None:
            counts = self._to_cost(counts)
        elif request.latency_ms is not None:
            counts = self._to_latency(counts, request.latency_ms)
        if np.array_equal(counts, self.counts) and not asked and request.scale != 1.0:
            raise Refused("At these limits (--multiple-of, --min-width, --keep) nothing changes.")
        return self._copies(counts)

    # -- names -------------------------------------------------------------------------------------

    def _numbers(self, name: str) -> list[int]:
        """The numbers of the groups that a name stands for: a group, a size, or a layer's output."""
        found = [k for k, g in enumerate(self.groups) if g.id == name]
        found = found or [k for k, g in enumerate(self.groups) if g.size == name and g.free]
        if found:
            return found
        names = layer_names(self.graph)
        for layer in self.graph.notes["layers"]:
            tensor = layer.op.input(layer.weight_slot)
            if name in (names[layer.op.index], layer.op.name, tensor, tensor.removesuffix(".weight")):
                groups = self.channels.groups_on(self.channels.layer_axes[layer.op.index][1])
                return [self.groups.index(g) for g in groups]
        known = [*names.values(), *(g.id for g in self.groups)]
        close = difflib.get_close_matches(name, known, 3) or known[:3]
        raise BadUsage(f"There is no layer or group {shown(name)}; close are {', '.join(map(shown, close))}.")

    def _asked_widths(self) -> dict[int, int]:
        asked: dict[int, int] = {}
        for name, width in self.request.widths.items():
            numbers = self._numbers(name)
            groups = [self.groups[k] for k in numbers]
            for group in groups:
                if not group.free:
                    raise Refused(f"{shown(name)} cannot change: {group.reason}.")
            if not groups:
                raise Refused(f"{shown(name)} cannot change: its output carries no channels.")
            total = sum(g.width for g in groups)
            rest = width
            for k, group in zip(numbers, groups, strict=True):
                share = rest if group is groups[-1] else round(width * group.width / total)
                asked[k] = self._classes_for(name, group, share)
                rest -= share
        return asked

    def _classes_for(self, name: str, group: Group, width: int) -> int:
        if width < 1 or width % group.multiple:
            raise BadUsage(
                f"{shown(name)} cannot be {width} wide: its channels move {group.multiple} at once,"
                f" so its width is a multiple of {group.multiple}."
            )
        return width // group.multiple

    # -- scale -------------------------------------------------------------------------------------

    def _rounded(self, group: Group, width: float) -> int:
        """Classes for a wished width: a multiple of what is asked, never under the least width."""
        step = int(np.lcm(self.request.multiple_of, group.multiple))
        nearest = int(width / step + 0.5) * step
        least = -(-max(self.request.min_width, 1) // step) * step
        return max(nearest, least) // group.multiple

    def _by_scale(self, counts: Copies, scale: float) -> None:
        if not 0 < scale <= 64:
            raise BadUsage(f"--scale is {scale}: give a factor above 0 and at most 64.")
        for k in np.flatnonzero(self.movable):
            group = self.groups[k]
            new = self._rounded(group, group.width * scale)
            # Rounding up must not widen what was to become narrower.
            counts[k] = min(new, self.counts[k]) if scale <= 1 else new

    # -- targets -----------------------------------------------------------------------------------

    def _to_cost(self, counts: Copies) -> Copies:
        self.model = CostModel(self.graph)
        params = self.request.params is not None
        measure = self.model.parameters if params else self.model.macs
        what = "parameters" if params else "MACs"
        now = measure(self.counts.astype(np.float64))
        wanted = self.request.params if params else self.request.macs
        assert wanted is not None
        goal = wanted * now if wanted <= 1 else wanted
        if goal > now:
            return self._widened(counts, measure, goal, what)
        return self._narrowed(counts, lambda c: measure(c.astype(np.float64)), goal, what)

    def _to_latency(self, counts: Copies, goal: float) -> Copies:
        meter = self.request.measure_latency
        assert meter is not None
        return self._narrowed(counts, lambda c: meter(self._copies(c)), goal, "milliseconds")

    def _narrowed(self, counts: Copies, measure: Callable[[Copies], float], goal: float, what: str) -> Copies:
        ladder = self._ladder(counts)
        smallest = ladder(1.0)
        if measure(smallest) > goal:
            raise Refused(
                f"{goal:.4g} {what} cannot be reached: the closest is {measure(smallest):.4g},"
                " with every free width at its least."
            )
        low, high = 0.0, 1.0  # at 0 nothing is dropped, at 1 all that may be
        if measure(ladder(0.0)) <= goal:
            return ladder(0.0)
        for _ in range(40 if what != "milliseconds" else 7):
            middle = (low + high) / 2
            if measure(ladder(middle)) <= goal:
                high = middle
            else:
                low = middle
        return (
            self._topped_up(ladder(high), counts, measure, goal) if what != "milliseconds" else ladder(high)
        )

    def _ladder(self, counts: Copies) -> Callable[[float], Copies]:
        """Widths from untouched (0) to least (1): by rank over all groups, or evenly."""
        least = counts.copy()
        for k in np.flatnonzero(self.movable):
            least[k] = min(self._rounded(self.groups[k], 0.0), counts[k])
        if self.request.uniform:
            return lambda share: self._evenly(counts, least, share)
        order = self._drop_order(least)

        def ranked(share: float) -> Copies:
            dropped = np.bincount(order[: round(share * len(order))], minlength=len(counts))
            return self._snapped(counts - dropped, least)

        return ranked

    def _evenly(self, counts: Copies, least: Copies, share: float) -> Copies:
        wished = counts.astype(np.float64)
        wished[self.movable] *= 1 - share
        return self._snapped(np.maximum(np.floor(wished).astype(np.int64), least), least)

    def _drop_order(self, least: Copies) -> Copies:
        """Groups' numbers in the order in which they lose a class: the least important first."""
        numbers: list[int] = []
        scores: list[float] = []
        for k in np.flatnonzero(self.movable):
            values = np.sort(self.scores[self.groups[k].classes])[: self.counts[k] - least[k]]
            numbers += [int(k)] * len(values)
            scores += values.tolist()
        return np.array(numbers, np.int64)[np.argsort(np.array(scores), kind="stable")]

    def _snapped(self, counts: Copies, least: Copies) -> Copies:
        """Round down to the multiple that is asked for."""
        if self.request.multiple_of == 1:
            return counts
        out = counts.copy()
        for k in np.flatnonzero(self.movable):
            if counts[k] < self.counts[k]:
                step = (
                    int(np.lcm(self.request.multiple_of, self.groups[k].multiple)) // self.groups[k].multiple
                )
                out[k] = max(counts[k] // step * step, least[k])
        return out

    def _topped_up(
        self, counts: Copies, full: Copies, measure: Callable[[Copies], float], goal: float
    ) -> Copies:
        """Give groups back what still fits, the largest first, until the target is within 2 %."""
        if measure(counts) >= 0.98 * goal:
            return counts
        counts = counts.copy()
        for k in sorted(np.flatnonzero(self.movable), key=lambda k: -int(self.counts[k])):
            step = int(np.lcm(self.request.multiple_of, self.groups[k].multiple)) // self.groups[k].multiple
            while counts[k] < full[k]:
                tried = counts.copy()
                tried[k] = min(counts[k] + step, full[k])
                if measure(tried) > goal:
                    break
                counts = tried
            if measure(counts) >= 0.98 * goal:
                break
        return counts

    def _widened(
        self, counts: Copies, measure: Callable[[NDArray[np.float64]], float], goal: float, what: str
    ) -> Copies:
        def at(scale: float) -> Copies:
            made = counts.copy()
            self._by_scale(made, scale)
            return made

        low, high = 1.0, 64.0
        if measure(at(high).astype(np.float64)) < goal:
            raise Refused(f"{goal:.4g} {what} cannot be reached by widening {high:.0f} times.")
        for _ in range(50):
            middle = (low + high) / 2
            if measure(at(middle).astype(np.float64)) <= goal:
                low = middle
            else:
                high = middle
        return at(low)

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
                each, more = divmod(want, have)
                copies[group.classes] = np.where(np.arange(have) < more, each + 1, each)
        return copies
