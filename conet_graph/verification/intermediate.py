"""Intermediate values: what to compare where outputs tell nothing, such as a detector that finds nothing.

A network that lost half of its trained channels is often dead inside, on every input: its layers read zeros.
So the layers in question get noise added to what they read, the same in both networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from conet_graph.dead_channels.find import dead_channels
from conet_graph.dead_channels.stand_ins import StandIn, SumPlace
from conet_graph.ir.check import MOST_AXES
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.load import load_model
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.save import save_scratch
from conet_graph.passes.channels.units import Axis, Ids
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.relabel import Labels, old_positions
from conet_graph.passes.widths.rewidth import lay_out
from conet_graph.passes.widths.sharing import QUANTISERS
from conet_graph.verification.inputs import SIZES
from conet_graph.verification.pair import Lazily, Left, OpenPair, give_out, session_of
from conet_graph.verification.reference import PREFIX, reference
from conet_graph.verification.runtime import open_session

# Elements of all intermediate values that are looked at together, and of the noise of one layer.
MOST_ELEMENTS = 2**26
MOST_NOISE = 2**20
# Elements of a value that it costs next to nothing to compare.
SMALL = 2**16
_NOISY_TYPES = frozenset([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])


@dataclass(frozen=True)
class Noise:
    """An input of noise, added to what an operator reads; sizes that the file does not say are 1."""

    name: str
    op: Operator
    slot: int
    dtype: int
    old: list[int]
    new: list[int]


def small_results(graph: Graph, layers: list[Layer]) -> list[str]:
    """The results of layers that are small enough to be compared each time."""
    names = [layer.op.outputs[0] for layer in layers]
    return [n for n in names if n in graph.dtypes and (_elements(graph, n) or SMALL + 1) <= SMALL]


def watched(graph: Graph, copies: Ids, *names: list[str]) -> Left:
    """What is left, at new widths, of values inside that are compared each time."""
    every = dict.fromkeys(name for some in names for name in some)
    if not every:
        return {}
    labels = lay_out(graph, copies, keeps_function=False).labels
    return {name: _left(graph, labels, name) for name in every}


def silenced(graph: Graph, copies: Ids, pair: OpenPair, instead: Mapping[SumPlace, StandIn]) -> OpenPair:
    """The same pair with all dropped channels silent in the reference, those too that change nothing.

    ``instead``: what stands for those that left something behind in other weights.
    """
    made = reference(graph, copies, instead)
    give_out(graph, made.model, pair.left)
    file = Lazily(made, pair.reference_file.place.with_name("silenced.onnx"), graph.folder)
    return replace(pair, reference=session_of(file), reference_file=file)


def opened_inside(
    graph: Graph, copies: Ids, pair: OpenPair, layers: list[Layer], *, noisy: bool = True
) -> OpenPair:
    """The same two networks with layers' values as further outputs, deepest first.

    ``noisy``: with noise before the layers. Without, values in which channels stay that change nothing in
    the original are left out: they may hold anything in the new network.
    """
    labels = lay_out(graph, copies, keeps_function=False).labels
    idle = np.zeros(len(copies), np.bool_)
    if not noisy:
        idle = dead_channels(graph, masked=True).removable() & (copies != 0)
    names: list[str] = []
    noises: list[Noise] = []
    left: Left = dict(pair.left)
    room = MOST_ELEMENTS
    for layer in reversed(layers):
        name = next((o for o in layer.op.outputs if o), "")
        size = _elements(graph, name)
        if size is None or size > room or name not in graph.dtypes or _holds(graph, name, idle):
            continue
        room -= size
        if name not in graph.outputs and name not in left:
            names.append(name)
            left[name] = _left(graph, labels, name)
        if not noisy:
            continue
        op, slot = _where(graph, layer)
        if any((op.index, slot) == (n.op.index, n.slot) for n in noises):
            continue
        noise = _noise(graph, labels, op, slot, len(noises))
        if noise is not None:
            noises.append(noise)
            kept = _left(graph, labels, op.input(slot))
            left[noise.name] = {axis: index for axis, index in kept.items() if noise.old[axis] > 1}
    made, place = pair.reference_file.made, pair.reference_file.place
    model = _opened_up(graph, made.model, names, [(n, n.old) for n in noises])
    reference = Lazily(replace(made, model=model), place.with_name(f"inside_{place.name}"), graph.folder)
    rewritten = pair.rewritten_file.with_name(f"inside_{pair.rewritten_file.name}")
    model = load_model(pair.rewritten_file).proto
    save_scratch(_opened_up(graph, model, names, [(n, n.new) for n in noises]), rewritten, rewritten.parent)
    return OpenPair(
        session_of(reference),
        open_session(rewritten, fused=False),
        reference,
        rewritten,
        pair.size,
        pair.shapes,
        left,
        frozenset(n.op.index for n in noises),
    )


def _elements(graph: Graph, name: str) -> int | None:
    shape = graph.shape(name)
    if shape is None:
        return None
    free = [1, *[SIZES[0]] * MOST_AXES]
    return math.prod(d if isinstance(d, int) else f for d, f in zip(shape, free, strict=False))


def _holds(graph: Graph, name: str, classes: NDArray[np.bool_]) -> bool:
    """Whether any axis of a value holds one of some classes."""
    units = graph.result(CHANNELS).units
    axes = (axis for axis in units.values.get(name, []) if not isinstance(axis, int))
    return any(classes[units.classes[axis]].any() for axis in axes)


def _axes(graph: Graph, labels: Labels, name: str) -> list[tuple[Axis, Axis]]:
    """Each axis of a value: the units on it as it is, and at the new widths."""
    channels = graph.result(CHANNELS)
    return list(zip(channels.units.values.get(name, []), labels.values.get(name, []), strict=True))


def _left(graph: Graph, labels: Labels, name: str) -> dict[int, Ids]:
    """For each axis of a value that carries channels, the old position of each new one."""
    found: dict[int, Ids] = {}
    for axis, (old, new) in enumerate(_axes(graph, labels, name)):
        if not isinstance(old, int) and not isinstance(new, int):
            found[axis] = old_positions(labels.units.classes[old], labels.labels(new))
    return found


def _where(graph: Graph, layer: Layer) -> tuple[Operator, int]:
    """The operator and slot to put a layer's noise at: before what it reads is made whole numbers."""
    op, slot = layer.op, layer.data_slot
    producer = graph.producers.get(op.input(slot))
    if producer is not None and producer.op_type in QUANTISERS:
        return producer, 0
    return op, slot


def _noise(graph: Graph, labels: Labels, op: Operator, slot: int, number: int) -> Noise | None:
    """Noise for an operator's input; None where it is no float, or carries nothing that could be followed."""
    value = op.input(slot)
    shape, dtype = graph.shape(value), graph.dtypes.get(value)
    if not shape or dtype not in _NOISY_TYPES or value in graph.constants:
        return None
    axes = _axes(graph, labels, value)
    if len(axes) != len(shape):
        return None
    old = [d if isinstance(d, int) else 1 for d in shape]
    if math.prod(old) > MOST_NOISE:
        old = [1 if isinstance(units, int) else d for d, (units, _) in zip(old, axes, strict=True)]
    if graph.opset < 7 and old != list(shape):
        return None  # it did not broadcast so then
    new = [
        d if isinstance(units, int) or d == 1 else len(units) for d, (_, units) in zip(old, axes, strict=True)
    ]
    return Noise(f"conet_graph_noise_{number}", op, slot, dtype, old, new)


def _opened_up(
    graph: Graph, original: onnx.ModelProto, names: list[str], noises: list[tuple[Noise, list[int]]]
) -> onnx.ModelProto:
    """A copy of a model with more outputs, and noise as more inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    model.ir_version = max(model.ir_version, FIRST_FREE_IR)
    producers = {value: node for node in model.graph.node for value in node.output if value}
    before: dict[str, onnx.NodeProto] = {}
    for noise, shape in noises:
        node, slot = producers[next(o for o in noise.op.outputs if o)], noise.slot
        while node.input[slot].startswith(PREFIX):
            node, slot = producers[node.input[slot]], 0  # what is masked must be masked with its noise
        entry = helper.make_tensor_value_info(noise.name, noise.dtype, shape)
        model.graph.input.append(entry)
        noisy = f"{noise.name}_added"
        before[node.output[0]] = helper.make_node("Add", [node.input[slot], noise.name], [noisy])
        node.input[slot] = noisy
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        added = before.get(node.output[0])
        model.graph.node.extend([node] if added is None else [added, node])
    give_out(graph, model, names)
    return model
