from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from conet_graph.indicators import layer_indicators
from conet_graph.trials.adas import CLASSIFIER, LEAST_RATE, AdaS


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6, 4),
        nn.LayerNorm(4),
    )


def test_parameters_share_the_rate_of_the_convolution_before_them() -> None:
    assert AdaS.of(network(), 0.1, 0.8).layers == {
        "0.weight": ["0.weight", "0.bias", "1.weight", "1.bias"],
        "2.weight": ["2.weight", "3.weight", "3.bias"],
        CLASSIFIER: ["5.weight", "5.bias", "6.weight", "6.bias"],
    }


def test_rates_by_hand() -> None:
    adas = AdaS(0.1, 0.8, {"a": ["a"], "b": ["b"], CLASSIFIER: ["c"]})
    assert adas.rates(0) == [0.1, 0.1, 0.1]
    adas.update({"a": 0.30, "b": 0.20, CLASSIFIER: 0.40})
    assert adas.rates(0) == [0.1, 0.1, 0.1]
    # 0.8 * 0.1 + 0.05; 0.8 * 0.1 - 0.15 < 0; 0.8 * 0.1 + 0
    adas.update({"a": 0.35, "b": 0.05, CLASSIFIER: 0.40})
    assert adas.rates(0) == pytest.approx([0.13, LEAST_RATE, 0.08])
    # 0.8 * 0.13 - 0.01; 0.8 * 0 + 0.1; 0.8 * 0.08 + 0.02
    adas.update({"a": 0.34, "b": 0.15, CLASSIFIER: 0.42})
    assert adas.rates(0) == pytest.approx([0.094, 0.1, 0.084])


def test_gains_come_from_the_weights() -> None:
    module = network()
    with torch.no_grad():
        # Two strong directions over small noise: of 8 and of 3 channels.
        random = np.random.default_rng(0)
        strong = random.normal(0, 1, (8, 2)) @ random.normal(0, 1, (2, 27))
        noisy = strong + random.normal(0, 0.01, (8, 27))
        module[0].weight.copy_(torch.from_numpy(noisy.reshape(8, 3, 3, 3)))
    adas = AdaS.of(module, 0.1, 0.8)
    adas.after_epoch(module)
    transposed = module[2].weight.detach().transpose(0, 1)
    expected = layer_indicators({"0.weight": module[0].weight, "2.weight": transposed})
    assert expected["0.weight"].gain > 0.1
    assert adas.gain["0.weight"] == pytest.approx(expected["0.weight"].gain)
    assert adas.gain["2.weight"] == pytest.approx(expected["2.weight"].gain)
    assert adas.gain[CLASSIFIER] == pytest.approx(expected["2.weight"].out_gain)


def test_state_goes_into_a_checkpoint_and_out_again() -> None:
    adas, other = AdaS.of(network(), 0.1, 0.8), AdaS.of(network(), 0.1, 0.8)
    adas.after_epoch(network())
    other.restore(adas.state())
    for one in (adas, other):
        one.update(dict.fromkeys(one.layers, 0.9))
    assert adas.rates(0) == other.rates(0) != [0.1, 0.1, 0.1]


def test_a_network_without_convolutions_keeps_learning_slower() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    adas = AdaS.of(module, 0.1, 0.8)
    adas.after_epoch(module)
    adas.after_epoch(module)
    assert adas.rates(0) == pytest.approx([0.08])
