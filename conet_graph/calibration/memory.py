"""How many calibration inputs are held at once: as many as memory is meant to take."""

from __future__ import annotations

from conet_graph.calibration.inputs import Calibration, spread
from conet_graph.calibration.stages import Stages
from conet_graph.ir.graph import Graph
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.widths.rewidth import with_constants

# Bytes of feature maps that are kept at once, of the original and the narrowed network together.
MOST_BYTES = 3 * 2**30
# Runs that are kept nonetheless.
LEAST_FEEDS = 2


def within_memory(graph: Graph, data: Calibration) -> Calibration:
    """The calibration inputs that can be held at once, spread over all of them.

    A network of large maps has many rows in each input, so that fewer inputs tell as much.
    """
    layers = graph.result(LAYERS)
    wanted = [v for layer in layers for v in (layer.op.input(layer.data_slot), layer.op.outputs[0])]
    stages = Stages(
        with_constants(graph, {}), [layer.op.index for layer in layers], data.fit[:1], graph.folder, wanted
    )
    for layer in layers:
        stages.run(stages.stage_of[layer.op.index])
        stages.let_go(layer.op.outputs[0])
        stages.let_go(layer.op.input(layer.data_slot))
    feeds = max(MOST_BYTES // max(2 * stages.peak, 1), LEAST_FEEDS)
    if feeds >= len(data.fit):
        return data
    fit = spread(data.fit, feeds)
    used = sum(len(next(iter(feed.values()))) for feed in [*fit, *data.aside])
    return Calibration(fit, data.aside, used)
