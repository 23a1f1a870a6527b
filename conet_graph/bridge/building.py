"""A graph as a module of PyTorch: its operators in the generated code, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import getitem

import torch
from torch import fx, nn

from conet_graph.bridge.batch.batching import Batching, Convert
from conet_graph.bridge.batch.entry import Counted, only_batch, same_count
from conet_graph.bridge.batch.held import OWN, Held, as_scalar, in_row
from conet_graph.bridge.batch.report import KEY, Batches
from conet_graph.bridge.builder import Builder
from conet_graph.bridge.converters import CONVERTERS
from conet_graph.bridge.placement import place_values
from conet_graph.bridge.site import Converted, NotConverted, Site
from conet_graph.bridge.upstream import convert_upstream
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import NEUTRAL, WEIGHTED

# Where a module keeps which of its tensors holds which constant of the graph.
PATHS = "conet_graph.paths"
# Operators named in a refusal.
SHOWN = 5


def built(graph: Graph, held: Mapping[str, Held] | None, why_only: str = "") -> fx.GraphModule:
    """Write a graph as a module.

    Args:
        graph: structured.
        held: the inputs that hold images, in a file for a fixed batch; None where the file itself takes any.
        why_only: why the module takes no batch but the file's; '' for one that takes any.

    Raises:
        Refused: operators have no form in PyTorch; all of them are named.

    """
    builder = Builder(graph)
    for number, name in enumerate(graph.inputs, 1):
        builder.values[name] = builder.code.placeholder(f"input_{number}")
    entry = _Entry(builder, held, why_only) if held else None
    batching = Batching(builder, dict(held)) if held and not why_only else None
    refusals: list[str] = []
    for op in graph.operators:
        try:
            _convert(builder, batching, op)
        except NotConverted as reason:
            refusals.append(f"{op.op_type}-{op.version} (node {shown(op.name)}) {reason}")
            # The rest is looked at too: one answer names all that is missing.
            builder.values.update((name, builder.code.placeholder("missing")) for name in op.outputs if name)
    if refusals:
        more = f" and {len(refusals) - SHOWN} more" if len(refusals) > SHOWN else ""
        raise Refused(f"The network has no form in PyTorch: {'; '.join(refusals[:SHOWN])}{more}.")
    outputs, output_axes = _outputs(builder, batching)
    builder.code.output(outputs[0] if len(outputs) == 1 else outputs)
    found = Batches(None, 1, why_only, output_axes)
    if entry is not None:
        found = entry.settled(batching, output_axes)
    return _finished(builder, found)


def _convert(builder: Builder, batching: Batching | None, op: Operator) -> None:
    """Enter an operator's outputs into the code."""
    if op.subgraphs():
        raise NotConverted("runs a sub-graph")
    convert: Convert = CONVERTERS.get((op.domain, op.op_type), convert_upstream)
    if batching is not None:
        batching.enter(op, convert)
        return
    made: Converted = convert(Site(builder, op))
    parts = made if isinstance(made, tuple) else (made,)
    for name, part in zip(op.outputs, parts, strict=False):
        if name and part is not None:
            builder.values[name] = part


def _outputs(
    builder: Builder, batching: Batching | None
) -> tuple[tuple[fx.Node, ...], tuple[int | None, ...]]:
    """The graph's outputs, and the axis of each along which the images lie."""
    names = builder.graph.outputs
    if batching is None:
        return tuple(builder.value(name) for name in names), (0,) * len(names)
    made = [_output(builder, batching, name) for name in names]
    return tuple(node for node, _ in made), tuple(axis for _, axis in made)


def _output(builder: Builder, batching: Batching, name: str) -> tuple[fx.Node, int | None]:
    """An output, its images along the axis that counts them in the file, or along the first one."""
    held, node, shape = batching.held.get(name), builder.value(name), builder.graph.shape(name)
    batch = next(h.length for h in batching.held.values())
    axis = next((k for k, dim in enumerate(shape or ()) if dim == batch), None)
    if held is None:
        # A table for one image is given once for each; a weight is one for all, whatever its sizes.
        if axis is None or _is_weight(builder.graph, name):
            return node, None
        return batching.for_all(node, Held(axis, batch)), axis
    if held.axis is not None and (held.length == batch or axis is None):
        return node, held.axis
    if shape == ():
        return builder.code.call_function(as_scalar, (node,)), 0
    return builder.code.call_function(in_row, (batching.moved(name, OWN), axis or 0)), axis or 0


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether a layer or a norm reads a value, or a copy of it, as its weight or bias."""
    own = graph.constants.get(name)
    copies = [] if own is None else [n for n, c in graph.constants.items() if c.source == own.source]
    for op, slot in (use for copy in {name, *copies} for use in graph.consumers.get(copy, [])):
        record = WEIGHTED.get(op.op_type)
        if slot in NEUTRAL.get(op.op_type, ()) or (record and slot in (record.weight, record.bias)):
            return True
    return False


@dataclass
class _Entry:
    """The look at the inputs with which the code begins."""

    builder: Builder
    held: Mapping[str, Held]
    why_only: str

    def __post_init__(self) -> None:
        """Write it; it is settled when the code is complete."""
        values, call = self.builder.values, self.builder.code.call_function
        self.given = tuple(values[name] for name in self.held)
        counted: tuple[Counted, ...] = tuple((n, h.axis or 0, h.length) for n, h in self.held.items())
        self.multiple = counted[0][2]
        if self.why_only:
            call(only_batch, (self.given, counted, self.why_only))
        elif len(counted) > 1 or self.multiple > 1:
            self.look = call(same_count, (self.given, counted, False))
            for number, name in enumerate(self.held):
                values[name] = call(getitem, (self.look, number))

    def settled(self, batching: Batching | None, output_axes: tuple[int | None, ...]) -> Batches:
        """What the module takes, now that the code is complete."""
        if batching is None:
            return Batches(self.multiple, self.multiple, self.why_only, output_axes)
        if not batching.whole:
            return Batches(None, 1, "", output_axes)
        if len(self.held) > 1 or self.multiple > 1:
            given, counted, _ = self.look.args
            self.look.args = (given, counted, True)
        return Batches(None, self.multiple, "", output_axes)


def _finished(builder: Builder, found: Batches) -> fx.GraphModule:
    """The module, with what it keeps of the graph."""
    place_values(builder.root, builder.code)
    # Statistics that a BatchNorm takes of its own input are computed in the file nevertheless.
    kept = (same_count, only_batch)
    builder.code.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or n.target in kept)
    module = fx.GraphModule(builder.root, builder.code)
    held = tensors_of(module)
    module.meta[PATHS] = {name: path for name, path in builder.paths.items() if path in held}
    module.meta[KEY] = found
    return module


def paths_of(module: nn.Module) -> dict[str, str]:
    """The path of each tensor in a module, by the name that it has in the graph.

    Raises:
        BadUsage: the module was not made by ``to_torch``.

    """
    meta = getattr(module, "meta", None)
    if not isinstance(meta, dict) or PATHS not in meta:
        raise BadUsage("This module was not made by to_torch: its weights have no places in a graph.")
    paths: dict[str, str] = meta[PATHS]
    return paths


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their paths."""
    tensors: dict[str, torch.Tensor] = dict(module.named_buffers(remove_duplicate=False))
    tensors.update(module.named_parameters(remove_duplicate=False))
    return tensors
