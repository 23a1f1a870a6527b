"""A search as one watches it: a table that lives in the terminal, or a line a trial in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from conet_graph.search.algorithm import SizeState
from conet_graph.search.run_store import TrialRow
from conet_graph.search.settings import RunSettings
from conet_graph.search.voices import Size
from conet_graph.search.watch import States

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

GROWS, SHRINKS, STAYS, SETTLED = "▲", "▼", "·", "■"
STYLES = {GROWS: "green", SHRINKS: "red", STAYS: "", SETTLED: "dim"}
# Lines of the terminal that the sizes leave to the rest.
OTHER_LINES = 8


def mark(before: SizeState, after: SizeState) -> str:
    """What a trial has made of a size."""
    if after.stopped:
        return SETTLED
    if after.width == before.width:
        return STAYS
    return GROWS if after.width > before.width else SHRINKS


def count_marks(before: States, after: States) -> str:
    """How many sizes grow, shrink and have settled."""
    marks = [mark(before[name], after[name]) for name in after]
    counts = {
        "grow": marks.count(GROWS),
        "shrink": marks.count(SHRINKS),
        "stay": marks.count(STAYS),
        "settled": marks.count(SETTLED),
    }
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number)


def clock(seconds: float) -> str:
    """Seconds for people.

    >>> clock(42), clock(754), clock(7260)
    ('42 s', '12 min 34 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def place(trial: int, trials: int) -> str:
    """Which trial it is, counted from 0 as in the run's folder and its report."""
    return f"trial {trial} ({trial + 1} of {trials})"


class SearchProgress:
    """What both forms know of the search: its place, its pace, and what the last trial did."""

    def __init__(self, settings: RunSettings, sizes: Sequence[Size]) -> None:
        """Begin before the first trial of this session."""
        self.trials, self.epochs = settings.search.trials, settings.search.epochs
        self.producers = {size.name: size.layers for size in sizes}
        self.trial = self.epochs_done = self.parameters = self.macs = 0
        self.accuracy: float | None = None
        self.states: States = {}
        self.marks: dict[str, str] = {}
        self.moves = ""
        self.begun = time.monotonic()
        self.session_epochs = 0

    def begins(self, trial: int, states: States, parameters: int, macs: int) -> None:
        """Take over a new trial's widths."""
        self.trial, self.states, self.epochs_done = trial, states, 0
        self.parameters, self.macs = parameters, macs

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take over an epoch."""
        self.epochs_done = epoch
        self.session_epochs += 1
        self.accuracy = metrics.get("test_accuracy", self.accuracy)

    def ends(self, before: States, after: States) -> None:
        """Take over what becomes of the sizes."""
        self.marks = {name: mark(before[name], after[name]) for name in after}
        self.moves = count_marks(before, after)

    def left(self) -> float | None:
        """Seconds until the last trial would end, at the pace of this session."""
        if not self.session_epochs:
            return None
        pace = (time.monotonic() - self.begun) / self.session_epochs
        return pace * ((self.trials - self.trial) * self.epochs - self.epochs_done)


class LogLines:
    """One plain line for each trial."""

    def __init__(self, console: Console, settings: RunSettings, sizes: Sequence[Size]) -> None:
        """Write to a console, that of stderr for instance."""
        self.console, self.progress = console, SearchProgress(settings, sizes)

    def begins(self, trial: int, states: States, parameters: int, macs: int) -> None:
        """Nothing yet."""
        self.progress.begins(trial, states, parameters, macs)

    def epoch(self, trial: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Nothing yet."""
        self.progress.epoch(epoch, metrics)

    def ends(self, trial: TrialRow, before: States, after: States) -> None:
        """The line."""
        accuracy = "" if trial.test_accuracy is None else f", accuracy {trial.test_accuracy:.1%}"
        self.say(
            f"{place(trial.trial, self.progress.trials)}{accuracy}, {trial.parameters:,} parameters,"
            f" {clock(trial.seconds)}; sizes: {count_marks(before, after)}"
        )

    def say(self, sentence: str) -> None:
        """A line of its own."""
        self.console.print(sentence, soft_wrap=True)


class LiveTable:
    """A table that is redrawn as the search goes, for a terminal."""

    def __init__(self, console: Console, settings: RunSettings, sizes: Sequence[Size]) -> None:
        """Draw on a console from `start` to `stop`."""
        from rich.live import Live

        self.console, self.progress = console, SearchProgress(settings, sizes)
        self.live = Live(self, console=console, refresh_per_second=4, transient=True)

    def begins(self, trial: int, states: States, parameters: int, macs: int) -> None:
        """Show the new widths."""
        self.progress.begins(trial, states, parameters, macs)

    def epoch(self, trial: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Show the epoch."""
        self.progress.epoch(epoch, metrics)

    def ends(self, trial: TrialRow, before: States, after: States) -> None:
        """Show what becomes of the sizes."""
        self.progress.ends(before, after)

    def say(self, sentence: str) -> None:
        """A line above the table."""
        self.live.console.print(sentence)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it is now."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = self.progress
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for title, side in (("size", "left"), ("layer", "left"), ("width", "right"), ("", "left")):
            table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
        room = max(3, (options.height or console.height) - OTHER_LINES)
        for name, state in list(shown.states.items())[:room]:
            sign = SETTLED if state.stopped else shown.marks.get(name, STAYS)
            layers = shown.producers.get(name, ())
            what = (layers[0] if layers else "").encode("unicode_escape").decode("ascii")
            table.add_row(name, Text(what[-48:]), str(state.width), Text(sign, style=STYLES[sign]))
        yield Text(self._heading(), style="bold")
        yield table
        if len(shown.states) > room:
            yield Text(f"and {len(shown.states) - room} more sizes", style="dim")
        yield Text(f"{shown.moves or 'first trial'}    {GROWS} grows {SHRINKS} shrinks {SETTLED} settled")

    def _heading(self) -> str:
        shown = self.progress
        accuracy = "" if shown.accuracy is None else f"   accuracy {shown.accuracy:.1%}"
        left = shown.left()
        ahead = "" if left is None else f"   at most {clock(left)} left"
        return (
            f"{place(shown.trial, shown.trials)}   epoch {shown.epochs_done}/{shown.epochs}{accuracy}"
            f"   {shown.parameters:,} parameters{ahead}"
        )
