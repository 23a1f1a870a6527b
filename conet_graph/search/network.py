"""The graph work of a search: the original network at other widths, and what it costs there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from conet_graph.analysis.analysis import analyze
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.named_widths import asked_counts
from conet_graph.rewriting.rewriting import in_place_of, planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.search.algorithm import Grain, SearchSettings, SizeState, rounded_width
from conet_graph.search.settings import RunSettings
from conet_graph.search.voices import Size, speakers_of

Widths = Mapping[str, int]
# Halvings of the factor by which widths are scaled into a budget.
ROUNDS = 40
# The widest factor by which proportions are scaled.
WIDEST = 64.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most parameters and multiply-accumulates that a network may have; None: any number."""

    parameters: float | None = None
    macs: float | None = None


class Network:
    """One network and its sizes; widths are given by size."""

    def __init__(self, model: LoadedModel, batchnorm_inserted: bool = False) -> None:
        """Analyse a network; the flag says that it has BatchNorms which its file has not.

        Raises:
            Refused: nothing in it may change.
            InvalidModel: it is no valid network.

        """
        self.model, self.batchnorm_inserted = model, batchnorm_inserted
        self.graph = analysed(model)
        self.speakers = speakers_of(self.graph)
        if not self.speakers.sizes:
            raise Refused("Nothing may change in this network: `conet-graph analyze` says why.")
        self.grains = {s.name: Grain(s.multiple, len(s.groups)) for s in self.sizes}
        channels = self.graph.result(CHANNELS)
        self._counts = np.array([len(group.classes) for group in channels.groups], np.float64)
        self._cost = CostModel(self.graph)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that a search decides."""
        return self.speakers.sizes

    def own_widths(self) -> dict[str, int]:
        """The widths of the file itself."""
        return {size.name: size.width for size in self.sizes}

    def cost(self, widths: Widths) -> tuple[int, int]:
        """Parameters, and multiply-accumulates as far as they can be counted, at some widths."""
        counts = self._counts.copy()
        for number, count in asked_counts(self.graph, widths, ()).items():
            counts[number] = count
        return round(self._cost.parameters(counts)), round(self._cost.macs(counts))

    def limits(self, settings: RunSettings) -> Limits:
        """The budgets of a search, in absolute numbers."""
        parameters, macs = self.cost(self.own_widths())

        def absolute(budget: float | None, whole: int) -> float | None:
            return budget * whole if budget is not None and budget <= 1 else budget

        return Limits(absolute(settings.max_parameters, parameters), absolute(settings.max_macs, macs))

    def continued(self, trained: LoadedModel, widths: Widths, seed: int) -> LoadedModel:
        """A trained network of this structure, at other widths and with its weights.

        Raises:
            Refused: its sizes are not told apart as this network's are.

        """
        return self._same_sizes(trained).at(widths, seed, "keep")

    def narrowed(self, trained: LoadedModel, share: float) -> Iterator[tuple[str, LoadedModel, int, int]]:
        """A trained network of this structure without the weakest share of one size, for every size.

        Sizes that have nothing to spare are left out.

        Yields:
            The size, the network, the size's width before and after.

        Raises:
            Refused: its sizes are not told apart as this network's are.

        """
        other = self._same_sizes(trained)
        now = other.own_widths()
        for name, width in now.items():
            unit, parts = other.grains[name]
            left = width - max(unit, round(share * width / unit) * unit)
            if left >= unit * parts:
                yield name, other.at({**now, name: left}, 0, "keep"), width, left

    def _same_sizes(self, trained: LoadedModel) -> Network:
        other = Network(trained)
        if [(s.name, s.layers) for s in other.sizes] != [(s.name, s.layers) for s in self.sizes]:
            raise Refused(
                "This network's sizes do not survive a rewrite one by one: search with fresh weights (no"
                " --warm, and --rule conet, slopes, pairs, surface, loose or taper)."
            )
        return other

    def at(self, widths: Widths, seed: int, init: str = "fresh") -> LoadedModel:
        """The network at other widths.

        Args:
            widths: of every size.
            seed: of fresh weights, or of the differences between copied channels.
            init: 'fresh' weights or 'keep' them, as in `conet_graph.rewriting.rewriting.plan`.

        """
        copies = choose_copies(self.graph, WidthRequest(widths=widths, seed=seed))
        made, layout = planned(self.graph, copies, init, init == "keep", seed)
        return in_place_of(self.model, rewritten(self.graph, made, layout))

    def within(
        self, states: Mapping[str, SizeState], limits: Limits, settings: SearchSettings
    ) -> dict[str, SizeState]:
        """The states with their widths scaled back into the budgets; settled sizes keep theirs.

        Raises:
            Refused: the budgets are too small for the smallest widths.

        """
        settled = {name: float(s.width) for name, s in states.items() if s.stopped}
        moving = {name: float(s.width) for name, s in states.items() if not s.stopped}

        def scaled(factor: float) -> dict[str, int]:
            wished = {name: width * factor for name, width in moving.items()}
            return {**self.rounded(wished, settings), **{name: int(w) for name, w in settled.items()}}

        if self.fits(states, limits):
            return dict(states)
        widths = largest(scaled, lambda tried: self.keeps(tried, limits), 0.0, 1.0)
        if widths is None:
            raise Refused(
                "The budget (--max-params, --max-macs) is too small for the smallest widths: raise it, or"
                " lower --min-width."
            )
        return {name: replace(state, width=widths[name]) for name, state in states.items()}

    def fits(self, states: Mapping[str, SizeState], limits: Limits) -> bool:
        """Whether the widths keep the budgets."""
        return self.keeps({name: state.width for name, state in states.items()}, limits)

    def filled(self, shape: Mapping[str, float], limits: Limits, multiple: int = 1) -> dict[str, int] | None:
        """Widths in these proportions that use the budgets up as far as whole channels can.

        Args:
            shape: of every size; only proportions count.
            limits: at least one budget.
            multiple: what widths are rounded to multiples of.

        Returns:
            The widths; None where not even the narrowest fit.

        """
        units = {name: math.lcm(grain.multiple, multiple) for name, grain in self.grains.items()}

        def scaled(factor: float) -> dict[str, int]:
            steps = {n: math.floor(w * factor / units[n] + 0.5) for n, w in shape.items()}
            return {n: max(self.grains[n].parts, count) * units[n] for n, count in steps.items()}

        return largest(scaled, lambda widths: self.keeps(widths, limits), 0.0, WIDEST)

    def rounded(self, wished: Mapping[str, float], settings: SearchSettings) -> dict[str, int]:
        """The nearest allowed widths.

        Raises:
            BadUsage: a size has no allowed width; named.

        """
        found = {}
        for name, width in wished.items():
            try:
                found[name] = rounded_width(width, settings, self.grains[name])
            except BadUsage as error:
                raise BadUsage(f"Size {shown(name)}: {error}") from None
        return found

    def keeps(self, widths: Widths, limits: Limits) -> bool:
        """Whether widths keep the budgets."""
        if limits == Limits():
            return True
        parameters, macs = self.cost(widths)
        fits = limits.parameters is None or parameters <= limits.parameters
        return fits and (limits.macs is None or macs <= limits.macs)


def largest(
    widths_at: Callable[[float], dict[str, int]],
    fits: Callable[[dict[str, int]], bool],
    low: float,
    high: float,
) -> dict[str, int] | None:
    """The widths at the largest factor that fits; those whose next step is too large stay, the others go on.

    Args:
        widths_at: widths at a factor; they grow with it.
        fits: whether widths keep the budget.
        low: the factor at which they are narrowest.
        high: the factor at which they are widest.

    Returns:
        The widths; None where the narrowest do not fit.

    """
    stay: dict[str, int] = {}

    def at(factor: float) -> dict[str, int]:
        return {**widths_at(factor), **stay}

    if not fits(at(low)):
        return None
    while not fits(at(high)):
        below, above = low, high
        for _ in range(ROUNDS):
            middle = (below + above) / 2
            below, above = (middle, above) if fits(at(middle)) else (below, middle)
        # Several widths may be rounded up at this factor: as many of them as fit.
        best, steps = at(below), at(above)
        for name, width in steps.items():
            if fits({**best, name: width}):
                best[name] = width
        stay.update((name, best[name]) for name, width in steps.items() if best[name] != width)
        low = above
    return at(high)


def layer_widths(model: LoadedModel) -> dict[str, int]:
    """Layer -> output channels, for every layer whose output is free: what `rewrite --widths` takes."""
    analysis = analyze(model)
    free = {group.id for group in analysis.groups if group.free}
    return {
        layer.name: layer.out_channels
        for layer in analysis.layers
        if layer.out_channels is not None and layer.out_groups and free.issuperset(layer.out_groups)
    }
