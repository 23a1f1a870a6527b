"""``conet-graph verify``: whether a rewritten network is what its plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conet_graph.cli.apart import report_of
from conet_graph.cli.common import Debug, For, Json, console, guarded, print_json, say
from conet_graph.ir.errors import BadUsage


@guarded
def verify(
    original: Annotated[Path, typer.Argument(help="The ONNX file before, or '-'.", show_default=False)],
    rewritten: Annotated[Path, typer.Argument(help="The ONNX file after, or '-'.", show_default=False)],
    plan: Annotated[Path, typer.Option(help="The plan that 'rewrite --plan' wrote.", show_default=False)],
    for_: For = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a rewritten network: valid, runs, and equal to the original where its plan says so.

    Example: conet-graph verify model.onnx slim.onnx --plan plan.json
    """
    from conet_graph.cli.files import PIPE, load_given
    from conet_graph.passes import analysed
    from conet_graph.rewriting.alignment import breaking, preset
    from conet_graph.rewriting.refits import read_plan
    from conet_graph.rewriting.rewriting import compare_models

    if for_ is not None:
        preset(for_)  # a name that is not known is told before anything runs
    if original == rewritten == PIPE:
        raise BadUsage("Only one of the two models can come through a pipe: name the file of the other.")
    made = read_plan(plan)
    old, new = load_given(original), load_given(rewritten)
    report = report_of(lambda: compare_models(old, new, made), made)
    warnings = [] if for_ is None else breaking(analysed(new), for_)
    if json:
        print_json({**report.to_json(), "warnings": warnings})
    elif report.ok:
        console().print(f"verified: valid, runs, equality {report.equality}", style="green")
    for warning in [] if json else warnings:
        say(f"Warning: {warning}.")
    if not report.ok:
        say("Verification failed: " + "; ".join(report.failures) + ".")
        raise typer.Exit(1)
