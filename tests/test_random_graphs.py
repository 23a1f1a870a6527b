"""Random networks at random widths: the narrower equals the masked original, the wider the original."""

from __future__ import annotations

import os

import numpy as np
import onnx
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.verification.verification import verify
from tests.strategies import DISCONTINUOUS, describe, models

EXAMPLES = int(os.environ.get("CONET_GRAPH_EXAMPLES", "200"))


def rewrite_and_verify(model: onnx.ModelProto, seed: int, widest: float) -> bool:
    """Rewrite at random widths; returns whether the rewrite was not refused."""
    graph = analysed(LoadedModel(model))
    channels = graph.result(CHANNELS)
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
    try:
        plan, layout = planned(graph, copies, "keep", noise=bool(seed % 2), seed=seed)
    except Refused:
        assert widest > 1  # a narrower network can always be laid out
        return False
    report = verify(graph, rewritten(graph, plan, layout), plan)
    assert report.ok, report.failures
    assert report.runs
    assert "skipped" not in report.runs[0]
    return True


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=DISCONTINUOUS), st.integers(0, 10**6))
def test_narrower_equals_the_masked_original(model: onnx.ModelProto, seed: int) -> None:
    note(describe(model))
    rewrite_and_verify(model, seed, 1.0)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=DISCONTINUOUS), st.integers(0, 10**6))
def test_wider_equals_the_original(model: onnx.ModelProto, seed: int) -> None:
    note(describe(model))
    rewrite_and_verify(model, seed, 1.8)
