"""The command line: one file a command, heavy imports inside the commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from conet_graph.cli import (
    analyze,
    apply,
    compare,
    distill,
    export,
    rewrite,
    runs,
    search,
    sweep,
    train,
    verify,
)
from conet_graph.cli import report as report_command
from conet_graph.cli.common import INTERRUPTED, report, say

app = typer.Typer(
    name="conet-graph",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        from conet_graph.version import own_version  # reading the installed packages takes a while

        print(f"conet-graph {own_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Find, change and search the channel sizes of any ONNX CNN."""


app.command()(analyze.analyze)
app.command()(rewrite.rewrite)
app.command()(verify.verify)
app.command()(apply.apply)
app.command()(search.search)
app.command()(compare.compare)
app.command()(sweep.sweep)
app.command(name="report")(report_command.report)
app.command()(runs.runs)
app.command()(train.train)
app.command()(distill.distill)
app.command()(export.export)

# typer names BadParameter only; its parent is what every wrong option or argument raises.
_USAGE_ERROR = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command line; ends the process with the exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code and raises nothing."""
    try:
        code = app(arguments or ["--help"], prog_name="conet-graph", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        say("Interrupted.")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, _USAGE_ERROR):
            say(_usage_sentence(error))
            return 2
        return report(error, "--debug" in arguments)
    return code if isinstance(code, int) else 0


def _usage_sentence(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(message.split()) + " (see conet-graph --help)"
