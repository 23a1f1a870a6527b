"""Recurrent layers: the input side follows; hidden sizes stay."""

from __future__ import annotations

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import Tracker
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "GRU", "LSTM", "RNN")
def recurrent(t: Tracker, op: Operator) -> None:
    """X [sequence, batch, input], W [directions, gates * hidden, input]."""
    x = op.input(0)
    t.bind(op, op.input(1), 2, t.axis(x, 2))
    t.contract(op, 0, 2, (op.input(1), 2))
    kept = t.frozen(f"the hidden size of {op.op_type} {shown(op.name)} is kept")
    for slot in (1, 2, 3, 5, 6, 7):
        value = op.input(slot)
        for axis in range(t.rank(value) if value else 0):
            if (slot, axis) != (1, 2):
                t.bind(op, value, axis, kept)
    for axis in (0, 1):
        t.tie(op, t.axis(x, axis), 0)
    for k in range(len(op.outputs)):
        t.set(op, k, [kept] * (4 if k == 0 else 3))
