"""CONetV2's greedy rule (Wang et al., ICMLA 2021, arXiv 2110.06830): widths follow the change of one metric.

Of each layer's two unfoldings QC = arctan2(R, 1 - 1/kappa): high rank and low condition. A trial's metric is
the largest over its epochs, its momentum M <- gamma M + QC, and a size's the mean over who speaks for it.
After the first trial every size grows by 16 channels; later C <- C (1 + 3 (M - M of the trial before)), the
factor between a half and two. Weights are carried from trial to trial.

Where we deviate: the published transfer keeps the leading blocks of an SVD's factors, which changes what the
network computes; ours keeps the strongest channels and copies others exactly. The published code reads the
metrics of lists of layers that it finds per architecture; ours those of the convolutions that touch a size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from conet_graph.indicators.slope import Voice
from conet_graph.search.algorithm import EXPAND, SHRINK, STAY, SizeState
from conet_graph.search.rules.base import Rule, States
from conet_graph.search.run_store import Measured

# The published configuration for ResNets.
GAMMA, FIRST_STEP, SCALE = 0.8, 16, 3.0
# A width changes by these factors at most in a trial.
LEAST, MOST = 0.5, 2.0


def quality(rank: float, condition: float) -> float:
    """QC, from 0 to a quarter turn: what one unfolding's rank (0 to 1) and condition (from 1) say together.

    >>> quality(0.0, 1.0), round(quality(0.5, 2.0), 4), round(quality(1.0, 1.0), 4)
    (0.0, 0.7854, 1.5708)
    """
    return math.atan2(rank, 1 - 1 / condition) if rank > 0 else 0.0


def size_quality(voices: Sequence[Voice], epochs: Sequence[Mapping[str, Measured]]) -> float:
    """A size's metric in one trial: of each voice the largest QC over the epochs, and their mean."""
    of_voices = [
        sum(max(_of(epoch[layer], voice) for epoch in epochs) for layer in voice.layers) / len(voice.layers)
        for voice in voices
    ]
    return sum(of_voices) / len(of_voices)


def next_width(width: int, change: float) -> float:
    """The width before rounding, for the change of the momentum metric.

    >>> next_width(32, 0.1), next_width(32, -0.4), next_width(32, 0.5)
    (41.6, 16.0, 64.0)
    """
    return width * min(max(1 + SCALE * change, LEAST), MOST)


class Conetv2(Rule):
    """The greedy form; it has no stop of its own, and runs all trials."""

    keeps_weights = True

    def after(self, trial: int, states: States) -> States:
        """Every size by the change of its momentum, within the budgets."""
        if trial == 0:
            wished = {name: float(state.width + FIRST_STEP) for name, state in states.items()}
        else:
            now, before = self._momenta(trial), self._momenta(trial - 1)
            wished = {
                name: next_width(state.width, now[name] - before[name]) if name in now else float(state.width)
                for name, state in states.items()
            }
        rounded = self.network.rounded(wished, self.settings.search)
        made = {
            name: SizeState(rounded[name], _sign(rounded[name] - state.width), state.phi, False)
            for name, state in states.items()
        }
        return self.network.within(made, self.limits, self.settings.search)

    def _momenta(self, trial: int) -> dict[str, float]:
        """Size -> its momentum metric after a trial; sizes that nobody speaks for have none."""
        momenta: dict[str, float] = {}
        for number in range(trial + 1):
            epochs = self.store.layers(number)
            for size, voices in self.network.speakers.heard(epochs[-1].keys()).items():
                if voices:
                    momenta[size] = GAMMA * momenta.get(size, 0.0) + size_quality(voices, epochs)
        return momenta


def _of(found: Measured, voice: Voice) -> float:
    if voice.side == "out":
        return quality(found.out_rank, found.out_condition)
    return quality(found.in_rank, found.in_condition)


def _sign(change: int) -> int:
    return EXPAND if change > 0 else SHRINK if change < 0 else STAY
