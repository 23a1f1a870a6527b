"""What layers take of a runtime that computes channels in blocks of 16, at other widths."""

from __future__ import annotations

import numpy as np
import pytest
from rewidth_case import graph_of

from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.block_work import BlockWork
from tests.graphs import GraphBuilder

PIXELS = 64


def work(kernel: int, kept: int, width: int = 32, groups: int = 1) -> float:
    """A pixel's work of a layer on ``width`` channels, ``kept`` of which stay, and of its neighbours."""
    b = GraphBuilder()
    x = b.conv(b.input("x", ["N", 16, 8, 8]), width)
    x = b.conv(x, width if groups > 1 else 16, kernel, group=groups)
    b.output(b.conv(x, 16) if groups > 1 else x)
    graph = graph_of(b.build())
    counts = np.array(
        [kept // g.multiple if g.free else len(g.classes) for g in graph.result(CHANNELS).groups], np.int64
    )
    return BlockWork(graph).at(counts) / PIXELS


@pytest.mark.parametrize(
    ("kernel", "kept", "wanted"),
    [
        (1, 32, 16 * 32 + 32 * 16),
        (1, 24, 16 * 32 + 32 * 16),  # padded to two blocks, in front and behind
        (1, 16, 16 * 16 + 16 * 16),
        (1, 8, 16 * 16 + 16 * 24),  # less than a block in front of a 1x1 layer is laid out anew
        (3, 24, 16 * 32 + 9 * 16 * 32),
        (3, 8, 16 * 16 + 9 * 16 * 8),  # windows read what is there
    ],
)
def test_dense_layers(kernel: int, kept: int, wanted: int) -> None:
    assert work(kernel, kept) == wanted


@pytest.mark.parametrize(("kept", "wanted"), [(32, 512 + 9 * 4 * 32 + 512), (24, 512 + 9 * 4 * 32 + 512)])
def test_depthwise_layers(kept: int, wanted: int) -> None:
    assert work(3, kept, groups=32) == wanted


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [
        (32, 512 + 9 * 32 * 16 + 512),  # two groups of a block each
        (16, 256 + 9 * 2 * 16 * 16 + 256),  # groups of half a block are computed one by one
    ],
)
def test_grouped_layers(kept: int, wanted: int) -> None:
    assert work(3, kept, groups=2) == wanted
