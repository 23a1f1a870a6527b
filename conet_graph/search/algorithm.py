"""CONet's Algorithm 2 as pure functions (Hosseini et al., ICCVW 2021): from trial to trial.

Nothing here trains, reads or writes: states and indicators in, new states out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from conet_graph.indicators.slope import SizeIndicators
from conet_graph.ir.errors import BadUsage, shown

EXPAND, STAY, SHRINK = 1, 0, -1


class Grain(NamedTuple):
    """What a size's widths may be, beside the bounds of a search.

    Attributes:
        multiple: how many of its channels move at once (ResNeXt with 32 groups: 32).
        parts: how many groups of channels it is made of; each keeps at least ``multiple`` channels.

    """

    multiple: int = 1
    parts: int = 1


ANY = Grain()


@dataclass(frozen=True, slots=True)
class SizeState:
    """One size between two trials.

    Attributes:
        width: its channels C.
        action: the last action w: 1 expanded, -1 shrunk, 0 nothing yet, or stopped.
        phi: the step, a fraction of the width.
        stopped: whether the size has settled; it then keeps its width.

    """

    width: int
    action: int
    phi: float
    stopped: bool


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The search's parameters, with the paper's values as defaults.

    Attributes:
        trials: the most trials.
        epochs: of each trial.
        start_width: of every size in the first trial.
        delta: a size whose rank-slope is below it shrinks; the paper spans 0.0025 (large networks)
            to 0.025.
        mu: a size whose condition reaches it shrinks.
        gamma: a size that turns round with a step below it stops.
        phi: the first step.
        min_width, max_width: bounds of every size (the paper: 16 for DARTS or 32 for ResNet, to
            256).
        multiple: widths are rounded to multiples of it; the paper's are even.

    """

    trials: int = 25
    epochs: int = 20
    start_width: int = 32
    delta: float = 0.01
    mu: float = 10.0
    gamma: float = 0.01
    phi: float = 0.2
    min_width: int = 16
    max_width: int = 256
    multiple: int = 2

    def __post_init__(self) -> None:
        """Refuse what no search can run with."""
        for name in ("trials", "epochs", "start_width", "min_width", "max_width", "multiple"):
            if getattr(self, name) < 1:
                raise BadUsage(f"{name} is {getattr(self, name)}: give 1 or more.")
        for name in ("delta", "mu", "gamma", "phi"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadUsage(f"{name} is {getattr(self, name)}: give a finite number, 0 or more.")
        if not 0 < self.phi < 1:
            raise BadUsage(f"phi is {self.phi}: give a fraction between 0 and 1.")
        self.bounds()

    def bounds(self, grain: Grain = ANY) -> tuple[int, int, int]:
        """Smallest and largest width of a size, and what all its widths are multiples of.

        Args:
            grain: of the size's channels.

        Raises:
            BadUsage: no multiple lies within the bounds.

        """
        unit = math.lcm(self.multiple, grain.multiple)
        smallest = max(-(-self.min_width // unit), grain.parts) * unit
        largest = self.max_width // unit * unit
        if smallest > largest:
            parts = f" (its {grain.parts} parts take {smallest})" if grain.parts > 1 else ""
            raise BadUsage(
                f"no multiple of {unit} lies between min_width {self.min_width} and max_width"
                f" {self.max_width}{parts}: widen the bounds."
            )
        return smallest, largest, unit


def start_state(settings: SearchSettings, width: int | None = None) -> SizeState:
    """The state before the first trial.

    Args:
        settings: the search's.
        width: the size's own width, taken as it is; the settings' start width if not given.

    """
    return SizeState(settings.start_width if width is None else width, STAY, settings.phi, False)


def step(
    state: SizeState,
    indicators: SizeIndicators,
    settings: SearchSettings,
    first_trial: bool,
    grain: Grain = ANY,
) -> SizeState:
    """The size's state for the next trial.

    It expands; but it shrinks where the rank-slope is below delta or the condition reaches mu,
    unless it is at its minimum, and where it is over its maximum. Where that turns the last action
    round (never after the first trial), the size stops with the width that it has if its step is
    already below gamma, and the step is halved. Otherwise the width becomes C (1 + w phi), rounded
    and clamped. With a small step the rounding can give the old width again: the action counts all
    the same.

    Args:
        state: the size as it was trained.
        indicators: measured in that trial.
        settings: the search's.
        first_trial: whether that trial was the first.
        grain: of the size's channels.

    """
    if state.stopped:
        return state
    smallest, largest, _ = settings.bounds(grain)
    learns = indicators.slope >= settings.delta and indicators.condition < settings.mu
    if state.width > largest:
        action = SHRINK
    elif learns or state.width <= smallest:
        action = EXPAND
    else:
        action = SHRINK
    phi = state.phi
    if action != state.action and not first_trial:
        if phi < settings.gamma:
            return replace(state, action=STAY, phi=phi / 2, stopped=True)
        phi /= 2
    width = rounded_width(state.width * (1 + action * phi), settings, grain)
    return SizeState(width, action, phi, False)


def step_all(
    states: Mapping[str, SizeState],
    indicators: Mapping[str, SizeIndicators],
    settings: SearchSettings,
    first_trial: bool,
    grains: Mapping[str, Grain],
) -> dict[str, SizeState]:
    """Every size's state for the next trial; a size that nothing was measured for stops as it is.

    Args:
        states: size -> its state as it was trained.
        indicators: size -> what the trial measured.
        settings: the search's.
        first_trial: whether that trial was the first.
        grains: of the sizes whose widths are not any number.

    Raises:
        BadUsage: a size has no allowed width; named.

    """
    after = {}
    for size, state in states.items():
        if size not in indicators:
            after[size] = replace(state, action=STAY, stopped=True)
            continue
        try:
            grain = grains.get(size, ANY)
            after[size] = step(state, indicators[size], settings, first_trial, grain)
        except BadUsage as error:
            raise BadUsage(f"Size {shown(size)}: {error}") from error
    return after


def within_budget(
    after: Callable[[float], dict[str, SizeState]],
    delta: float,
    slopes: Iterable[float],
    fits: Callable[[dict[str, SizeState]], bool],
) -> dict[str, SizeState]:
    """The next states under a budget: the threshold rises above the lowest slopes until the widths fit.

    Scaling all widths back would keep their proportions for ever where every slope exceeds delta. So the
    sizes whose ranks grow least make room for the others.

    Args:
        after: the next states for a threshold.
        delta: the search's own threshold.
        slopes: of the sizes that still move.
        fits: whether the widths keep the budget.

    Returns:
        The states at the lowest threshold that fits, or at the highest one where none does.

    """
    states = after(delta)
    for slope in sorted(slope for slope in slopes if slope >= delta):
        if fits(states):
            break
        states = after(math.nextafter(slope, math.inf))
    return states


def fewest_trials(settings: SearchSettings) -> int:
    """How many trials it takes at least until a size can stop: its step halves at each turn.

    >>> fewest_trials(SearchSettings()), fewest_trials(SearchSettings(gamma=0.05))
    (7, 5)
    """
    turns, phi = 0, settings.phi
    while phi >= settings.gamma and turns < settings.trials:
        turns, phi = turns + 1, phi / 2
    return turns + 2


def resolution(width: int, voices: int, epochs: int) -> float:
    """The smallest slope above 0 that a size can show: one singular value more, in one voice, at the end.

    >>> resolution(width=32, voices=2, epochs=5)
    0.00390625
    """
    return 1 / (width * max(1, voices) * max(1, epochs - 1))


def rounded_width(width: float, settings: SearchSettings, grain: Grain = ANY) -> int:
    """The nearest allowed width: a multiple (ties go up) within the bounds.

    >>> rounded_width(38.4, SearchSettings()), rounded_width(38.4, SearchSettings(multiple=8))
    (38, 40)
    """
    smallest, largest, unit = settings.bounds(grain)
    # The small addend keeps ties from depending on how a product was rounded.
    nearest = math.floor(width / unit + 0.5 + 1e-9) * unit
    return min(max(nearest, smallest), largest)


def finished(states: Iterable[SizeState], trial: int, settings: SearchSettings) -> bool:
    """Whether no further trial is due: all sizes have stopped, or ``trial`` of them were run."""
    return trial >= settings.trials or all(state.stopped for state in states)
