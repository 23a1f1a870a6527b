"""Matrix products: Gemm, MatMul, Einsum and their quantised and fused forms."""

from __future__ import annotations

from conet_graph.ir.einsum import spelled_out
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT, PRODUCTS, summed_axis
from conet_graph.passes.channels.units import Axis, NoRule, Packed, Tracker
from conet_graph.passes.rules.conv import bind_others
from conet_graph.passes.rules.elementwise import broadcast, broadcast_axis
from conet_graph.passes.rules.registry import Table

RULES: Table = {}


def product(t: Tracker, op: Operator) -> list[Axis | Packed]:
    """The axes of a (batched) matrix product; the inner axes are tied."""
    record = PRODUCTS[op.op_type]
    a, b = record.data, record.weight
    left, right = op.input(a), op.input(b)
    rank_a, rank_b = t.rank(left), t.rank(right)
    if rank_a == 0 or rank_b == 0:
        raise NoRule("an operand is a scalar")
    inner_a, inner_b = summed_axis(op, a, rank_a), summed_axis(op, b, rank_b)
    if t.is_weight(right) or not t.is_weight(left):
        t.bind(op, right, inner_b, t.axis(left, inner_a))
        weight = (right, inner_b) if t.is_weight(right) else None
        t.contract(op, a, inner_a, weight)
    else:
        t.bind(op, left, inner_a, t.axis(right, inner_b))
        t.contract(op, b, inner_b, (left, inner_a))
    rank = max(rank_a, rank_b)
    batch: list[Axis | Packed] = []
    for k in range(rank - 2):
        places = [(n, r - rank + k) for n, r in ((left, rank_a), (right, rank_b)) if r - rank + k >= 0]
        batch.append(broadcast_axis(t, op, places))
    # Of the last two axes the one that is not summed over.
    if rank_a > 1:
        batch.append(t.whole(left, 2 * rank_a - 3 - inner_a))
    if rank_b > 1:
        batch.append(t.whole(right, 2 * rank_b - 3 - inner_b))
    return batch


@handles(RULES, "Gemm")
@handles(RULES, "FusedGemm", domain=MICROSOFT)
def gemm(t: Tracker, op: Operator) -> None:
    """Gemm(A, B, C)."""
    t.set(op, 0, product(t, op))
    if op.input(2):
        t.set(op, 0, broadcast(t, op, [op.outputs[0], op.input(2)]))


@handles(RULES, "MatMul")
def matmul(t: Tracker, op: Operator) -> None:
    """MatMul(A, B), batched."""
    t.set(op, 0, product(t, op))


@handles(RULES, "FusedMatMul", domain=MICROSOFT)
def fused_matmul(t: Tracker, op: Operator) -> None:
    """FusedMatMul(A, B) with transposes."""
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        raise NoRule("it transposes batch axes")
    t.set(op, 0, product(t, op))


@handles(RULES, "MatMulInteger", "QLinearMatMul")
@handles(RULES, "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", domain=MICROSOFT)
def quantised_product(t: Tracker, op: Operator) -> None:
    """A product of quantised matrices, with scales, zero points and perhaps a bias."""
    if op.op_type == "DynamicQuantizeMatMul":
        t.mix(op, t.axis(op.input(0), t.rank(op.input(0)) - 1))
    out = product(t, op)
    if isinstance(out[-1], Packed):
        raise NoRule("its output's channels are merged with pixels or images")
    bind_others(t, op, out[-1])
    t.set(op, 0, out)


@handles(RULES, "Einsum")
def einsum(t: Tracker, op: Operator) -> None:
    """Einsum: equal letters are equal axes."""
    ranks = [t.rank(name) for name in op.inputs]
    try:
        left, _, result = spelled_out(str(op.attr("equation", "")), ranks).partition("->")
    except ValueError:
        raise NoRule("its equation does not fit an operand") from None
    terms = left.split(",")
    places: dict[str, list[tuple[int, int]]] = {}
    for slot, term in enumerate(terms):
        if t.rank(op.input(slot)) != len(term) or len(set(term)) != len(term):
            raise NoRule("its equation repeats a letter or does not fit an operand")
        for axis, letter in enumerate(term):
            places.setdefault(letter, []).append((slot, axis))
    axes: dict[str, Axis] = {}
    for letter, found in places.items():
        axes[letter] = _letter_axis(t, op, [(op.input(s), a) for s, a in found])
        if letter not in result:
            _contract_letter(t, op, found)
    t.set(op, 0, [axes[letter] for letter in result])


def _letter_axis(t: Tracker, op: Operator, places: list[tuple[str, int]]) -> Axis:
    """The axis of a letter; one that is a single position everywhere is a channel, none that is broadcast."""
    if any(t.dim(value, axis) != 1 for value, axis in places):
        return broadcast_axis(t, op, places)
    first, *others = sorted(places, key=lambda place: t.is_constant(place[0]))
    lead = t.axis(*first)
    for value, axis in others:
        t.bind(op, value, axis, lead)
    return lead


def _contract_letter(t: Tracker, op: Operator, found: list[tuple[int, int]]) -> None:
    """Note the sum over a letter; a weight that is broadcast along it weighs all channels alike."""
    places = [(slot, axis) for slot, axis in found if t.dim(op.input(slot), axis) != 1] or found
    weights = [(op.input(s), a) for s, a in places if t.is_weight(op.input(s))]
    data = [(s, a) for s, a in places if not t.is_weight(op.input(s))]
    if data:
        t.contract(op, data[0][0], data[0][1], weights[0] if weights else None)
