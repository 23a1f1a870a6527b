"""Quantisation: scales and zero points follow the axis they belong to."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import Axis, Tracker
from conet_graph.passes.rules.conv import bind_scale, tie_rows
from conet_graph.passes.rules.elementwise import broadcast
from conet_graph.passes.rules.held import hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "QuantizeLinear", "DequantizeLinear")
@handles(RULES, "QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantize_linear(t: Tracker, op: Operator) -> None:
    """QuantizeLinear(x, scale, zero_point), for the whole tensor or along ``axis``."""
    axes = t.axes(op.input(0))
    if op.attr("block_size", 0):
        _in_blocks(t, op, axes)
        t.set(op, 0, axes)
        return
    for slot in (1, 2):
        if op.input(slot) and t.rank(op.input(slot)) == 1 and axes:
            bind_scale(t, op, op.input(slot), axes[op.attr("axis", 1) % len(axes)])
    t.set(op, 0, axes)


def _in_blocks(t: Tracker, op: Operator, axes: list[Axis]) -> None:
    """Blocks of ``block_size`` positions along ``axis`` share a scale, and go together; other axes pass."""
    size, along = op.attr("block_size"), op.attr("axis", 1) % len(axes)
    units, length = axes[along], t.dim(op.input(0), along)
    blocks: Axis = 0
    if not isinstance(units, int):
        if not isinstance(length, int) or size < 1 or length % size:
            hold_axis(t, op, 0, along, "an axis whose last block is not full")
        else:
            blocks = tie_rows(t, op, units.reshape(-1, size).T)
    for slot in (1, 2):
        if op.input(slot):
            for axis, to in enumerate([*axes[:along], blocks, *axes[along + 1 :]]):
                t.bind(op, op.input(slot), axis, to)


@handles(RULES, "DynamicQuantizeLinear")
def dynamic_quantize_linear(t: Tracker, op: Operator) -> None:
    """The scale is measured over the whole tensor, dropped channels included."""
    axes = t.axes(op.input(0))
    for units in axes:
        t.mix(op, units)
    t.set(op, 0, axes)
    t.set(op, 1, [])
    t.set(op, 2, [])


@handles(RULES, "Quant", "BipolarQuant", domain="onnx.brevitas")
@handles(RULES, "Quant", "BipolarQuant", domain="qonnx.custom_op.general")
def quant(t: Tracker, op: Operator) -> None:
    """Quant(x, scale, zero_point, bit_width) of QONNX: numpy broadcasting (qonnx docs)."""
    t.set(op, 0, broadcast(t, op, [n for n in op.inputs[:3] if n]))
