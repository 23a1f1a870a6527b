"""Random networks at random widths: the narrower equals the masked original, the wider the original."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS, Channels
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.verification.verification import verify
from tests.strategies import DISCONTINUOUS, describe, models

EXAMPLES = int(os.environ.get("CONET_GRAPH_EXAMPLES", "200"))


# The least share of networks whose outputs (or layers) must really have been compared, and found equal. Wider
# ones are refused where every group of channels stays.
COMPARED = {1.0: 0.98, 1.8: 0.85}


def random_widths(channels: Channels, seed: int, widest: float) -> NDArray[np.int64]:
    """Random copies of each class of channels, up to ``widest`` times as many in a group."""
    rng = np.random.default_rng(seed)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            count = len(group.classes)
            wanted = int(rng.integers(1, int(widest * count) + 1))
            if wanted <= count:
                kept = rng.permutation(group.classes)[:wanted]
                copies[group.classes] = np.isin(group.classes, kept)
            else:
                copies[group.classes] = np.bincount(np.arange(wanted) % count)
    return copies


def rewrite_and_verify(model: onnx.ModelProto, seed: int, widest: float) -> str:
    """Rewrite at random widths; what verification says of equality, or that the rewrite was refused."""
    graph = analysed(LoadedModel(model))
    copies = random_widths(graph.result(CHANNELS), seed, widest)
    try:
        plan, layout = planned(graph, copies, "keep", noise=bool(seed % 2), seed=seed)
    except Refused:
        assert widest > 1  # a narrower network can always be laid out
        return "refused"
    report = verify(graph, rewritten(graph, plan, layout), plan)
    assert report.ok, report.failures
    assert report.runs
    assert "skipped" not in report.runs[0]
    return report.equality


def tally(widest: float) -> Counter[str]:
    """What becomes of many random networks: none may fail."""
    found: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(models(exclude=DISCONTINUOUS), st.integers(0, 10**6))
    def run(model: onnx.ModelProto, seed: int) -> None:
        note(describe(model))
        found[rewrite_and_verify(model, seed, widest)] += 1

    run()
    return found


@pytest.mark.parametrize("widest", COMPARED, ids=["narrower", "wider"])
def test_what_is_rewritten_equals_the_file(widest: float) -> None:
    found = tally(widest)
    assert found["passed"] >= COMPARED[widest] * found.total(), found
