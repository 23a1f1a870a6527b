"""Intermediate values: what to compare where outputs tell nothing, such as a detector that finds nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from conet_graph.ir.check import MOST_AXES
from conet_graph.ir.graph import FLOATS, Graph
from conet_graph.ir.load import load_model
from conet_graph.ir.save import save_model
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.tie_channels import Channels
from conet_graph.passes.widths.relabel import old_positions
from conet_graph.passes.widths.rewidth import lay_out
from conet_graph.verification.inputs import SIZES
from conet_graph.verification.judge import Judge
from conet_graph.verification.pair import Pair
from conet_graph.verification.runtime import open_session

# Elements of all intermediate values that are looked at together.
MOST_ELEMENTS = 2**26


@dataclass
class InsidePair(Pair):
    """A pair that also gives out intermediate values, and the channels of those that are left."""

    inner: set[str] = field(default_factory=set)
    left: dict[str, dict[int, Ids]] = field(default_factory=dict)

    def narrowed(self, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A value of the reference as the rewritten network has it."""
        for axis, index in self.left.get(name, {}).items():
            value = np.take(value, index, axis=axis)
        return value


def opened_inside(graph: Graph, copies: Ids, pair: Pair, judge: Judge) -> InsidePair:
    """The same two networks with the values of unproven layers as further outputs, the deepest first."""
    names: list[str] = []
    room = MOST_ELEMENTS
    for layer in reversed(judge.missing()):
        name = next((o for o in layer.op.outputs if o), "")
        size = _elements(graph, name)
        if size is None or size > room or graph.dtypes.get(name) not in FLOATS or name in graph.outputs:
            continue
        names.append(name)
        room -= size
    reference = _with_outputs(graph, pair.reference_path, names)
    rewritten = _with_outputs(graph, pair.rewritten_path, names)
    return InsidePair(
        open_session(reference, fused=False),
        open_session(rewritten, fused=False),
        reference,
        rewritten,
        pair.size,
        inner=set(names),
        left=_left(graph, copies, names),
    )


def _elements(graph: Graph, name: str) -> int | None:
    shape = graph.shape(name)
    if shape is None:
        return None
    free = [1, *[SIZES[0]] * MOST_AXES]
    return math.prod(d if isinstance(d, int) else f for d, f in zip(shape, free, strict=False))


def _with_outputs(graph: Graph, path: Path, names: list[str]) -> Path:
    """Write a model again, with more outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(load_model(path).proto)
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, graph.dtypes[name], None))
    made = path.with_name(f"inside_{path.name}")
    save_model(model, made, path.parent)
    return made


def _left(graph: Graph, copies: Ids, names: list[str]) -> dict[str, dict[int, Ids]]:
    """For each axis of each value that changes, the old position of each new one."""
    channels: Channels = graph.notes["channels"]
    labels = lay_out(graph, copies).labels
    found: dict[str, dict[int, Ids]] = {}
    for name in names:
        for axis, units in enumerate(channels.units.values.get(name, [])):
            new = labels.values[name][axis]
            if isinstance(units, int) or isinstance(new, int):
                continue
            found.setdefault(name, {})[axis] = old_positions(
                channels.units.classes[units], labels.labels(new)
            )
    return found
