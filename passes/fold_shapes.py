"""Shape arithmetic that exporters leave becomes constants where its result is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import helper, numpy_helper

from conet_graph.ir.dead_code import keep_live
from conet_graph.ir.graph import Constant, Dim, Graph, Operator, Shape, ShapeNumber, literals
from conet_graph.passes.plain_assignments import assign_slices
from conet_graph.passes.plain_attention import take_attention_apart
from conet_graph.passes.plain_branches import inline_branches
from conet_graph.passes.plain_forms import drop_expands, fill_vectors, split_sequences, write_full_gathers
from conet_graph.passes.plain_means import write_means
from conet_graph.passes.plain_operators import gather_rows, pad_in_pools
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.passes.shapes.equal_sizes import EqualSizes, broadcast
from conet_graph.passes.shapes.shape_arithmetic import (
    LONGEST,
    MOST_AXES,
    Entries,
    constant_entries,
    dim_of,
    evaluate,
    scales_slot,
)
from conet_graph.passes.shapes.size_products import is_open, product, quotient

# What exporters write in a roundabout way is written plainly first.
PLAIN_FORMS = (
    inline_branches,
    split_sequences,
    write_full_gathers,
    gather_rows,
    pad_in_pools,
    write_means,
    take_attention_apart,
)


# Sizes beyond 32 bits are a file's nonsense.
LARGEST_SIZE = 2**32


@dataclass(frozen=True)
class FoldShapes:
    """Evaluate ``Shape -> Gather -> ... -> Concat`` chains; fold what is known, note what is not.

    A Reshape target with numbers that only the run knows becomes a constant of ``0`` and ``-1`` where
    those can say it. What stays computed is left in ``graph.known``, number by number.
    """

    name: ClassVar[str] = "fold_shapes"

    def run(self, graph: Graph) -> None:
        """Fold in place."""
        graph.known = {}
        for rewrite in PLAIN_FORMS:
            rewrite(graph)
        folded = fill_vectors(graph) + _fold_scales(graph)
        for op in graph.operators:
            entries = evaluate(graph, op)
            if entries is None:
                continue
            output = op.outputs[0]
            graph.known[output] = entries
            if output not in graph.outputs and _fold(graph, op, entries):
                folded += 1
        for op in graph.operators:
            if op.op_type == "Reshape" and op.input(1) not in graph.constants:
                folded += _fold_target(graph, op)
            elif op.op_type == "Reshape" and not op.domain:
                folded += _name_rest(graph, op)
        if folded:
            kept = [op.proto for op in graph.operators if op.outputs[0] not in graph.constants]
            keep_live(graph, kept)
        assign_slices(graph)
        drop_expands(graph)
        _tell_shapes(graph)


def _fold_scales(graph: Graph) -> int:
    """Make constants of scales that are computed from constants; how many became some.

    Converters to half floats leave a Cast before them, as the operator takes float32 alone.
    """
    folded = 0
    for op in graph.operators:
        if op.op_type not in ("Resize", "Upsample") or op.domain:
            continue
        name = op.input(scales_slot(op))
        value = None if not name or name in graph.constants else value_of(graph, name)
        if value is not None and value.ndim == 1 and value.size <= MOST_AXES:
            _replace(graph, name, value)
            folded += 1
    return folded


def _tell_shapes(graph: Graph) -> None:
    """Note the shapes of what is made by numbers of which some are known, where inference knows less."""
    equal = EqualSizes(graph)
    for op in graph.operators:
        equal.rename(op.outputs)
        before = graph.shape(op.outputs[0])
        if op.domain or (before is not None and not any(is_open(d) for d in before)):
            continue
        told = _shaped(graph, op)
        if told is None or any(isinstance(size, int) and size > LARGEST_SIZE for size in told):
            continue
        if before is not None and len(before) == len(told):
            told = tuple(n if is_open(b) else b for b, n in zip(before, told, strict=True))
        equal.learn(op.outputs[0], told)
        # Inference numbers its own names anew each time: one of them told is nothing learned for the next.
        told = tuple(None if is_open(d) else d for d in told)
        known = before and tuple(None if is_open(d) else d for d in before)
        if told != known and graph.told.get(op.outputs[0]) != told:
            graph.told[op.outputs[0]] = told
            graph.shapes_stale = True
    for entries in graph.known.values():
        entries[:] = [_renamed(equal, entry) for entry in entries]


def _renamed(equal: EqualSizes, entry: ShapeNumber) -> ShapeNumber:
    """A number of a shape, by what the names of sizes stand for."""
    if entry.source is None or entry.source[0] != "size":
        return entry
    kind, name, literal = entry.source
    found = equal.meant(name)
    return ShapeNumber(found) if isinstance(found, int) else ShapeNumber(None, (kind, str(found), literal))


def _shaped(graph: Graph, op: Operator) -> Shape | None:
    """The shape that known numbers give an operator's output; None where they give none."""
    slot = {"ConstantOfShape": 0, "Expand": 1, "Pad": 1, "Reshape": 1, "Tile": 1}.get(op.op_type)
    given = graph.shape(op.input(0)) if slot != 0 else ()
    if given is not None and op.op_type == "Flatten":
        axis = op.attr("axis", 1) % max(len(given), 1)
        return product(given[:axis]), product(given[axis:])
    if given is not None and op.op_type in ("Resize", "Upsample"):
        return _resized(graph, op, given)
    entries = constant_entries(graph, op.input(slot)) if slot is not None else None
    if entries is None or given is None:
        return None
    if op.op_type == "Reshape":
        return _reshaped(graph, op, given, entries)
    if op.op_type == "Pad":
        return _padded(given, entries) if not op.input(3) else None
    if op.op_type == "Tile":
        times = [dim_of(graph, entry) for entry in entries]
        return tuple(map(product, zip(given, times, strict=True))) if len(times) == len(given) else None
    return broadcast(given, [dim_of(graph, entry) for entry in entries])


def _padded(given: Shape, pads: Entries) -> Shape | None:
    """The shape behind pads, of which only some are known: an axis without any keeps its size."""
    if len(pads) != 2 * len(given):
        return None
    ends = zip(pads[: len(given)], pads[len(given) :], strict=True)
    kept = [begin.value == end.value == 0 for begin, end in ends]
    return tuple(d if keeps else None for d, keeps in zip(given, kept, strict=True))


def _reshaped(graph: Graph, op: Operator, given: Shape, entries: Entries) -> Shape | None:
    """The shape of a Reshape's output: a -1 is what is left of the product of all sizes."""
    out: list[Dim] = []
    for axis, entry in enumerate(entries):
        copies = entry.value == 0 and not op.attr("allowzero", 0)
        out.append(given[axis] if copies and axis < len(given) else dim_of(graph, entry))
    rest = [axis for axis, entry in enumerate(entries) if entry.value == -1]
    if len(rest) == 1:
        out[rest[0]] = quotient(product(given), product(d for k, d in enumerate(out) if k != rest[0]))
    return tuple(out)


def _resized(graph: Graph, op: Operator, given: Shape) -> Shape | None:
    """The shape of a Resize's output: sizes that are known, and axes that keep theirs."""
    scales, sizes = (_numbers(graph, op.input(slot)) for slot in (scales_slot(op), 3))
    if op.attr("axes") is not None or len(given) not in (len(scales), len(sizes)):
        return None
    if sizes:
        return tuple(dim_of(graph, entry) for entry in sizes)
    return tuple(_times(d, entry.value) for d, entry in zip(given, scales, strict=True))


def _numbers(graph: Graph, name: str) -> Entries:
    """The numbers of an input, floats too; none where they are not known."""
    constant = graph.constants.get(name)
    if constant is not None and constant.size <= MOST_AXES:
        return literals(name, graph.array(name))
    return graph.known.get(name, [])


def _times(dim: Dim, scale: float | int | None) -> Dim:
    """A size that is a whole number of times as long; None for other scales."""
    return product((int(scale), dim)) if scale is not None and scale >= 1 and scale == int(scale) else None


def _fold(graph: Graph, op: Operator, entries: Entries) -> bool:
    """Turn an operator whose result is known into a constant."""
    if any(e.value is None for e in entries):
        return False
    name, shape = op.outputs[0], graph.shape(op.outputs[0])
    dtype = graph.dtypes.get(name)
    if shape is None or dtype is None or not all(isinstance(d, int) for d in shape):
        return False
    if math.prod(d for d in shape if isinstance(d, int)) != len(entries):
        return False
    array = np.array([e.value for e in entries], helper.tensor_dtype_to_np_dtype(dtype))
    _replace(graph, name, array.reshape([d for d in shape if isinstance(d, int)]))
    return True


def _fold_target(graph: Graph, op: Operator) -> int:
    """Say a partly known Reshape target with 0 and -1; 1 when that was possible."""
    entries = graph.known.get(op.input(1))
    shape = graph.shape(op.input(0))
    if entries is None or shape is None:
        return 0
    if op.attr("allowzero", 0) and any(entry.value == 0 for entry in entries):
        return 0
    target: list[int] = []
    for axis, entry in enumerate(entries):
        if entry.value is not None:
            target.append(int(entry.value))
        elif axis < len(shape) and _same_dim(graph, entry, op.input(0), axis):
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1:
        return 0
    name = graph.fresh_name(op.input(1))
    _replace(graph, name, np.array(target, np.int64))
    _set_target(op, name)
    return 1


def _name_rest(graph: Graph, op: Operator) -> int:
    """Say a -1 that can only be the one free size of the input with 0; 1 when that was possible.

    Shape inference makes a new unknown of a -1, and loses that it is the batch size.
    """
    shape, target = graph.shape(op.input(0)), graph.constants[op.input(1)]
    if shape is None or target.size > LONGEST:
        return 0
    sizes = graph.array(op.input(1)).reshape(-1).tolist()
    free = [k for k, d in enumerate(shape) if not isinstance(d, int)]
    if sizes.count(-1) != 1 or 0 in sizes or free != [sizes.index(-1)]:
        return 0
    rest = math.prod(d for d in shape if isinstance(d, int))
    if rest != -math.prod(sizes) or not isinstance(shape[free[0]], str):
        return 0
    sizes[free[0]] = 0
    name = graph.fresh_name(op.input(1))
    _replace(graph, name, np.array(sizes, np.int64))
    _set_target(op, name)
    return 1


def _set_target(op: Operator, name: str) -> None:
    op.set_input(1, name)
    if op.attr("allowzero", 0):
        op.set_attr("allowzero", 0)  # a 0 of ours copies the input's size


def _same_dim(graph: Graph, entry: ShapeNumber, value: str, axis: int) -> bool:
    """Whether a run-time dimension is the one of ``value`` at ``axis``."""
    if entry.source == ("dim", value, axis):
        return True
    shape = graph.shape(value)
    mine = None if shape is None else shape[axis]
    return isinstance(mine, str) and mine == dim_of(graph, entry)


def _replace(graph: Graph, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    graph.constants[name] = Constant(numpy_helper.from_array(array, name), name)
    graph.known[name] = literals(name, array)
