"""How a budget moves between sizes once it is known, or guessed, what each of them is worth."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from conet_graph.search.network import Limits, Network

Numbers = NDArray[np.float64]
# Widths are priced over this share of themselves.
PRICED = 0.1
# A budget may be passed by so much of a share, to first order, before it counts as passed.
SLACK = 1e-9


def prices(network: Network, widths: Mapping[str, int], limits: Limits) -> Numbers:
    """What a size's growth by a factor e costs of each budget (shares of it): [budgets, sizes]."""
    here = shares(network, widths, limits)
    columns = []
    for name, width in widths.items():
        unit = network.grains[name].multiple
        more = width + max(unit, round(PRICED * width / unit) * unit)
        gap = shares(network, {**widths, name: more}, limits) - here
        columns.append(gap / np.log(more / width))
    return np.array(columns).T


def best_moves(worth: Numbers, price: Numbers, most: Numbers) -> Numbers:
    """The changes of the logarithms of widths that gain most within the budgets, to first order.

    That is the worth less what the budgets charge for it: the projection of the worth on what keeps every
    budget. A budget charges something only if it would be passed otherwise.

    Args:
        worth: what is gained when a size's logarithm grows by 1 [sizes].
        price: share of each budget that this takes [budgets, sizes].
        most: the largest change of each size's logarithm, 0 for those that stay [sizes].

    >>> best_moves(np.array([3.0, 1.0]), np.array([[0.5, 0.5]]), np.array([0.2, 0.2])).round(3).tolist()
    [0.2, -0.2]

    """
    moving = most > 0
    changes = np.zeros_like(worth)
    if not moving.any():
        return changes
    net = within_budgets(worth[moving], price[:, moving])
    largest = np.abs(net).max()
    if largest > SLACK * np.abs(worth).max():
        scaled = net / largest * most.max()
        changes[moving] = np.clip(scaled, -most[moving], most[moving])
    return changes


def along_budgets(wished: Numbers, price: Numbers) -> Numbers:
    """The part of some changes that takes nothing from any budget and leaves nothing of it, to first order.

    >>> along_budgets(np.array([1.0, 0.0]), np.array([[0.5, 0.5]])).round(3).tolist()
    [0.5, -0.5]
    """
    rates = np.linalg.lstsq(price @ price.T, price @ wished, rcond=None)[0]
    kept: Numbers = wished - price.T @ rates
    return kept


def within_budgets(wished: Numbers, price: Numbers) -> Numbers:
    """The nearest changes to some wished ones that pass no budget, to first order; any of them may bind.

    >>> within_budgets(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 0.5]])).round(3).tolist()
    [0.5, -0.5]
    """
    budgets = range(len(price))
    for binding in chain.from_iterable(combinations(budgets, count) for count in range(len(price) + 1)):
        charged = price[list(binding)]
        rates = np.linalg.lstsq(charged @ charged.T, charged @ wished, rcond=None)[0]
        net: Numbers = wished - charged.T @ rates
        if (rates >= -SLACK).all() and (price @ net <= SLACK * max(1.0, np.abs(wished).max())).all():
            return net
    return np.zeros_like(wished)


def shares(network: Network, widths: Mapping[str, int], limits: Limits) -> Numbers:
    """The share of each budget that widths take."""
    pairs = zip(network.cost(widths), (limits.parameters, limits.macs), strict=True)
    return np.array([cost / limit for cost, limit in pairs if limit is not None])
