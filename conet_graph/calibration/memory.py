"""How many calibration inputs are held at once: as many as memory is meant to take; and how it is reused."""

from __future__ import annotations

import ctypes

from conet_graph.calibration.inputs import Calibration, spread
from conet_graph.calibration.stages import Stages
from conet_graph.ir.graph import Graph
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.widths.rewidth import with_constants

# Bytes of feature maps that are kept at once, of the original and the narrowed network together.
MOST_BYTES = 3 * 2**30
# Runs that are kept nonetheless.
LEAST_FEEDS = 2

# Parameters of mallopt(3): what of the heap's end is given back at once, what is never part of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def feeds_held(graph: Graph, data: Calibration) -> int:
    """How many calibration runs memory is meant to hold at once, by what one of them needs."""
    layers = graph.result(LAYERS)
    wanted = [v for layer in layers for v in (layer.op.input(layer.data_slot), layer.op.outputs[0])]
    stages = Stages(
        with_constants(graph, {}), [layer.op.index for layer in layers], data.fit[:1], graph.folder, wanted
    )
    for layer in layers:
        stages.run(stages.stage_of[layer.op.index])
        stages.let_go(layer.op.outputs[0])
        stages.let_go(layer.op.input(layer.data_slot))
    return max(MOST_BYTES // max(2 * stages.peak, 1), LEAST_FEEDS)


def within(data: Calibration, feeds: int) -> Calibration:
    """So many of the calibration runs, spread over all of them.

    A network of large maps has many rows in each input, so that fewer inputs tell as much.
    """
    if feeds >= len(data.fit):
        return data
    fit = spread(data.fit, feeds)
    used = sum(len(next(iter(feed.values()))) for feed in [*fit, *data.aside])
    return Calibration(fit, data.aside, used)


def within_memory(graph: Graph, data: Calibration) -> Calibration:
    """The calibration inputs that can be held at once."""
    return within(data, feeds_held(graph, data))


def reuse_memory() -> None:
    """Let this process keep the memory of maps that are done with for the next ones, where glibc manages it.

    It would give that back to the system and ask for it again, page by page: an eighth of the time. For a
    process that does nothing else, as it never gets smaller again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**30)
