"""How many threads train a network on the CPU: one, where a step is too small to be shared out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conet_graph.search.network import Network

# Multiply-accumulates of a forward pass of one batch. Below it threads wait for each other more than they
# work: they gain nothing, and beside other busy programs they made the digits sample ten times slower.
SMALL_STEP = 500_000_000


@contextmanager
def threads_for(network: Network, batch: int) -> Iterator[None]:
    """Train with one thread inside if the file's own network is small."""
    _, macs = network.cost(network.own_widths())
    before = torch.get_num_threads()
    if macs * batch < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
