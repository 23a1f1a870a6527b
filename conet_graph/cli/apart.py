"""Running networks in a forked process, so that a crash of ONNX Runtime ends in a sentence."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from conet_graph.cli.stopping import terminated_like_interrupted
from conet_graph.ir.errors import Refused
from conet_graph.ir.forked import Crashed, in_child

if TYPE_CHECKING:
    from conet_graph.rewriting.plans import Plan
    from conet_graph.verification.report import Report


def report_of(verify: Callable[[], Report], made: Plan) -> Report:
    """What a verification finds, done apart; a crash is a failure of it."""
    from conet_graph.verification.report import Report

    if not _may_fork():
        return verify()
    try:
        return Report(**json.loads(_apart(lambda: json.dumps(verify().to_json()).encode())))
    except Crashed as crash:
        report = Report(
            exact=made.exact,
            inexact_because=made.inexact_because,
            checker="not finished",
            shape_inference="not finished",
            original_is_sound=False,
        )
        report.fail(f"{crash} (rewrite --no-verify runs nothing)")
        return report


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Plain data that come of timing networks, made apart.

    Raises:
        Refused: ONNX Runtime crashes on a network; or what the work raises.

    """
    if not _may_fork():
        return work()
    try:
        found: dict[str, Any] = json.loads(_apart(lambda: json.dumps(work()).encode()))
    except Crashed as crash:
        raise Refused(f"The latency cannot be measured: {crash}.") from None
    return found


def calibrated(work: Callable[[], bytes]) -> bytes:
    """What calibration finds, done apart.

    Raises:
        Refused: ONNX Runtime crashes on the network; or what the work raises.

    """
    if not _may_fork():
        return work()

    def alone() -> bytes:
        from conet_graph.calibration.memory import reuse_memory

        reuse_memory()
        return work()

    try:
        return _apart(alone)
    except Crashed as crash:
        raise Refused(f"The network cannot be calibrated: {crash}.") from None


def _may_fork() -> bool:
    """Whether a fork of this process can run networks.

    Threads, and the locks they held, do not survive a fork. ``rewrite`` and ``verify`` have none but those of
    numpy's BLAS, which starts them again; a program that calls the command line from Python may have any.
    torch's (OpenMP's) would be waited for without end. Outside Linux system libraries forbid forks (macOS)
    or there are none (Windows): there networks run in this process. Nor may this process ever import
    ONNX Runtime, which starts a thread: whatever opens a session belongs into one of the children.
    """
    return sys.platform.startswith("linux") and threading.active_count() == 1 and "torch" not in sys.modules


def _apart(work: Callable[[], bytes]) -> bytes:
    """What ``work`` returns, in a child whose files go wherever it ends.

    An interruption ends the child first; SIGTERM is one here.
    """
    with terminated_like_interrupted(), tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:

        def answer() -> bytes:
            tempfile.tempdir = folder
            return work()

        return in_child(answer)
