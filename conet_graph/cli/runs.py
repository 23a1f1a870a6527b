"""``conet-graph runs``: what has been searched, in a table."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.common import Debug, Json, console, guarded, plain, print_json, quantity, say

if TYPE_CHECKING:
    from conet_graph.search.recorded import RecordedRun


@guarded
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder with runs at any depth.", show_default=False)],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the searches below a folder: model, data, status, trials, parameters, accuracy, hours.

    A folder whose database cannot be read is named on stderr; the others are listed all the same.

    Example: conet-graph runs runs/
    """
    from conet_graph.ir.errors import BadUsage
    from conet_graph.search.read_run import find_runs, read_run

    found = []
    for path in find_runs(folder):
        try:
            found.append(read_run(path))
        except BadUsage as error:
            say(str(error))
    if json:
        print_json({"format": "conet-graph.runs/1", "runs": [_entry(run) for run in found]})
    else:
        _show(found, folder)


def _entry(run: RecordedRun) -> dict[str, Any]:
    last, best = run.trials[-1] if run.trials else None, run.best
    return {
        "run": str(run.folder),
        "model": run.about.get("model"),
        "data": run.about.get("data"),
        "status": run.status,
        "trials": len(run.trials),
        "parameters": last.parameters if last else None,
        "test_accuracy": last.accuracy if last else None,
        "best_accuracy": best.accuracy if best else None,
        "hours": run.seconds / 3600,
        "started": run.about.get("started"),
    }


def _show(found: list[RecordedRun], folder: Path) -> None:
    from rich import box
    from rich.table import Table

    out = console()
    if not found:
        out.print(f"no runs below {plain(str(folder))}")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("run", "model", "data", "status"):
        table.add_column(title, overflow="fold")
    for title in ("trials", "params", "accuracy", "best", "hours"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in found:
        entry = _entry(run)
        where = run.folder.relative_to(folder) if run.folder.is_relative_to(folder) else run.folder
        table.add_row(
            plain(str(where)),
            plain(PurePath(entry["model"] or "?").name),
            plain(entry["data"] or "?"),
            plain(entry["status"]),
            str(entry["trials"]),
            quantity(entry["parameters"]),
            _percent(entry["test_accuracy"]),
            _percent(entry["best_accuracy"]),
            f"{entry['hours']:.2f}",
        )
    out.print(table)


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"
