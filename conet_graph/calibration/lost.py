"""What a narrowing that nobody calibrated does to the outputs, on the inputs that verification draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from conet_graph.calibration.output_error import Judge, judged_values
from conet_graph.calibration.stages import Feeds
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.passes.widths.rewidth import with_constants
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.report import Report

DRAWS = 4


def error_on_random_inputs(graph: Graph, model: onnx.ModelProto, report: Report) -> float | None:
    """The error of a narrowed network's outputs, in units of the original's variance.

    None where verification ran nothing, or the outputs are the same for all random inputs.
    """
    shapes = next((run["inputs"] for run in report.runs if "inputs" in run), None)
    if shapes is None:
        return None
    original = with_constants(graph, {})

    def draw(session: Any) -> Feeds:
        return [random_inputs(session, 1, 1, seed=k, shapes=shapes) for k in range(DRAWS)]

    try:
        error = Judge(graph, original, judged_values(graph), draw).error(model)
    except Refused:
        return None
    return error if np.isfinite(error) else None
