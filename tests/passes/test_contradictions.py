"""Operators whose numbers make no sense freeze what they touch; sound networks have none of these."""

from __future__ import annotations

import random

import onnx
import pytest

from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.channels.units import CONTRADICTION
from conet_graph.passes.tie_channels import CHANNELS
from tests.fuzz.seed_files import SEEDS, seed_model
from tests.fuzz.sources import random_network


def whys(data: bytes) -> list[str]:
    """Why operators of a network were not understood."""
    graph = analysed(LoadedModel(onnx.ModelProto.FromString(data)))
    return [why for _, why, _ in graph.result(CHANNELS).units.unsupported]


def test_sound_networks_contradict_themselves_nowhere() -> None:
    rng = random.Random(1)
    for _ in range(60):
        assert CONTRADICTION not in whys(random_network(rng))


@pytest.mark.parametrize("name", ["transpose_beyond_rank", "slice_step_zero", "axis_beyond_rank"])
def test_a_contradiction_freezes_what_it_touches(name: str) -> None:
    path = next(p for p in SEEDS if p.stem == name)
    assert CONTRADICTION in whys(seed_model(path))
