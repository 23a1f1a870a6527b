"""The analysed graph's own form of a network, beside the file that it was made from."""

from __future__ import annotations

from pathlib import Path

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.save import save_scratch
from conet_graph.verification.pair import OURS, ComparedRun, file_session, named, run_original
from conet_graph.verification.reference import own_form
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import first_line, open_session
from conet_graph.verification.tolerance import difference, tolerance


def compare_own_form(graph: Graph, run: ComparedRun, report: Report, temporary: Path) -> None:
    """Note a failure where the passes changed what the network computes.

    Needed where the reference could not be made from the file itself.
    """
    session = file_session(graph, temporary)
    if session is None:
        return  # ONNX Runtime runs the plain form of it only
    place = temporary / "form.onnx"
    try:
        save_scratch(own_form(graph), place, graph.folder)
        form = open_session(place, fused=False)
        found = named(form, run_original(form, run.feeds))
    except Exception as error:
        report.fail(f"the file as it was analysed does not run ({OURS}): {first_line(error)}")
        return
    try:
        outputs = run_original(session, run.feeds)
    except Exception as error:
        report.fail(f"ONNX Runtime does not run the original: {first_line(error)}")
        report.original_is_sound = False
        return
    for name, want in named(session, outputs).items():
        if difference(want, found[name]) > tolerance(graph):
            report.equality = "failed"
            report.fail(f"the file as it was analysed gives another output {shown(name)} ({OURS})")
