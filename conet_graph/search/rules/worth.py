"""A rule of our own: one network keeps its weights, and budget moves to the sizes that are worth more."""

from __future__ import annotations

import numpy as np

from conet_graph.search.algorithm import EXPAND, SHRINK, STAY, SizeState
from conet_graph.search.rules.base import Rule, States
from conet_graph.search.rules.exchange import best_moves, prices


class Worth(Rule):
    """After each trial: what does the loss lose when a tenth of a size is masked? Then budget moves.

    The sizes that lose least for what they cost shrink, those that lose most grow, by the best exchange
    within both budgets (`exchange`). Weights are kept: the strongest channels where a size shrinks, exact
    copies with broken symmetry where it grows. A size that turns round halves its step, and stops under
    gamma.
    """

    keeps_weights = True
    needs_budget = True
    weighs = True
    decides_by_test = True

    def after(self, trial: int, states: States) -> States:
        """The best exchange for what this trial's network showed."""
        worths = self.store.worths(trial)
        names = list(states)
        widths = {name: state.width for name, state in states.items()}
        still = [states[name].stopped or name not in worths for name in names]
        steps = [0.0 if stays else np.log1p(states[n].phi) for n, stays in zip(names, still, strict=True)]
        changes = best_moves(
            np.array([worths.get(name, 0.0) for name in names]),
            prices(self.network, widths, self.limits),
            np.array(steps),
        )
        wished = {name: widths[name] * float(np.exp(x)) for name, x in zip(names, changes, strict=True)}
        settings = self.settings.search
        actions = {
            name: _turned(states[name], wished[name] - widths[name], settings.gamma, trial == 0)
            for name in names
        }
        return self.spent(wished, states, actions)


def _turned(state: SizeState, change: float, gamma: float, first: bool) -> SizeState:
    """The state with the new action; one that turns round halves its step, or stops if it is below gamma."""
    action = EXPAND if change > 0 else SHRINK if change < 0 else STAY
    turns = not first and action != STAY and state.action != STAY and action != state.action
    if state.stopped or (turns and state.phi < gamma):
        return SizeState(state.width, STAY, state.phi, True)
    return SizeState(state.width, action or state.action, state.phi / 2 if turns else state.phi, False)
