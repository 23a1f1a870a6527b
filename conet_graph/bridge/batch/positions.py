"""Rules of operators that work position by position, and of products (ONNX operator specs)."""

from __future__ import annotations

from conet_graph.bridge.batch.held import OWN, Held
from conet_graph.bridge.batch.seen import Direct, Rules, Seen
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import BROADCASTING, CURVES, MICROSOFT, is_turned

RULES: Rules = {}

_LAST_ALIGNED_BY_ATTRIBUTE = 6


@handles(RULES, *CURVES, *BROADCASTING, "Affine")
@handles(RULES, "BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain=MICROSOFT)
def position_by_position(seen: Seen) -> Direct | None:
    """All images at the same place, and what they share is broadcast along it."""
    slots, batched = seen.slots(), seen.batched()
    if len(slots) > 1 and seen.op.version <= _LAST_ALIGNED_BY_ATTRIBUTE and _aligned_otherwise(seen):
        return None
    if len(slots) == 1:
        only = seen.at(slots[0]) or OWN
        return Direct({slots[0]: only}, only)
    ranks = {slot: seen.rank(slot) for slot in slots}
    known = [r for r in ranks.values() if r is not None]
    if len(known) != len(slots):
        return None
    rank = max(known)
    for candidate in batched:
        held, own_rank = seen.at(candidate), ranks[candidate] or 0
        if held is not None and held.axis is not None:
            found = _all_at(seen, held.axis - own_rank, held.length, rank)
            if found is not None:
                return found
    if all(ranks[slot] == rank for slot in batched):
        return Direct(dict.fromkeys(batched, OWN), OWN)
    return None


def _aligned_otherwise(seen: Seen) -> bool:
    """Whether a second input of fewer axes is aligned by the attribute ``axis``, or along the channels."""
    return bool(seen.attr("broadcast", 0)) or seen.op.op_type == "PRelu"


def _all_at(seen: Seen, from_end: int, length: int, rank: int) -> Direct | None:
    """All images along one axis, counted from the end; None where an input does not fit."""
    inputs: dict[int, Held] = {}
    for slot in seen.slots():
        axis = from_end + (seen.rank(slot) or 0)
        if seen.at(slot) is None:
            if axis >= 0 and seen.length(slot, axis) != 1:
                return None
        elif axis < 0 or seen.length(slot, axis) != length:
            return None
        else:
            inputs[slot] = Held(axis, length)
    return Direct(inputs, Held(from_end + rank, length))


@handles(RULES, "MatMul")
def matmul(seen: Seen) -> Direct | None:
    """Rows, columns or whole matrices for each image; never along what is summed."""
    left, right = seen.rank(0), seen.rank(1)
    if left is None or right is None or min(left, right) < 1:
        return None
    rank = max(left, right)
    for slot in seen.batched():
        held, own_rank = seen.at(slot), (left, right)[slot]
        if held is None or held.axis is None or own_rank != rank:
            continue
        found = _product_at(seen, slot, held)
        if found is not None:
            return found
    if all((left, right)[slot] == rank >= 2 for slot in seen.batched()):
        return Direct(dict.fromkeys(seen.batched(), OWN), OWN)
    return None


def _product_at(seen: Seen, slot: int, held: Held) -> Direct | None:
    """A product whose images lie along an axis of the operand of the most axes."""
    axis, rank = held.axis or 0, seen.rank(slot) or 0
    other = 1 - slot
    other_rank = seen.rank(other) or 0
    outer = axis < rank - 2
    if not outer and axis != (rank - 2 if slot == 0 else rank - 1):
        return None
    if seen.at(other) is not None:
        fits = outer and other_rank == rank and seen.length(other, axis) == held.length
        return Direct({slot: held, other: held}, held) if fits else None
    there = axis - (rank - other_rank)
    if outer and there >= 0 and there < other_rank - 2 and seen.length(other, there) != 1:
        return None
    if rank < 2 or (other_rank == 1 and slot == 1):
        return None
    return Direct({slot: held}, held)


@handles(RULES, "Gemm")
@handles(RULES, "FusedGemm", domain=MICROSOFT)
def gemm(seen: Seen) -> Direct | None:
    """Rows of the first matrix are images; one row is added to all of them."""
    length = seen.length(0, 0)
    if seen.batched() != [0] or is_turned(seen.op, 0) or length is None:
        return None
    if 2 in seen.slots() and (seen.rank(2) is None or (seen.rank(2) == 2 and seen.length(2, 0) != 1)):
        return None
    return Direct({0: Held(0, length)}, Held(0, length))


@handles(RULES, "Einsum")
def einsum(seen: Seen) -> Direct | None:
    """The letter along which the images lie is in the result, and in nothing that they share."""
    terms, arrow, result = str(seen.attr("equation")).replace(" ", "").partition("->")
    letters = terms.split(",")
    if not arrow or "." in terms:
        return None
    for slot in seen.batched():
        held = seen.at(slot)
        if held is None or held.axis is None or held.axis >= len(letters[slot]):
            continue
        letter = letters[slot][held.axis]
        holders = [k for k, term in enumerate(letters) if letter in term]
        inputs = {k: Held(letters[k].index(letter), held.length) for k in holders}
        alike = all(seen.length(k, h.axis or 0) == held.length for k, h in inputs.items())
        once = all(letters[k].count(letter) == 1 for k in holders) and result.count(letter) == 1
        if holders == seen.batched() and alike and once:
            return Direct(inputs, Held(result.index(letter), held.length))
    return None


@handles(RULES, "Attention")
def attention(seen: Seen) -> Direct | None:
    """Images are the first axis of Q, K and V; a mask is the same for all of them."""
    length, slots = seen.length(0, 0), seen.batched()
    if slots != [0, 1, 2] or length is None or any(seen.length(slot, 0) != length for slot in slots):
        return None
    if 3 in seen.slots() and seen.rank(3) == 4 and seen.length(3, 0) != 1:
        return None
    return Direct({slot: Held(0, length) for slot in slots}, Held(0, length))


@handles(RULES, "MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(seen: Seen) -> Direct | None:
    """Images are the first axis of all but the bias; a mask that they share has one there."""
    length, batched = seen.length(0, 0), seen.batched()
    shared = [slot for slot in seen.slots() if slot not in batched and slot != 3]
    if length is None or 3 in batched or any(slot < 3 for slot in shared):
        return None
    if any(seen.length(slot, 0) != length for slot in batched) or any(seen.length(s, 0) != 1 for s in shared):
        return None
    return Direct({slot: Held(0, length) for slot in batched}, Held(0, length))


@handles(RULES, "QuantizeLinear", "DequantizeLinear")
def quantiser(seen: Seen) -> Direct | None:
    """One scale for all, or one along another axis."""
    held, rank = seen.at(0), seen.rank(0)
    if held is None or rank is None or seen.batched() != [0]:
        return None
    single = seen.rank(1) == 0 or seen.shape(1) == (1,)
    if single or (held.axis is not None and int(seen.attr("axis", 1)) % rank != held.axis):
        return Direct({0: held}, held)
    return None
