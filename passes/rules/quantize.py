"""Quantisation: scales and zero points follow the axis they belong to."""

from __future__ import annotations

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import enter as rule
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules.conv import bind_scale
from conet_graph.passes.rules.elementwise import broadcast
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@rule(RULES, "QuantizeLinear", "DequantizeLinear")
@rule(RULES, "QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantize_linear(t: Tracker, op: Operator) -> None:
    """QuantizeLinear(x, scale, zero_point), for the whole tensor or along ``axis``."""
    if op.attr("block_size", 0):
        raise NoRule("it quantises in blocks")
    axes = t.axes(op.input(0))
    for slot in (1, 2):
        if op.input(slot) and t.rank(op.input(slot)) == 1 and axes:
            bind_scale(t, op, op.input(slot), axes[op.attr("axis", 1) % len(axes)])
    t.set(op, 0, axes)


@rule(RULES, "DynamicQuantizeLinear")
def dynamic_quantize_linear(t: Tracker, op: Operator) -> None:
    """The scale is measured over the whole tensor, dropped channels included."""
    axes = t.axes(op.input(0))
    for units in axes:
        t.mix(op, units)
    t.set(op, 0, axes)
    t.set(op, 1, [])
    t.set(op, 2, [])


@rule(RULES, "Quant", "BipolarQuant", domain="onnx.brevitas")
@rule(RULES, "Quant", "BipolarQuant", domain="qonnx.custom_op.general")
def quant(t: Tracker, op: Operator) -> None:
    """Quant(x, scale, zero_point, bit_width) of QONNX: numpy broadcasting (qonnx docs)."""
    t.set(op, 0, broadcast(t, op, [n for n in op.inputs[:3] if n]))
