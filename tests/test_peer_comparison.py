"""How the benchmarks judge a pruned network: by the channels that its weights say it kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PEERS))
    for name in ("weight_match", "masked_torch"):
        sys.modules.pop(name, None)


def weight(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.usefixtures("peers")
def test_kept_channels_are_read_off_the_values() -> None:
    from weight_match import kept_channels

    old = weight(8, 6, 3, 3)
    found = kept_channels(old, old[[1, 4, 5]][:, [0, 2]])
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([1, 4, 5], [0, 2])
    depthwise = weight(8, 1, 3, 3)
    found = kept_channels(depthwise, depthwise[[2, 7]], groups=8)
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([2, 7], [2, 7])


@pytest.mark.usefixtures("peers")
def test_a_changed_value_is_no_part_of_the_old_weight() -> None:
    from weight_match import kept_channels

    old = weight(8, 6, 3, 3)
    new = old[:4].copy()
    new[1, 2, 0, 0] += 1
    assert kept_channels(old, new) is None


def two_convolutions(outputs: list[int], inputs: list[int]) -> tuple[Any, Any]:
    """A network, and what a pruner leaves of it that drops ``outputs`` here and ``inputs`` there."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    pruned = nn.Sequential(nn.Conv2d(3, len(outputs), 3), nn.ReLU(), nn.Conv2d(len(inputs), 4, 3))
    pruned[0].weight.data = original[0].weight.data[outputs]
    pruned[0].bias.data = original[0].bias.data[outputs]
    pruned[2].weight.data = original[2].weight.data[:, inputs]
    pruned[2].bias.data = original[2].bias.data.clone()
    return original, pruned


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize(("inputs", "equal"), [([0, 2, 5], True), ([0, 2, 4], False)])
def test_a_network_cut_at_other_channels_differs(inputs: list[int], equal: bool) -> None:
    import torch
    from masked_torch import difference

    found, why = difference(*two_convolutions([0, 2, 5], inputs), torch.rand(2, 3, 8, 8))
    assert why == ""
    assert found is not None
    assert (found < 1e-9) == equal
