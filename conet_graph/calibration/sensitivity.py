"""How much a layer's error matters: the error of the network's outputs for each unit of it, measured.

A layer's own loss says nothing of what the layers behind it make of it. So the weights of one layer at a
time are replaced by those of the best refit that sees half of its inputs, in the original network, and the
outputs are looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.calibration.elimination import eliminate, without
from conet_graph.calibration.output_error import Judge
from conet_graph.calibration.statistics import Reading
from conet_graph.ir.operators import CONVOLUTIONS, RECURRENT
from conet_graph.passes.channels.units import Ids

# The part of a layer's inputs that is taken out to see what it does.
PART = 0.5


def sensitivities(
    original: onnx.ModelProto,
    found: list[Reading],
    judge: Judge,
    movable: NDArray[np.bool_],
    tick: Callable[[], None] = lambda: None,
) -> list[float]:
    """For each reading, the outputs' error for a loss of one unit of the layer's variance."""
    made: list[float] = []
    for reading in found:
        classes = np.unique(reading.classes)
        classes = classes[movable[classes]]
        error, loss = 0.0, 0.0
        gone = max(int(len(classes) * PART), 1)
        if len(classes) > 1 and reading.weight_name in {t.name for t in original.graph.initializer}:
            taken = eliminate(classes, [(reading, 1.0)])
            assert taken is not None
            loss = float(taken.losses[gone])
            if loss > 0:
                error = judge.error(_changed(original, reading, taken.order[:gone]))
        made.append(error / loss if loss > 0 else float("nan"))
        tick()
    return made


def _changed(original: onnx.ModelProto, reading: Reading, gone: Ids) -> onnx.ModelProto:
    """The original with a layer's weights refitted to do without some classes."""
    matrix = without(reading, gone)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    tensor = next(t for t in model.graph.initializer if t.name == reading.weight_name)
    new = reading.form.weight(reading.fine(matrix) / np.float32(reading.form.gain), tuple(tensor.dims))
    tensor.CopyFrom(numpy_helper.from_array(new.astype(np.float32), tensor.name))
    op = reading.layer.op
    if op.op_type not in RECURRENT:
        shift = reading.shift(matrix).reshape(-1).astype(np.float32)
        if op.op_type in CONVOLUTIONS:
            shift = shift.reshape(-1, *[1] * (len(tensor.dims) - 2))
        elif reading.layer.weight_slot < reading.layer.data_slot:
            shift = shift[:, None]
        model.graph.initializer.append(numpy_helper.from_array(shift, "conet_graph_shift"))
        node = model.graph.node[op.index]
        output, node.output[0] = node.output[0], "conet_graph_before_shift"
        added = helper.make_node("Add", ["conet_graph_before_shift", "conet_graph_shift"], [output])
        model.graph.node.insert(op.index + 1, added)
    return model
