"""How well predicted losses order networks of equal MACs: rank correlation with the outputs' measured error.

    python benchmarks/predicted_losses.py net.onnx --calibrate images.npz

Networks of many different widths, all with the same share of the MACs, are refitted quickly, and the error of
their outputs is measured on inputs kept aside. It is compared with the sum of the groups' losses, as the
ranking's curves say and as they are once they are scaled by what a step costs (docs/CALIBRATION.md).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.allocation import Trials, neighbours, sharpened
from conet_graph.calibration.importance import knowledge_of
from conet_graph.calibration.inputs import open_calibration, some
from conet_graph.calibration.narrowing import MOST_SETS, TRIED_ON
from conet_graph.calibration.output_error import Judge, judged_values
from conet_graph.calibration.statistics import readings
from conet_graph.costs.cost_model import costs_at
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import with_constants
from conet_graph.rewriting.alignment import alignment_of, step_ladder
from conet_graph.rewriting.knowledge import Knowledge
from conet_graph.rewriting.targets import WidthRequest, choose_copies

# Logarithms of the factors by which curves are scaled at random, so that widths differ.
SPREAD = 1.5


def predicted(graph: Graph, known: Knowledge, copies: NDArray[np.int64]) -> float:
    """The sum of the losses of all groups."""
    groups = enumerate(graph.result(CHANNELS).groups)
    return sum(known.loss(k, int((copies[g.classes] == 0).sum())) for k, g in groups if g.free)


def correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--networks", type=int, default=20)
    asked = parser.parse_args()
    graph = analysed(load_model(asked.model))
    data = open_calibration(asked.calibrate, graph, asked.samples)
    judge = Judge(graph, with_constants(graph, {}), judged_values(graph), data.aside)
    trials = Trials(graph, some(data.fit, TRIED_ON[1]), judge)
    known = knowledge_of(graph, readings(graph, data.fit), "reconstruction", costs_at(graph, data.sizes))
    steps = step_ladder(graph, alignment_of(None, None))[0]
    sets = neighbours(list(known.losses), MOST_SETS)
    random = np.random.default_rng(0)
    for macs in asked.macs:
        request = WidthRequest(macs=macs, knowledge=known)
        measured = sharpened(known, choose_copies(graph, request), steps, sets, trials)[0]
        found: dict[bytes, tuple[float, float, float]] = {}
        for _ in range(asked.networks):
            bent = {k: c * np.exp(SPREAD * random.standard_normal()) for k, c in known.losses.items()}
            copies = choose_copies(graph, replace(request, knowledge=replace(known, losses=bent)))
            sums = (predicted(graph, curves, copies) for curves in (known, measured))
            found[copies.tobytes()] = (trials.error(copies), *sums)  # type: ignore[assignment]
        errors, plain, scaled = (list(column) for column in zip(*found.values(), strict=True))
        row = {
            "network": asked.model.stem,
            "macs": macs,
            "networks": len(errors),
            "errors": [round(min(errors), 4), round(max(errors), 4)],
            "curves": round(correlation(errors, plain), 2),
            "measured curves": round(correlation(errors, scaled), 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
