"""One thread for small networks, the machine's for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conet_graph.ir.load import load_model
from conet_graph.search.network import Network
from conet_graph.search.threads import threads_for

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


@pytest.mark.parametrize(("batch", "expected"), [(32, 1), (4096, 3)])
def test_threads_follow_the_size_of_a_step(batch: int, expected: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads_for(Network(load_model(SAMPLE)), batch):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
