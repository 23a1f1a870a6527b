"""The rewrite pass: from copies of each class of channels to a new model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.errors import Refused, shown
from conet_graph.ir.graph import Graph, Operator, read_inside, set_attribute
from conet_graph.ir.operators import WEIGHTED, weight_axes
from conet_graph.ir.overridable import drop_inputs
from conet_graph.ir.tensors import is_packed
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.passes.tie_channels import CHANNELS, walk
from conet_graph.passes.widths.evaluated import OUTSIDE, drop_dead_code, ends_behind
from conet_graph.passes.widths.fresh import Fresh, draw_weights
from conet_graph.passes.widths.relabel import COPIES, CannotHave, Labels, old_positions
from conet_graph.passes.widths.sharing import Use

# How often a layout may be corrected: one round a chain of constants behind a weight.
ROUNDS = 32
# Bytes of a weight that are gathered at once.
PIECE = 2**24


Numbers = np.ndarray[Any, np.dtype[np.float64]]
# Into which position of an axis a slice is added, which one, and times what.
Merge = tuple[int, int, float]


@dataclass
class TensorPlan:
    """Where a tensor of the rewritten file comes from.

    Add slices to others (``merge``: along an axis, into which position, from which, times what), gather
    along ``axes``, multiply ``scale``, add ``offset`` (of a vector, a number for each new position).
    """

    source: str
    axes: dict[int, Ids] = field(default_factory=dict)
    scale: dict[int, Numbers] = field(default_factory=dict)
    merge: dict[int, list[Merge]] = field(default_factory=dict)
    offset: Numbers | None = None


@dataclass
class Layout:
    """A network's new layout: what changes in each tensor, number, attribute."""

    labels: Labels
    tensors: dict[str, TensorPlan]
    inexact: list[str]
    # Classes that are dropped without a change of the outputs.
    lossless: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    # Inputs that read a constant of their own: others share it out differently, or the file computes it.
    untied: dict[Use, str] = field(default_factory=dict)


def lay_out(graph: Graph, copies: Ids, seed: int | None = None, keeps_function: bool = True) -> Layout:
    """Lay out the network for ``copies`` of each class of channels.

    Args:
        graph: an analysed graph.
        copies: how often each class appears: 0 drops it, 1 keeps it, more widens.
        seed: shares of copied channels are equal without it, random (summing to one) with it.
        keeps_function: whether copied channels must leave the function as it is; fresh weights need not.

    Raises:
        CannotHave: the widths cannot be had together; it names the classes in the way.

    """
    channels = graph.result(CHANNELS)
    hints: dict[tuple[str, int], Ids] = {}
    for _ in range(ROUNDS):
        labels = Labels(channels.units, copies, hints, keeps_function)
        walk(labels)
        if not labels.new_hints:
            labels.finish()
            return _settled(graph, labels, seed)
        hints = {**hints, **labels.new_hints}
    found = distinct(np.concatenate([hint // COPIES for hint in labels.new_hints.values()]))
    told = "The new widths need the channels of one tensor in two different orders."
    raise CannotHave(told, found[copies[found] != 1])


def _settled(graph: Graph, labels: Labels, seed: int | None) -> Layout:
    """What a finished layout changes in the tensors."""
    plans = _gathers(graph, labels)
    untied: dict[Use, str] = {}
    for name, by_use in _scaled(graph, labels).items():
        # The first demand keeps the name; others read a copy that is theirs alone.
        names: dict[frozenset[tuple[int, bool]], str] = {}
        gathered = plans.get(name, TensorPlan(graph.constants[name].source))
        for use, demand in by_use.items():
            if demand not in names:
                names[demand] = name if not names else _free_name(graph, name, plans)
                scale = {axis: _shares(labels, name, axis, whole, seed) for axis, whole in sorted(demand)}
                plans[names[demand]] = TensorPlan(gathered.source, gathered.axes, scale)
            if names[demand] != name:
                untied[use] = names[demand]
    kept = {name: plan for name, plan in plans.items() if plan.axes or plan.scale or name in untied.values()}
    if labels.evaluated:
        _hold_numbers(graph, labels, seed, kept, untied)
    return Layout(labels, kept, list(labels.inexact), untied=untied)


def _hold_numbers(
    graph: Graph, labels: Labels, seed: int | None, plans: dict[str, TensorPlan], untied: dict[Use, str]
) -> None:
    """Plan the constants that take the place of what the file computes, and drop those only read by that."""
    held: dict[tuple[str, frozenset[tuple[int, bool]]], str] = {}
    for index, slot in sorted(labels.evaluated):
        value = graph.operators[index].input(slot)
        demand = frozenset((share.axis, share.whole) for share in labels.shared_out.get((index, slot), ()))
        if (value, demand) not in held:
            name = held[value, demand] = _free_name(graph, value, plans)
            scale = {axis: _shares(labels, value, axis, whole, seed) for axis, whole in sorted(demand)}
            plans[name] = TensorPlan(value, _gather(labels, value), scale)
        untied[index, slot] = held[value, demand]
    model = onnx.ModelProto()
    model.graph.CopyFrom(graph.skeleton.graph)
    _read_untied(model, untied)
    drop_dead_code(model)
    read = {name for node in model.graph.node for name in (*node.input, *read_inside(node))}
    for name in [n for n in plans if n in graph.constants and n not in read | set(graph.outputs)]:
        del plans[name]


def _gather(labels: Labels, value: str) -> dict[int, Ids]:
    """Where the positions of the axes of a value come from."""
    found: dict[int, Ids] = {}
    for axis, tokens in enumerate(labels.axes(value)):
        if not isinstance(tokens, int):
            found[axis] = labels.origin(value, axis, tokens)
    return found


def _read_untied(model: onnx.ModelProto, untied: dict[Use, str]) -> None:
    for (index, slot), name in untied.items():
        model.graph.node[index].input[slot] = name


def _free_name(graph: Graph, name: str, taken: dict[str, TensorPlan]) -> str:
    number = 2
    values = set(graph.shapes)
    while (new := f"{name}_untied{number}") in graph.constants or new in taken or new in values:
        number += 1
    return new


def _scaled(graph: Graph, labels: Labels) -> dict[str, dict[Use, frozenset[tuple[int, bool]]]]:
    """Of each constant that shares itself out: the axes along which each of its readers wants that.

    Raises:
        CannotHave: what one operator makes of a constant is wanted shared out in two ways.

    """
    wanted: dict[str, dict[Use, dict[Use, set[tuple[int, bool]]]]] = {}
    for end, found in labels.shared_out.items():
        for share in found if end not in labels.evaluated else ():
            ends = wanted.setdefault(share.name, {}).setdefault(share.use, {})
            ends.setdefault(end, set()).add((share.axis, share.whole))
    scaled: dict[str, dict[Use, frozenset[tuple[int, bool]]]] = {}
    for name, by_use in wanted.items():
        fixed = name in graph.captured or name in graph.outputs
        scaled[name] = {OUTSIDE: frozenset()} if fixed else {}
        for op, slot in graph.consumers[name]:
            by_end = by_use.get((op.index, slot), {})
            demands = {frozenset(by_end.get(end, ())) for end in ends_behind(graph, op, slot)}
            if len(demands) > 1:
                why = f"At these widths {shown(name)} would have to be shared out in two ways."
                axes = [axis for demand in demands for axis, _ in demand]
                classes = distinct(np.concatenate([labels.classes_on(name, axis) for axis in axes]))
                raise CannotHave(why, classes[labels.copies[classes] != 1])
            scaled[name][op.index, slot] = demands.pop()
    return scaled


def _gathers(graph: Graph, labels: Labels) -> dict[str, TensorPlan]:
    """Where the positions of each constant come from; all axes of a constant, changed or not."""
    plans: dict[str, TensorPlan] = {}
    # Most axes carry the channels of others (a convolution's, its BatchNorm's): each pair is followed once.
    followed: dict[tuple[int, int], Ids | None] = {}
    for (name, axis), tokens in labels.stored.items():
        if isinstance(tokens, int) or name not in graph.constants:
            continue
        plan = plans.setdefault(name, TensorPlan(graph.constants[name].source))
        key = id(labels.units.stored.get((name, axis))), id(tokens)
        if key not in followed:
            old = labels.old_classes(name, axis)
            index = old_positions(old, labels.labels(tokens))
            stays = len(index) == len(old) and bool((index == np.arange(len(old))).all())
            followed[key] = None if stays else index
        moved = followed[key]
        if moved is not None:
            plan.axes[axis] = moved
    return plans


def _shares(layout: Labels, name: str, axis: int, whole: bool, seed: int | None) -> Numbers:
    """What part of its channel's weight each copy gets; the parts of a channel sum to one."""
    units = layout.axis(name, axis)
    if isinstance(units, int):
        return np.ones(1)
    labels = layout.labels(units)
    classes, copy = labels // COPIES, labels % COPIES
    times = layout.copies[classes]
    if whole:
        # What is rounded to whole steps cannot be shared out: the first copy speaks for all.
        return np.where(copy == 0, 1.0, 0.0)
    if seed is None:
        return 1.0 / times
    count = int(layout.copies.max(initial=1))
    draws = np.random.default_rng(seed).uniform(0.5, 1.5, (len(layout.copies), count))
    draws[np.arange(count) >= layout.copies[:, None]] = 0.0
    draws /= np.maximum(draws.sum(axis=1, keepdims=True), 1e-12)
    return draws[classes, copy]


def rewrite_model(graph: Graph, layout: Layout, fresh: Fresh | None = None) -> onnx.ModelProto:
    """Write the model of a layout; ``fresh`` gives new weights in place of the old ones."""
    labels = layout.labels
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    for index, attributes in labels.attributes.items():
        for name, value in attributes.items():
            set_attribute(model.graph.node[index], name, value)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    origin = _origins(graph, layout)
    for name, plan in layout.tensors.items():
        old = origin.get(name, name)
        zero = _zero_point(graph, old) if plan.scale and old in graph.constants else None
        arrays[name] = apply_plan(_whole(graph, old), plan, zero)
    for name, numbers in labels.numbers_changed.items():
        array = np.array(graph.array(name))
        array.reshape(-1)[list(numbers)] = list(numbers.values())
        arrays[name] = array
    if fresh is not None:
        draw_weights(graph, labels, arrays, fresh)
    changed = set(arrays)
    for name, old in origin.items():
        tensor = model.graph.initializer.add()
        held = graph.constants.get(old)
        kind = helper.np_dtype_to_tensor_dtype(arrays[name].dtype) if held is None else held.tensor.data_type
        _set_value(tensor, name, kind, arrays.pop(name))
    _read_untied(model, layout.untied)
    _write_constants(graph, model, arrays)
    for (index, slot), numbers_ in labels.numbers_replaced.items():
        _replace_input(model, index, slot, numbers_)
    _update_declared(model, labels, changed)
    if labels.evaluated:
        drop_dead_code(model)
    return model


def _whole(graph: Graph, name: str) -> np.ndarray[Any, Any]:
    """The numbers of a constant, or of what the file computes from constants.

    Raises:
        Refused: they cannot be computed.

    """
    array = value_of(graph, name)
    if array is None:
        raise Refused(f"The weight {shown(name)} cannot be computed from the file's constants.")
    return array


def _origins(graph: Graph, layout: Layout) -> dict[str, str]:
    """Of each untied copy the value that it copies."""
    return {name: graph.operators[index].input(slot) for (index, slot), name in layout.untied.items()}


def apply_plan(
    array: np.ndarray[Any, Any], plan: TensorPlan, zero: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """Merge, gather, scale (about the zero point of a quantised weight), add: the whole meaning of a plan."""
    if zero is not None:
        zero = _taken(zero, {axis: index for axis, index in plan.axes.items() if zero.shape[axis] > 1})
    array = _gathered(_merged(array, plan.merge), plan.axes)
    for axis, factors in plan.scale.items():
        shape = [1] * array.ndim
        shape[axis] = -1
        factors = factors.reshape(shape)
        if zero is None or not zero.any():
            array = (array * factors).astype(array.dtype)
        else:
            # Factors of a quantised weight are 0 or 1: keep it, or put its zero point there.
            array = np.where(factors != 0, array, zero.astype(array.dtype))
    if plan.offset is not None:
        array = (array.astype(np.float64) + plan.offset).astype(array.dtype)
    return array


def _merged(array: np.ndarray[Any, Any], merge: dict[int, list[Merge]]) -> np.ndarray[Any, Any]:
    """Add slices to others, all as they were before."""
    if not merge:
        return array
    made = array.astype(np.float64)
    for axis, entries in merge.items():
        slices, wholes = np.moveaxis(made, axis, 0), np.moveaxis(array, axis, 0)
        for into, origin, factor in entries:
            slices[into] += factor * wholes[origin].astype(np.float64)
    return made.astype(array.dtype)


def _gathered(array: np.ndarray[Any, Any], axes: dict[int, Ids]) -> np.ndarray[Any, Any]:
    """Gather along axes; a few rows at a time, so that a weight is not held half gathered."""
    others = {axis: index for axis, index in axes.items() if axis != 0}
    if not others or 0 not in axes:
        return _taken(array, axes)
    rows = axes[0]
    shape = [len(axes[axis]) if axis in axes else length for axis, length in enumerate(array.shape)]
    gathered = np.empty(shape, array.dtype)
    step = max(1, PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        gathered[part] = _taken(np.take(array, rows[part], axis=0), others)
    return gathered


def _taken(array: np.ndarray[Any, Any], axes: dict[int, Ids]) -> np.ndarray[Any, Any]:
    for axis, index in axes.items():
        array = np.take(array, index, axis=axis)
    return array


def _zero_point(graph: Graph, name: str) -> np.ndarray[Any, Any] | None:
    """The zero points of a quantised weight, shaped to broadcast with it; None for other weights.

    Raises:
        Refused: they lie along several axes.

    """
    rank = len(graph.constants[name].dims)
    for op, slot in graph.consumers.get(name, []):
        at = _zero_slot(op, slot)
        zero = "" if at is None else op.input(at)
        if zero not in graph.constants:
            continue
        values, shape = graph.array(zero), [1] * rank
        if op.attr("block_size", 0) and values.ndim == rank:
            return np.repeat(values, op.attr("block_size"), axis=op.attr("axis", 1))
        if values.size > 1:
            if values.ndim > 1:
                raise Refused(
                    f"The quantised weight {shown(name)} has zero points along several axes:"
                    " it cannot be widened."
                )
            shape[_zero_point_axis(op, rank)] = -1
        return values.reshape(shape)
    return None


def _zero_slot(op: Operator, slot: int) -> int | None:
    """Where the zero point of what an operator reads at a slot stands."""
    if op.op_type == "DequantizeLinear" and slot == 0:
        return 2
    record = WEIGHTED.get(op.op_type)
    return record.weight_zero if record is not None and slot == record.weight else None


def _zero_point_axis(op: Operator, rank: int) -> int:
    """The axis of a weight along which its zero points lie."""
    if op.op_type == "DequantizeLinear":
        return int(op.attr("axis", 1)) % rank
    return weight_axes(op, WEIGHTED[op.op_type].weight, rank)[1]


def with_constants(graph: Graph, arrays: dict[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """The model of a graph with other values in some of its constants, of the shapes they had."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    changed = set(arrays)
    _write_constants(graph, model, arrays)
    drop_inputs(model, changed)
    return model


def _write_constants(graph: Graph, model: onnx.ModelProto, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write all constants; a copy that stayed as it was goes back to its old name."""
    back: dict[str, str] = {}
    changed = set(arrays)
    for name, constant in graph.constants.items():
        original = graph.constants.get(constant.source)
        same = original is not None and original.tensor is constant.tensor and name != constant.source
        if same and name not in changed and constant.source not in changed:
            back[name] = constant.source
            continue
        tensor = model.graph.initializer.add()
        if name in changed:
            # Taken out as they are written: weights are held twice for one tensor at a time only.
            _set_value(tensor, name, constant.tensor.data_type, arrays.pop(name))
        else:
            tensor.CopyFrom(constant.tensor)
            tensor.name = name
    if back:
        for node in model.graph.node:
            for slot, value in enumerate(node.input):
                if value in back:
                    node.input[slot] = back[value]


def _set_value(tensor: onnx.TensorProto, name: str, data_type: int, array: np.ndarray[Any, Any]) -> None:
    tensor.name, tensor.data_type = name, data_type
    if is_packed(tensor):
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        return
    tensor.dims.extend(array.shape)
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    # The message takes a copy of its own: the array goes first, for the memory's sake.
    del array
    tensor.raw_data = data


def _replace_input(model: onnx.ModelProto, index: int, slot: int, numbers: list[int]) -> None:
    node = model.graph.node[index]
    taken = {t.name for t in model.graph.initializer}
    name = base = f"{node.output[0]}_numbers"
    while name in taken:
        name += "_"
    assert base
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = name
    kept = [a for a in node.attribute if not (node.op_type == "Split" and a.name == "num_outputs")]
    if len(kept) != len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _update_declared(model: onnx.ModelProto, labels: Labels, changed: set[str]) -> None:
    """Declared shapes follow."""
    body = model.graph
    drop_inputs(model, changed)
    known = [v for v in body.value_info if v.name in labels.values]
    del body.value_info[:]
    body.value_info.extend(known)
    for value in body.value_info:
        dims = value.type.tensor_type.shape.dim
        axes = labels.values[value.name]
        for k, (dim, units) in enumerate(zip(dims, axes, strict=False)):
            packed = labels.packed.get((value.name, k))
            if not isinstance(units, int):
                dim.dim_value = len(units)
            elif packed is not None and packed.size is not None:
                dim.dim_value = packed.size
