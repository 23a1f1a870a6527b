"""One thread for small networks, the machine's for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conet_graph.ir.load import load_model
from conet_graph.search.network import Network
from conet_graph.search.threads import threads_for

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


@pytest.mark.parametrize(("batch", "given", "expected"), [(32, None, 1), (4096, None, 3), (32, "3", 3)])
def test_threads_follow_the_size_of_a_step(
    batch: int, given: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads_for(Network(load_model(SAMPLE)), batch):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
