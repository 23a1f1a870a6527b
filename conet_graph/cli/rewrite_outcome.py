"""What ``rewrite`` made, and what it says of it: as JSON, and in a table with lines below."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from conet_graph.cli.calibrating import percent, show_errors, summary
from conet_graph.cli.common import console, plain, quantity
from conet_graph.cli.latency import show_times
from conet_graph.cli.table import Column, write_table
from conet_graph.cli.uneven import show_uneven

if TYPE_CHECKING:
    from rich.console import Console

    from conet_graph.calibration.inputs import Calibration
    from conet_graph.calibration.narrowing import Choice
    from conet_graph.costs.cost import Cost
    from conet_graph.costs.input_shapes import Counting
    from conet_graph.rewriting.plans import Plan
    from conet_graph.verification.report import Report

# Of the outputs' variance: what float arithmetic alone changes of them.
ROUNDING = 1e-9


@dataclass
class Rewritten:
    """A rewritten network: its plan, what it costs, and what was found out on the way.

    ``output`` is where it goes (None in a dry run, where JSON has ``named`` all the same). ``times`` are
    those of ``--latency`` and ``--check-speed``, ``choice`` and ``data`` those of ``--calibrate``.
    """

    made: Plan
    before: Cost
    after: Cost
    sizes: Counting
    output: Path | None
    named: Path | None
    importance: str
    report: Report | None = None
    data: Calibration | None = None
    choice: Choice | None = None
    times: dict[str, Any] | None = None
    uneven: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The format ``conet-graph.rewrite/1``."""
        made, before, after, sizes = self.made, self.before, self.after, self.sizes
        found = {
            "format": "conet-graph.rewrite/1",
            "output": None if self.named is None else str(self.named),
            "groups": [{"id": g.id, "old_width": g.old_width, "new_width": g.new_width} for g in made.groups],
            "kept": [{"id": k.id, "reason": k.reason} for k in made.kept],
            "parameters": {"old": before.parameters, "new": after.parameters},
            "macs": {"old": before.macs, "new": after.macs},
            "counted_at": {"shapes": sizes.shapes, "assumed": sizes.assumed} if sizes.shapes else None,
            "exact": made.exact,
            "inexact_because": made.inexact_because,
            "lossless": made.lossless,
            "dead": sum(len(group.dead) for group in made.groups),
            "verification": None if self.report is None else self.report.to_json(),
            "not_aligned": self.uneven,
        }
        if self.data is not None and self.choice is not None:
            found["calibration"] = summary(self.data, self.importance, self.choice, made.refit)
        if self.times is not None:
            found["time"] = self.times
        return found

    def show(self, *, stderr: bool) -> None:
        """Print the new widths, and a line for everything else that is to be known."""
        out = console(stderr=stderr)
        self._show_widths(sys.stderr if stderr else sys.stdout)
        self._show_costs(out)
        self._show_what_stays(out)
        self._show_proof(out)
        if self.made.refit is not None:
            show_errors(out, self.made.refit)
        if self.output is not None:
            out.print("wrote the model to stdout" if stderr else f"wrote {self.output}", soft_wrap=True)
        show_uneven(self.uneven, stderr=stderr)
        if self.times is not None:
            show_times(out, self.times)

    def _show_widths(self, stream: TextIO) -> None:
        choice = self.choice
        titles = ("old width", "new width", "share", *(["predicted loss"] if choice else []))
        rows = []
        for group in self.made.groups:
            share = f"{100 * group.new_width / group.old_width:.0f} %"
            loss = [f"{choice.predicted.get(group.id, 0.0):.2g}"] if choice else []
            rows.append([group.id, str(group.old_width), str(group.new_width), share, *loss])
        columns = [Column("group"), *(Column(title, right=True) for title in titles)]
        write_table(stream, f"{len(rows)} changed groups", columns, rows)

    def _show_costs(self, out: Console) -> None:
        before, after = self.before, self.after
        out.print(
            f"parameters {quantity(before.parameters)} -> {quantity(after.parameters)}"
            f" ({_share(before.parameters, after.parameters)}),"
            f" MACs {quantity(before.macs)} -> {quantity(after.macs)} ({_share(before.macs, after.macs)})"
        )

    def _show_what_stays(self, out: Console) -> None:
        made = self.made
        for reason in dict.fromkeys(k.reason for k in made.kept):
            ids = ", ".join(k.id for k in made.kept if k.reason == reason)
            out.print(f"left as it was, {ids}: {reason}", soft_wrap=True)
        dead = sum(len(group.dead) for group in made.groups)
        if dead:
            out.print(_dead_line(made, dead))
        for line in _countings(self.sizes, self.before):
            out.print(line, soft_wrap=True)
        if not made.exact:
            names = ", ".join(plain(n) for n in made.inexact_because[:4])
            more = len(made.inexact_because) - 4
            rest = f" and {more} more" if more > 0 else ""
            out.print(f"not exact, these look across channels: {names}{rest}")

    def _show_proof(self, out: Console) -> None:
        report = self.report
        if report is None:
            if self.output is not None:
                out.print("not verified (--no-verify)")
            return
        largest = report.largest_difference
        tail = "" if largest is None else f", largest difference {largest:.1g}"
        out.print(f"verified: valid, runs, equality {report.equality}{tail}", style="green")
        error = report.outputs_error
        if error is None or self.made.lossless:
            return
        if error < ROUNDING:
            # Nothing hears the dropped channels; or nothing was found in noise, with or without them.
            out.print(
                "on random inputs the outputs are what they were; --calibrate DATA measures it on yours"
            )
        else:
            out.print(
                f"the function is not kept: on random inputs the outputs are off by"
                f" {percent(error)} of their variance; --calibrate DATA keeps it, or training",
                style="yellow",
            )


def _dead_line(made: Plan, dead: int) -> str:
    """What dropping dead channels means for the outputs."""
    if made.lossless:
        return f"{dead} dead channels dropped, no others: the original's own outputs are kept"
    dropped = sum(max(0, group.old_width - group.new_width) for group in made.groups)
    return f"{dead} of the {dropped} dropped channels were dead: these change nothing"


def _countings(sizes: Counting, before: Cost) -> list[str]:
    """At what sizes MACs were counted, and what is not in them."""
    lines = []
    if sizes.shapes:
        hint = " (assumed: name others by --input-shape)" if sizes.assumed else ""
        lines.append(f"MACs counted at {plain(sizes.said())}{hint}")
        if before.uncounted:
            names = ", ".join(plain(n) for n in before.uncounted[:4])
            lines.append(f"MACs without {len(before.uncounted)} operators that cannot be counted: {names}")
    return lines


def _share(old: int | None, new: int | None) -> str:
    return "?" if not old or new is None else f"{100 * new / old:.1f} %"
