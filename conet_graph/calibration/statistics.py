"""What calibration inputs say about a network: for each layer, the second moments of what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from conet_graph.calibration.forms import Form, form_of
from conet_graph.calibration.gram import Moments, System, shrunk
from conet_graph.calibration.rows import Picks, first_row, most_rows
from conet_graph.calibration.stages import Feeds, Stages
from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import with_constants

# Shares of the inputs whose moments are compared.
PARTS = 8
# Above so many features a layer is looked at channel by channel: a kernel's positions count as one.
MOST_DETAIL = 1536


@dataclass(frozen=True)
class Reading:
    """One layer that reads channels, on the calibration inputs.

    Attributes:
        layer: the layer.
        classes: the class of channels of each feature [b, F]; -1 for one that carries no channels.
        moments: covariances of the features [b, F, F], as far as the inputs are enough to tell them.
        weight: what they are multiplied with [b, F, O].
        spread: the variance of the layer's output, summed over its channels.

    """

    layer: Layer
    classes: Ids
    moments: NDArray[np.float32]
    weight: NDArray[np.float32]
    spread: float


def readings(graph: Graph, feeds: Feeds, tick: Callable[[], None] = lambda: None) -> list[Reading]:
    """Look at every layer that sums over channels by weights that are known."""
    layers = [layer for layer in graph.result(LAYERS) if layer.kind == "conv"]
    stages = Stages(
        with_constants(graph, {}),
        [layer.op.index for layer in graph.result(LAYERS)],
        feeds,
        graph.folder,
        [value for layer in layers for value in (layer.op.input(layer.data_slot), layer.op.outputs[0])],
    )
    found: list[Reading] = []
    for layer in layers:
        stages.run(stages.stage_of[layer.op.index])
        reading = _reading(graph, layer, stages)
        if reading is not None:
            found.append(reading)
        stages.let_go(layer.op.outputs[0])
        stages.let_go(layer.op.input(layer.data_slot))
        tick()
    return found


def _reading(graph: Graph, layer: Layer, stages: Stages) -> Reading | None:
    weight = value_of(graph, layer.op.input(layer.weight_slot))
    classes = graph.result(CHANNELS).layer_axes[layer.op.index][0]
    value, output = layer.op.input(layer.data_slot), layer.op.outputs[0]
    if weight is None or classes is None or value not in stages.values or output not in stages.values:
        return None
    if weight.dtype.kind != "f":
        return None
    form = form_of(graph, layer, weight)
    if form is None:
        return None
    matrix = form.matrix(weight) * np.float32(form.gain)
    per = max(form.per_channel, _run(classes) if form.blocks == 1 and form.per_channel == 1 else 1)
    coarse = matrix.shape[1] > MOST_DETAIL and per > 1
    flat = coarse and form.per_channel == 1
    system, believed = _summed_up(layer, form, stages, per if coarse else 1)
    if coarse:
        matrix = matrix.reshape(form.blocks, -1, per * matrix.shape[2])
        classes, per = classes[:: per if flat else 1], 1
    of_feature = np.repeat(classes.reshape(form.blocks, -1), per if coarse else form.per_channel, axis=1)
    if of_feature.shape != matrix.shape[:2]:
        return None
    spread = float(np.einsum("bfo,bfo->", matrix, system.xx.astype(np.float32) @ matrix))
    return Reading(layer, of_feature, believed, matrix, spread)


def _summed_up(layer: Layer, form: Form, stages: Stages, per: int) -> tuple[System, NDArray[np.float32]]:
    """The moments of what a layer reads, and its covariances as far as they are to be believed.

    Of ``per`` features side by side, if more than one, the middle one speaks for a kernel's positions, and
    each one is a row of its own in a flattened map.
    """
    value, output = layer.op.input(layer.data_slot), layer.op.outputs[0]
    parts: list[Moments] = []
    for k in range(len(stages.feeds)):
        x, shape = stages.values[value][k], stages.values[output][k].shape
        pick = Picks([layer.op.index, k])
        features = form.rows(x, shape, first_row).shape[2] // per
        pick.limit = most_rows(features, form.blocks) // len(stages.feeds) + 1
        rows = form.rows(x, shape, pick)
        if per > 1 and form.per_channel == 1:
            rows = np.ascontiguousarray(np.swapaxes(rows.reshape(1, rows.shape[1], -1, per), 2, 3))
            rows = rows.reshape(1, -1, rows.shape[3])
        elif per > 1:
            rows = rows.reshape(*rows.shape[:2], -1, per)[..., per // 2]
        if len(parts) < PARTS:
            parts.append(Moments(parts[0].about_x, parts[0].about_y) if parts else Moments())
        parts[k % PARTS].add(rows, np.zeros((form.blocks, rows.shape[1], 0), np.float32))
        parts[0].settle()  # the others are about the same point
    system = reduce(Moments.plus, parts).system(True)
    return system, shrunk(parts, system).astype(np.float32)


def _run(classes: Ids) -> int:
    """How many channels of one class lie side by side, where it is the same number everywhere; else 1."""
    cuts = np.flatnonzero(np.diff(classes)) + 1
    lengths = np.diff(np.concatenate([[0], cuts, [len(classes)]]))
    return int(lengths[0]) if len(set(lengths.tolist())) == 1 else 1
