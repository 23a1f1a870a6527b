"""What each size of a trained network is worth: the loss that its weakest tenth keeps away."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from conet_graph.ir.load import LoadedModel
from conet_graph.search.network import Network

# How much of a size is masked.
TENTH = 0.1


def worths(
    trained: LoadedModel,
    network: Network,
    to_module: Callable[[LoadedModel], nn.Module],
    loss: Callable[[nn.Module], float],
) -> dict[str, float]:
    """Size -> the loss that is lost when its weakest tenth goes, for a whole factor e of its width.

    The tenth goes by an exact rewrite: the narrower network computes what the trained one does with those
    channels masked. Sizes that are one step wide are not measured.

    Args:
        trained: the network with its weights.
        network: of the same structure; its sizes are measured.
        to_module: makes a module of a network.
        loss: of a module on images that it was not trained on.

    """
    whole = loss(to_module(trained))
    return {
        size: (loss(to_module(model)) - whole) / math.log(before / after)
        for size, model, before, after in network.narrowed(trained, TENTH)
    }
