"""A response surface: what some trainings say about the loss at other widths, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conet_graph.search.rules.exchange import Numbers

# Ratios of signal to noise that are tried: variance of the loss over a usual change, to that of two trainings
# of one network.
RATIOS = np.concatenate([[0.0], np.logspace(-4, 3, 36)])
# What all bends have in common, and how far each is its own: widths give less and less, whichever they are.
COMMON, OWN = 1.0, 0.25
# Of what changes gain so many of its standard errors are taken off.
DOUBTS = 1.0
# The climb to the best changes: its steps, and the first one's length, of the farthest way.
CLIMB, PACE = 200, 0.1
SLIGHT = 1e-9
TINY = 1e-300


@dataclass(frozen=True)
class LossSurface:
    """The loss at changes x of the logarithms of widths, less that at x = 0: linear and squared in each size.

    Attributes:
        effects: expected factors of the features [2 sizes].
        doubts: covariance of the factors [2 sizes, 2 sizes].
        step: a usual change; the features are counted in it.

    """

    effects: Numbers
    doubts: Numbers
    step: float

    def gain(self, changes: Numbers) -> tuple[float, float]:
        """How much lower the loss is after the changes, and the standard error of that."""
        features = _features(changes, self.step)
        variance = float(features @ self.doubts @ features)
        return -float(features @ self.effects), math.sqrt(max(0.0, variance))

    def best(self, allowed: Callable[[Numbers], Numbers], farthest: float) -> Numbers:
        """The allowed changes that gain most, doubts taken off, and go no farther.

        Args:
            allowed: the nearest allowed changes to any [sizes]; shorter ones are allowed, too.
            farthest: the largest root mean square of the changes.

        Returns:
            The changes [sizes]; all 0 where none gains more than it may err.

        """
        sizes = len(self.effects) // 2
        radius = farthest * np.sqrt(sizes)
        here, best, most = np.zeros(sizes), np.zeros(sizes), 0.0
        for count in range(CLIMB):
            pace = radius * PACE * (1 - count / CLIMB)
            uphill = self._uphill(here)
            if not (steep := np.linalg.norm(uphill)):
                break
            ahead = allowed(here + uphill / steep * pace) - here
            if (length := np.linalg.norm(ahead)) < SLIGHT * pace:
                break
            here = allowed(here + ahead / length * pace)
            here *= min(1.0, radius / np.linalg.norm(here))
            gain, error = self.gain(here)
            if gain - DOUBTS * error > most:
                best, most = here, gain - DOUBTS * error
        return best

    def _uphill(self, changes: Numbers) -> Numbers:
        """The gradient of what the changes gain, doubts taken off; at 0 that of the gain."""
        features = _features(changes, self.step)
        error = self.gain(changes)[1]
        doubted = self.doubts @ features / error if error else np.zeros_like(features)
        linear, squared = np.split(-self.effects - DOUBTS * doubted, 2)
        uphill: Numbers = (linear + squared * changes / self.step) / self.step
        return uphill


def fitted(changes: Numbers, losses: Numbers, kinship: Numbers, step: float) -> LossSurface:
    """The surface that some trainings speak for, drawn towards a flat one as far as they are noise.

    Bayesian regression with a free mean: linear effects from N(0, r s K), squared ones from N(0, r s B), B of
    a common part and own ones, noise from N(0, s). All ratios r count as far as they explain the losses (by
    the restricted likelihood), and that all is noise, r = 0, is believed as much as all others before.

    Args:
        changes: of the logarithms of widths in each training [trainings, sizes].
        losses: [trainings], at least two.
        kinship: K, how alike the sizes are [sizes, sizes].
        step: a usual change.

    """
    sizes = len(kinship)
    prior = np.zeros((2 * sizes, 2 * sizes))
    prior[:sizes, :sizes], prior[sizes:, sizes:] = kinship, COMMON + OWN * kinship
    features = _features(changes, step)
    features = features - features.mean(0)
    reach = prior @ features.T
    values, axes = np.linalg.eigh(features @ reach)
    values, parts, free = np.maximum(values, 0.0), axes.T @ (losses - losses.mean()), len(losses) - 1
    spread = 1 + RATIOS[:, None] * values
    noise = np.maximum((parts**2 / spread).sum(1) / free, TINY)
    belief = -(np.log(spread).sum(1) + free * np.log(noise)) / 2
    belief = np.exp(belief - belief.max()) * np.where(RATIOS > 0, 1 / (len(RATIOS) - 1), 1.0)
    effects, doubts, seen = np.zeros(2 * sizes), np.zeros_like(prior), reach @ axes
    for weight, ratio, wide, error in zip(belief / belief.sum(), RATIOS, spread, noise, strict=True):
        share = ratio / wide
        told = seen @ (share * parts)
        effects += weight * told
        doubts += weight * (error * (ratio * prior - seen * (ratio * share) @ seen.T) + np.outer(told, told))
    return LossSurface(effects, doubts - np.outer(effects, effects), step)


def _features(changes: Numbers, step: float) -> Numbers:
    """[..., sizes] to [..., 2 sizes]."""
    counted = changes / step
    return np.concatenate([counted, counted**2 / 2], -1)
