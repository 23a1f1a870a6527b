"""Attention: products of feature maps with a Softmax between them, in one operator.

ONNX's own (opset 23), and ONNX Runtime's MultiHeadAttention (contrib operator docs). The sizes of Q's and K's
heads are summed over, V's are the output's. Heads that are merged with their sizes all stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT
from conet_graph.passes.channels.units import CONTRADICTION, Axis, NoRule, Packed, Tracker, length_of
from conet_graph.passes.rules.conv import in_groups, tie_rows
from conet_graph.passes.rules.elementwise import broadcast_axis
from conet_graph.passes.rules.held import hold_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}

KEEPS_STATE = "it keeps keys and values between runs, or gives its scores"

# An axis of a value.
Place = tuple[str, int]


class Sizes(NamedTuple):
    """Where the sizes of Q's, K's or V's heads lie: ``each`` head's, and those of ``all`` one by one."""

    slot: int
    axis: int
    each: Axis
    all: Axis


@handles(RULES, "Attention")
def attention(t: Tracker, op: Operator) -> None:
    """Attention(Q, K, V, mask): each [batch, heads, length, size], or [batch, length, heads * size]."""
    if op.input(4) or op.input(5) or any(op.outputs[1:]):
        raise NoRule(KEEPS_STATE)
    named = query, key, value = op.inputs[0], op.inputs[1], op.inputs[2]
    rank = t.rank(query)
    if rank not in (3, 4) or any(t.rank(name) != rank for name in named):
        raise NoRule(CONTRADICTION)
    t.select(op, broadcast_axis(t, op, [(key, rank - 2), (value, rank - 2)]))
    out: list[Axis | Packed] = [broadcast_axis(t, op, [(name, 0) for name in named])]
    if rank == 3:
        asking, answering = int(op.attr("q_num_heads", 1)), int(op.attr("kv_num_heads", 1))
        q, k, v = (_merged(t, op, n, h) for n, h in enumerate((asking, answering, answering)))
        out += [t.whole(query, 1), _for_every_query(v.all, answering, asking)]
    else:
        asking = 1
        q, k, v = (Sizes(n, 3, t.axis(name, 3), t.axis(name, 3)) for n, name in enumerate(named))
        out += [_heads(t, op), t.whole(query, 2), v.all]
    tied = [(key, rank - 2), (query, rank - 2)]
    _tie_mask(t, op, 3, [*tied, (query, 1)] if rank == 4 else tied)
    t.tie(op, q.each, k.each)
    _sum_scores(t, op, q, k)
    if op.attr("scale") is None:
        _write_scale(t, op, q, asking)
    t.set(op, 0, out)


@handles(RULES, "MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(t: Tracker, op: Operator) -> None:
    """MultiHeadAttention(Q, K, V, bias, padding, mask): each [batch, length, heads * size].

    One tensor may hold K and V, or all three, as [batch, length, heads, 2 or 3, size].
    """
    if any(op.input(slot) for slot in (6, 7, 8, 9)) or any(op.outputs[1:]):
        raise NoRule(KEEPS_STATE)
    heads, query = int(op.attr("num_heads", 0)), op.inputs[0]
    if op.input(2):
        q, k, v = (_merged(t, op, slot, heads) for slot in range(3))
    elif op.input(1):
        q, k, v = _merged(t, op, 0, heads), *[_interleaved(t, op, 1, heads)] * 2
    else:
        q, k, v = [_interleaved(t, op, 0, heads)] * 3
    keys, named = op.input(k.slot), [op.input(slot) for slot in dict.fromkeys((q.slot, k.slot, v.slot))]
    t.select(op, broadcast_axis(t, op, [(keys, 1), (op.input(v.slot), 1)]))
    batch = broadcast_axis(t, op, [(name, 0) for name in named])
    _tie_padding(t, op, (keys, 1), (query, 1))
    _tie_mask(t, op, 5, [(keys, 1), (query, 1)])
    t.tie(op, q.each, k.each)
    if op.input(3):
        _bind_bias(t, op, (q, k, v), heads)
    else:
        _sum_scores(t, op, q, k)
    if not op.attr("scale", 0.0):
        _write_scale(t, op, q, heads if q.axis == 2 else 1)
    t.set(op, 0, [batch, t.whole(query, 1), v.all])


@handles(RULES, "Attention", domain=MICROSOFT)
def fused_attention(t: Tracker, op: Operator) -> None:
    """Attention with its projection inside, where ``passes.plain_attention`` has not taken it apart."""
    told = "turns heads by their place" if op.attr("do_rotary", 0) else "has a mask that is not understood"
    state = op.input(4) or op.input(6) or any(op.outputs[1:])
    raise NoRule(KEEPS_STATE if state else f"it {told}")


def _merged(t: Tracker, op: Operator, slot: int, heads: int) -> Sizes:
    """Sizes of heads that lie behind one another on the last of three axes: all heads have one size."""
    _require_rank(t, op.input(slot), 3)
    units = t.axis(op.input(slot), 2)
    each = units if isinstance(units, int) else tie_rows(t, op, in_groups(units, heads))
    return Sizes(slot, 2, each, units)


def _interleaved(t: Tracker, op: Operator, slot: int, heads: int) -> Sizes:
    """Sizes of K and V, or of Q, too, that lie side by side in each head: one size for all of them."""
    value = op.input(slot)
    _require_rank(t, value, 5)
    hold_axis(t, op, slot, 2, "heads")
    hold_axis(t, op, slot, 3, "queries, keys and values")
    each = t.axis(value, 4)
    return Sizes(slot, 4, each, each if isinstance(each, int) else np.tile(each, heads))


def _require_rank(t: Tracker, value: str, rank: int) -> None:
    if t.rank(value) != rank:
        raise NoRule(f"its input has {t.rank(value)} axes where {rank} are understood")


def _for_every_query(units: Axis, answering: int, asking: int) -> Axis:
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


def _tie_mask(t: Tracker, op: Operator, slot: int, tied: list[Place]) -> None:
    """Tie the axes of what is added to the scores, from the last one on; others stay."""
    mask = op.input(slot)
    if not mask:
        return
    rank = t.rank(mask)
    for behind in range(rank):
        axis = rank - 1 - behind
        if behind < len(tied):
            broadcast_axis(t, op, [tied[behind], (mask, axis)])
        else:
            hold_axis(t, op, slot, axis, "one mask for each image or head")


def _tie_padding(t: Tracker, op: Operator, keys: Place, queries: Place) -> None:
    """Tie MultiHeadAttention's mask of keys: [batch, keys], [batch, queries, keys], or numbers of keys."""
    mask = op.input(4)
    if mask and t.rank(mask) > 1:
        _tie_mask(t, op, 4, [keys, queries][: t.rank(mask) - 1])
    elif mask:
        t.freeze(op, t.axis(*keys), f"{op.op_type} {shown(op.name)} reads how many of them there are")


def _sum_scores(t: Tracker, op: Operator, q: Sizes, k: Sizes) -> None:
    """Note the sum over Q's and K's sizes; where one of them is a weight, it weighs the other."""
    query, key = op.input(q.slot), op.input(k.slot)
    if t.is_weight(query) and not t.is_weight(key):
        t.contract(op, k.slot, k.axis, (query, q.axis))
    else:
        t.contract(op, q.slot, q.axis, (key, k.axis) if t.is_weight(key) else None)


def _bind_bias(t: Tracker, op: Operator, parts: tuple[Sizes, Sizes, Sizes], heads: int) -> None:
    """Bind the bias of Q, K and V, and note the sums over Q's and K's sizes.

    Where both are masked, every score of a query gets the same number more: what the biases make together.
    The Softmax takes it away again. A constant that is not masked would leave more than that.
    """
    q, k, _ = parts
    if t.is_weight(op.input(k.slot)) or t.is_weight(op.input(q.slot)):
        raise NoRule("it adds a bias to queries or keys that are constant")
    whole = [t.unit_by_unit(op, s.all, _length(t, op, s, heads)) for s in parts]
    t.bind(op, op.input(3), 0, np.concatenate(whole))
    for slot, axis in dict.fromkeys(((q.slot, q.axis), (k.slot, k.axis))):
        t.contract(op, slot, axis, None)


def _length(t: Tracker, op: Operator, sizes: Sizes, heads: int) -> int | None:
    """How long all heads of an input are together, in the file as it is."""
    size = t.dim(op.input(sizes.slot), sizes.axis)
    if not isinstance(size, int):
        return None
    return size if sizes.axis == 2 else size * heads


def _write_scale(t: Tracker, op: Operator, q: Sizes, heads: int) -> None:
    """Write down the scale where the operator would take it from a size that has changed."""
    dim = t.dim(op.input(q.slot), q.axis)
    if isinstance(dim, int) and heads and length_of(q.each) not in (None, dim // heads):
        t.set_attr(op, "scale", (dim // heads) ** -0.5)
