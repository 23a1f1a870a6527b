"""Verification: the rewritten file is valid, runs, and equals what it should."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from conet_graph.ir.graph import Graph
from conet_graph.ir.save import save_scratch
from conet_graph.rewriting.plans import Plan
from conet_graph.verification.comparison import compare
from conet_graph.verification.inputs import Shapes
from conet_graph.verification.report import Report
from conet_graph.verification.validity import check_valid, is_sound


def verify(
    graph: Graph,
    rewritten: onnx.ModelProto,
    plan: Plan,
    folder: Path | None = None,
    shapes: Shapes | None = None,
    *,
    with_error: bool = False,
    sound: bool = False,
) -> Report:
    """Verify a rewritten model against the analysed original and the plan.

    Args:
        graph: the analysed original.
        rewritten: the new model (unchanged external weights may still lie in ``folder``).
        plan: how the one became the other.
        folder: where external data of ``rewritten`` lies.
        shapes: of inputs whose sizes are free, to run with.
        with_error: measure, too, how far the outputs are from those of the original with all its channels.
        sound: our own checks have passed ``rewritten`` already.

    """
    report = Report(exact=plan.exact, inexact_because=plan.inexact_because)
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as temporary:
        path = Path(temporary) / "rewritten.onnx"
        save_scratch(rewritten, path, folder)
        check_valid(graph, path, rewritten, folder, report, sound=sound)
        if report.ok:
            compare(graph, path, plan, report, Path(temporary), shapes, with_error=with_error)
        if not report.ok and report.original_is_sound and not is_sound(graph, Path(temporary)):
            report.fail("ONNX Runtime does not run the original either")
            report.original_is_sound = False
    return report
