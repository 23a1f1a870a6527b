"""``rewrite --calibrate``: the work done apart, its progress, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from conet_graph.cli.apart import calibrated
from conet_graph.cli.common import plain
from conet_graph.cli.progress import progress

if TYPE_CHECKING:
    import onnx
    from rich.console import Console

    from conet_graph.calibration.inputs import Calibration
    from conet_graph.calibration.narrowing import Choice
    from conet_graph.ir.graph import Graph
    from conet_graph.passes.widths.rewidth import Layout
    from conet_graph.rewriting.refits import Refit
    from conet_graph.rewriting.targets import WidthRequest


def choice_apart(graph: Graph, request: Callable[[], WidthRequest], data: Calibration) -> Choice:
    """Choose widths and channels by calibration inputs, in a process of its own."""
    import numpy as np

    from conet_graph.calibration.narrowing import Choice, choose

    with progress() as tell:

        def work() -> bytes:
            found = choose(graph, request(), data, tell)
            told = [found.copies.tolist(), found.predicted, found.tried, found.best]
            return json.dumps(told).encode()

        copies, predicted, tried, best = json.loads(calibrated(work))
    return Choice(np.array(copies, np.int64), predicted, tried, best)


def curves_apart(graph: Graph, spec: str) -> dict[str, list[float]]:
    """By the id of each free group, what is lost once 0, 1, 2, ... of its steps are gone; made apart."""
    from conet_graph.calibration.importance import loss_curves
    from conet_graph.calibration.inputs import DRAWN, open_calibration

    data = open_calibration(spec, graph, DRAWN)
    with progress() as tell:
        tell("looking at the network", 0.0)
        found: dict[str, list[float]] = json.loads(
            calibrated(lambda: json.dumps(loss_curves(graph, data)).encode())
        )
    return found


def refit_apart(graph: Graph, layout: Layout, model: onnx.ModelProto, data: Calibration) -> Refit:
    """Refit a narrowed network in a process of its own."""
    from conet_graph.calibration.narrowing import refitted
    from conet_graph.rewriting.refits import Refit

    with progress() as tell:
        return Refit.unpacked(calibrated(lambda: refitted(graph, layout, model, data, tell).packed()))


def summary(data: Calibration, importance: str, choice: Choice, fit: Refit | None) -> dict[str, Any]:
    """What ``rewrite --json`` says of a calibration."""
    return {
        "samples": data.count,
        "importance": importance,
        "allocations": choice.tried,
        "chosen": choice.best or None,
        "predicted": choice.predicted,
        "errors": None if fit is None else fit.errors,
        "layers": [] if fit is None else fit.to_json(None)["layers"],
        "left": [] if fit is None else fit.left,
    }


def show_errors(out: Console, fit: Refit) -> None:
    """The outputs' errors on inputs that no fit has seen, and what stayed as it was."""
    told = ", ".join(f"{name} {percent(error)}" for name, error in fit.errors.items())
    out.print(f"outputs' error on calibration inputs kept aside: {told} of their variance")
    if not fit.names:
        out.print("nothing refitted: no fit brings the outputs nearer", style="yellow")
    for sentence in fit.left[:4]:
        out.print(f"note: {plain(sentence)}")


def percent(error: float | None) -> str:
    """An error as people read it."""
    if error is None:
        return "a number that is not finite"
    return f"{100 * error:.3g} %" if error < 10 else "over 1000 %"
