"""What a narrowing that nobody calibrated does to the outputs, on the inputs that verification draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.calibration.judged import judged_values
from conet_graph.calibration.output_error import centred, relative_error, spreads
from conet_graph.calibration.stages import plain
from conet_graph.ir.graph import Graph
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.pair import ComparedRun, OpenPair, named, run_original

Outputs = list[NDArray[Any]]

# Images to look at: two, unless they give so few numbers that their variance would be chance.
FEWEST, MOST = 2, 4
ENOUGH = 256


def judged_inside(graph: Graph, original: onnx.ModelProto) -> list[str]:
    """The values inside a network by which outputs are judged, as far as they stand in the file, too."""
    made = {name for node in original.graph.node for name in node.output}
    return [name for name in judged_values(graph) if name not in graph.outputs and name in made]


def outputs_error(
    graph: Graph, pair: OpenPair, undone: Mapping[str, NDArray[Any]], first: ComparedRun
) -> float | None:
    """The error of the rewritten network's outputs, in units of the original's variance.

    Args:
        graph: the analysed original.
        pair: both networks, with the values that are judged given out.
        undone: what makes the reference the original with all its channels.
        first: a run of both that went well; nothing is run twice.

    None where the outputs are the same for all inputs, are not finite, or one of the networks does not run.

    """
    judged = judged_values(graph)
    values = [name for name in judged if name in first.outputs and _is_float(first.outputs[name])]
    axes = [judged[name] for name in values]
    wanted: list[Outputs] = []
    have: list[Outputs] = []
    try:
        while values and not _enough(wanted, first.batch):
            run = _another(pair, first, len(wanted)) if wanted else first
            whole = named(pair.reference, run_original(pair.reference, {**run.feeds, **undone}))
            wanted.append(centred([plain(pair.narrowed(name, whole[name])) for name in values], axes))
            have.append(centred([plain(run.found[name]) for name in values], axes))
    except Exception:
        return None  # verification has said what it found: this is a figure beside it
    spread = spreads(wanted)
    if not all(np.isfinite(spread)) or not any(s > 0 for s in spread):
        return None
    images = len(wanted) * first.batch
    # Of few images the mean is their own: the spread about it is too small by one of them.
    error = relative_error(wanted, have, spread) * (images - 1) / images
    return error if np.isfinite(error) else None


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _enough(runs: list[Outputs], batch: int) -> bool:
    images = len(runs) * batch
    if images < FEWEST:
        return False
    fewest = min(value.size for value in runs[0]) / batch
    return images >= MOST or (images - 1) * fewest >= ENOUGH


def _another(pair: OpenPair, first: ComparedRun, seed: int) -> ComparedRun:
    """A run of the rewritten network on other inputs of the same shapes."""
    shapes = {name: value.shape for name, value in first.feeds.items()}
    feeds = random_inputs(pair.reference, first.batch, pair.size or 1, seed=seed, shapes=shapes)
    return replace(first, feeds=feeds, found=pair.run_rewritten(feeds))
