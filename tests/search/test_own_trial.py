"""A trial of one's own in a search, from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from conet_graph.analysis.analysis import analyze
from conet_graph.ir.errors import BadUsage
from conet_graph.search.own_trial import search_with

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


def trial(module: nn.Module, epochs: int) -> Iterator[None]:
    """The ten lines of a user: some training, and a yield after each epoch."""
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(epochs):
        module.train()
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(images), labels))
        optimizer.step()
        yield


def test_a_search_with_ten_lines_of_training_and_more_of_it(tmp_path: Path) -> None:
    options = {"epochs": 2, "start_width": 12, "min_width": 4}
    final = search_with(trial, SAMPLE, tmp_path / "run", trials=1, **options)
    assert {g.width for g in analyze(final).groups if g.free} == {12}
    assert search_with(trial, SAMPLE, tmp_path / "run", trials=2, **options) == final
    widths = json.loads((tmp_path / "run" / "widths.json").read_text())
    # Two sizes have 1x1 weights alone, which show no rank so soon: they keep their width.
    assert {name for name, width in widths.items() if width == 12} == {
        "/pointwise/pointwise.0/Conv",
        "/side/side.0/Conv",
        "/merge/merge.0/Conv",
    }
    assert set(widths.values()) == {10, 12}
    with pytest.raises(BadUsage, match="began with epochs 2, not 3"):
        search_with(trial, SAMPLE, tmp_path / "run", epochs=3)
