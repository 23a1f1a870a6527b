"""The command line: one file a command, heavy imports inside the commands."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Annotated

import typer

from conet_graph.cli import common

# Each is a function in a file of its name.
COMMANDS = (
    *("analyze", "rewrite", "verify", "apply", "search", "compare", "sweep", "report", "runs", "train"),
    *("distill", "export", "profile"),
)


def app_for(arguments: list[str]) -> typer.Typer:
    """The command line; of all commands only the one that is asked for, where it is one.

    To build all of them takes as long as the analysis of a network.
    """
    app = typer.Typer(
        name="conet-graph",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in (asked,) if asked in COMMANDS else COMMANDS:
        module = importlib.import_module(f"conet_graph.cli.{name}")
        app.command(name=name)(getattr(module, name))
    return app


def _tell_version(asked: bool) -> None:
    if asked:
        from conet_graph.version import own_version  # reading the installed packages takes a while

        print(f"conet-graph {own_version()}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Find, change and search the channel sizes of any ONNX CNN."""


# typer names BadParameter only; its parent is what every wrong option or argument raises.
_USAGE_ERROR = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command line; ends the process with the exit code."""
    # A network is many small objects, and none of them is garbage: looking for it took a tenth of `analyze`.
    gc.set_threshold(50_000, 20, 20)
    _keep_native_output_off_stdout()
    code = run(sys.argv[1:])
    gc.freeze()  # before it ends Python looks for it again, three times: a sixth of `analyze`
    sys.exit(code)


def _keep_native_output_off_stdout() -> None:
    """What libraries print past Python (ONNX Runtime's warnings) goes to stderr: stdout is for results."""
    if sys.stdout is None or sys.stderr is None:
        return  # closed by whoever started the process
    try:
        result = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    except OSError:
        return
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = os.fdopen(result, "w", encoding=encoding, errors=errors)


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code and raises nothing."""
    try:
        code = app_for(arguments)(arguments or ["--help"], prog_name="conet-graph", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        common.say("Interrupted.")
        return common.INTERRUPTED
    except Exception as error:
        if isinstance(error, _USAGE_ERROR):
            common.say(_usage_sentence(error))
            return 2
        return common.report(error, "--debug" in arguments)
    return code if isinstance(code, int) else 0


def _usage_sentence(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(message.split()) + " (see conet-graph --help)"
