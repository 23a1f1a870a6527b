"""How many threads train a network on the CPU: one, where a step is too small to be shared out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conet_graph.search.network import Network

# Multiply-accumulates of a forward pass of one batch. Below it threads wait for each other more than
# they work: alone they gain nothing, and beside other busy programs they made the digits sample ten times slower.
SMALL_STEP = 500_000_000


@contextmanager
def threads_for(network: Network, batch: int) -> Iterator[None]:
    """Train with one thread inside if the file's own network is small; OMP_NUM_THREADS has the last word."""
    _, macs = network.cost(network.own_widths())
    before = torch.get_num_threads()
    if macs * batch < SMALL_STEP and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
