"""Attention (opset 23): products of feature maps with a Softmax between them, in one operator."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.passes.channels.units import CONTRADICTION, Axis, NoRule, Packed, Tracker, length_of
from conet_graph.passes.rules.conv import in_groups, tie_rows
from conet_graph.passes.rules.elementwise import broadcast_axis
from conet_graph.passes.rules.held import hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


@handles(RULES, "Attention")
def attention(t: Tracker, op: Operator) -> None:
    """Attention(Q, K, V, mask): each [batch, heads, length, size], or [batch, length, heads * size].

    The sizes of Q's and K's heads are summed over, V's are the output's. All heads stay.
    """
    if op.input(4) or op.input(5) or any(op.outputs[1:]):
        raise NoRule("it keeps keys and values between runs, or gives its scores")
    named = query, key, value = op.inputs[0], op.inputs[1], op.inputs[2]
    rank = t.rank(query)
    if rank not in (3, 4) or any(t.rank(name) != rank for name in named):
        raise NoRule(CONTRADICTION)
    t.select(op, broadcast_axis(t, op, [(key, rank - 2), (value, rank - 2)]))
    out: list[Axis | Packed] = [broadcast_axis(t, op, [(name, 0) for name in named])]
    if rank == 3:
        asking, answering = int(op.attr("q_num_heads", 1)), int(op.attr("kv_num_heads", 1))
        sizes = [
            _of_one_head(t, op, n, h) for n, h in zip(named, (asking, answering, answering), strict=True)
        ]
        out += [t.whole(query, 1), _of_all_heads(t.axis(value, 2), answering, asking)]
    else:
        asking = 1
        sizes = [t.axis(name, 3) for name in named]
        out += [_heads(t, op), t.whole(query, 2), sizes[2]]
    t.tie(op, sizes[0], sizes[1])
    t.contract(op, 0, rank - 1, None)
    _keep_scale(t, op, sizes[0], t.dim(query, rank - 1), asking)
    t.set(op, 0, out)


def _of_one_head(t: Tracker, op: Operator, value: str, heads: int) -> Axis:
    """What all heads that lie behind one another on the last axis have in common: the size of one."""
    units = t.axis(value, 2)
    return units if isinstance(units, int) else tie_rows(t, op, in_groups(units, heads))


def _of_all_heads(units: Axis, answering: int, asking: int) -> Axis:
    """V's heads as the output has them: each once for every query that it answers."""
    if isinstance(units, int) or asking == answering:
        return units
    if asking % answering:
        raise NoRule(CONTRADICTION)
    return np.repeat(in_groups(units, answering), asking // answering, axis=0).reshape(-1)


def _heads(t: Tracker, op: Operator) -> Axis:
    """The axis of heads; where several queries share a key, it stays."""
    named = op.inputs[:3]
    if len({t.dim(name, 1) for name in named}) == 1:
        return broadcast_axis(t, op, [(name, 1) for name in named])
    for slot in range(3):
        hold_axis(t, op, slot, 1, "heads, of which several share a key")
    return t.axis(op.inputs[0], 1)


def _keep_scale(t: Tracker, op: Operator, units: Axis, dim: object, heads: int) -> None:
    """Write down the scale where the operator would take it from a size that has changed."""
    if not isinstance(dim, int) or op.attr("scale") is not None:
        return
    if length_of(units) not in (None, dim // heads):
        t.set_attr(op, "scale", (dim // heads) ** -0.5)
