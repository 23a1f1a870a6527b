"""What the BatchNorms begin with that are put back into a network from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import conet_graph as cg
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.trials.data import open_data
from conet_graph.trials.networks import FileNetwork

SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"
CPU = torch.device("cpu")
DATA = open_data("digits")


@pytest.fixture(name="folded")
def _folded() -> LoadedModel:
    return fold_batchnorm(cg.load(SAMPLE))


def loss(network: FileNetwork, *, training: bool = False) -> float:
    images, labels = next(DATA.test(360, device=CPU))
    with torch.no_grad():
        return float(cross_entropy(network.module.train(training)(images), labels))


def test_a_trained_network_begins_as_itself_in_training_too(folded: LoadedModel) -> None:
    network = FileNetwork.of(folded)
    before = loss(network)
    network.begin_nearest(DATA, 64, CPU)
    assert loss(network) == pytest.approx(before, rel=1e-3)
    assert before < 0.1
    assert loss(network, training=True) < 0.1 < loss(FileNetwork.of(folded), training=True)


def test_a_narrowed_network_begins_with_every_channel_of_usual_size(folded: LoadedModel) -> None:
    network = FileNetwork.of(cg.rewrite(folded, cg.plan(folded, macs=0.5)))
    before = loss(network)
    network.begin_nearest(DATA, 64, CPU)
    assert loss(network) < 0.6 * before


@pytest.mark.parametrize("fresh", [True, False])
def test_new_weights_and_batchnorms_of_the_file_stay_as_they_are(folded: LoadedModel, fresh: bool) -> None:
    network = FileNetwork.of(folded, fresh=True) if fresh else FileNetwork.of(cg.load(SAMPLE))
    state = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    network.begin_nearest(DATA, 64, CPU)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.module.state_dict().items())
