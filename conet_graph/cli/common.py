"""What all commands share: exit codes, options, output."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from conet_graph.ir.errors import RAISING, ConetGraphError, shown
from conet_graph.report.markup import count

if TYPE_CHECKING:
    from rich.console import Console

BUG = 70  # EX_SOFTWARE of sysexits.h: a fault of ours, not of the user's
INTERRUPTED = 130
WIDTH = 100
# Of stdout: a full disk, a quota, a failing one.
_OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and how long each step took.")]
FreeKept = Annotated[
    bool,
    typer.Option(
        "--free-kept", help="Free channels kept by default: selected among (Softmax, TopK), or of no layer."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]

# What the extra `train` of the installation brings, as it is imported.
TRAIN_MODULES = frozenset(
    ("matplotlib", "onnx2torch", "onnxscript", "PIL", "sklearn", "tensorboard", "torch", "torchvision")
)
# What --for takes; a test compares it with the presets themselves, which commands import late.
RUNTIMES = "onnxruntime-cpu, onnxruntime-cuda, openvino, tensorrt, tensorrt-int8, ncnn or rknn"

For = Annotated[
    str | None,
    typer.Option("--for", metavar="RUNTIME", help=f"Warn of widths that do not suit {RUNTIMES}."),
]

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what a command raises into one sentence on stderr and an exit code.

    The command's keyword ``debug`` decides whether the traceback is shown too.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if kwargs.get("debug"):
            os.environ[RAISING] = "1"
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # what cannot be written is told here, not by Python at exit
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            raise typer.Exit(report(error, bool(kwargs.get("debug")))) from None

    return run


def report(error: BaseException, debug: bool) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _close_stdout()  # the reader has gone (`| head`)
        return 0
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, ConetGraphError):
        say(str(error))
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in TRAIN_MODULES:
        say(
            f"This needs {error.name}, which the small install leaves out: pip install 'conet-graph[train]'"
            " (in a checkout: pip install '.[train]')."
        )
        return 2
    if isinstance(error, MemoryError):
        say("There is not enough memory for this network: use a machine with more.")
        return 2
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch itself may not be imported here
        say("The GPU has not enough memory for this: free some, use a smaller batch, or --device cpu.")
        return 2
    if isinstance(error, OSError) and not error.filename and error.errno in _OUTPUT_FAILS:
        _close_stdout()
        say(f"The output cannot be written: {error.strerror}.")
        return 2
    what = shown(f"{type(error).__name__}: {error}", 200)
    hint = "" if debug else " (run again with --debug to see where)"
    say(f"This is a bug in conet-graph, please report it{hint}: {what}")
    return BUG


def _close_stdout() -> None:
    """Nothing more can be said on stdout, not even what Python still holds back at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(sentence: str) -> None:
    """One sentence on stderr."""
    print(f"conet-graph: {sentence}", file=sys.stderr)


def print_json(data: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    json.dump(data, sys.stdout, indent=1, ensure_ascii=True)
    sys.stdout.write("\n")


def console(*, stderr: bool = False) -> Console:
    """Where tables go: stdout, at most 100 columns wide, coloured on a terminal only."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.width = min(made.width, WIDTH) if made.is_terminal else WIDTH
    return made


def plain(name: str) -> str:
    """A name from a model as it may be printed in a table."""
    return shown(name)[1:-1]


def quantity(number: int | None) -> str:
    """A number in three digits with a unit, as in 1.81 G; '?' where it is not known."""
    return "?" if number is None else count(number)
