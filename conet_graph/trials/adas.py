"""AdaS: a learning rate for each layer, from how much its weights have learned in an epoch.

Source: Hosseini & Plataniotis 2020, "AdaS: adaptive scheduling of stochastic gradients". A layer's
knowledge gain G is the mean over both unfoldings of its weight of sum_h (d_h / d_1) / N, with d the shrunken
singular values that EVBMF keeps. After each epoch

    rate <- max(beta rate + zeta v, least rate),     v = G(t) - G(t-1)

with rate 0 before the first update and v the initial rate in it. A convolution's rate holds for its weight
and for what follows it up to the next convolution (its BatchNorm); everything else has the classifier's
rate, which moves by the output gain of the last convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from conet_graph.indicators import layer_indicators

ZETA = 1.0
LEAST_RATE = 1e-20
CLASSIFIER = ""  # no parameter's name


@dataclass(slots=True)
class AdaS:
    """Rates of layers; a layer is called after its weight.

    Attributes:
        initial_rate, beta: as in the formula.
        layers: the convolutions' weights -> the parameters that share their rate; and the classifier's.
        input_first: the weights of transposed convolutions.
        rate: of each layer; until the first epoch is over everything learns at the initial rate.
        gain: of each layer after the last epoch; empty before.

    """

    initial_rate: float
    beta: float
    layers: dict[str, list[str]]
    input_first: frozenset[str] = frozenset()
    rate: dict[str, float] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, initial_rate: float, beta: float) -> AdaS:
        """Sort a module's parameters into layers, in their order."""
        owners = {
            f"{prefix}.weight".lstrip("."): part
            for prefix, part in module.named_modules()
            if isinstance(part, _ConvNd)
        }
        layers: dict[str, list[str]] = {}
        current = CLASSIFIER
        for name, parameter in module.named_parameters():
            if name in owners:
                current = name
            elif sum(side > 1 for side in parameter.shape) > 1:
                # A matrix that is no convolution's: here the classifier begins.
                current = CLASSIFIER
            if parameter.requires_grad:
                layers.setdefault(current, []).append(name)
        transposed = frozenset(n for n, part in owners.items() if isinstance(part, _ConvTransposeNd))
        return cls(initial_rate, beta, layers, transposed)

    def groups(self) -> list[list[str]]:
        """The parameters of each layer."""
        return list(self.layers.values())

    def rates(self, step: int) -> list[float]:
        """The rate of each layer; the step does not matter."""
        return [self.rate.get(layer, self.initial_rate) for layer in self.layers]

    def after_epoch(self, module: nn.Module) -> None:
        """Measure the weights and move the rates."""
        weights = {n: p for n, p in module.named_parameters() if n in self.layers}
        found = layer_indicators(weights, input_first=self.input_first)
        gain = {name: indicators.gain for name, indicators in found.items()}
        # A network without convolutions has nothing to go by.
        gain[CLASSIFIER] = next((found[n].out_gain for n in reversed(found)), 0.0)
        self.update(gain)

    def update(self, gain: Mapping[str, float]) -> None:
        """Move the rates by the gains after an epoch."""
        for layer in self.layers:
            velocity = gain[layer] - self.gain[layer] if self.gain else self.initial_rate
            moved = self.beta * self.rate.get(layer, 0.0) + ZETA * velocity
            self.rate[layer] = max(moved, LEAST_RATE)
        self.gain = dict(gain)

    def state(self) -> dict[str, Any]:
        """Rates and gains."""
        return {"rate": self.rate, "gain": self.gain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self.rate, self.gain = dict(state["rate"]), dict(state["gain"])
