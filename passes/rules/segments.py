"""Which axes of a Reshape's input become which of its output: parts with one product on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from conet_graph.ir.graph import Dim, Shape
from conet_graph.passes.shapes.size_products import factors, product


@dataclass(frozen=True)
class Segment:
    """Input axes and output axes with one product; ``known`` says whether that is sure."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    known: bool = True


def segments(old: Shape, new: Shape, zeros: set[int]) -> list[Segment]:
    """Split a Reshape into segments, from both ends towards the middle.

    Args:
        old: the input's shape.
        new: the output's shape.
        zeros: output axes that copy the input's axis of the same number.

    """
    i, j, front = 0, 0, []
    while i < len(old) and j < len(new):
        step = _match(old, new, range(i, len(old)), range(j, len(new)), zeros)
        if step is None:
            break
        front.append(step)
        i, j = i + len(step.ins), j + len(step.outs)
    m, n, back = len(old), len(new), []
    while m > i and n > j:
        step = _match(old, new, range(m - 1, i - 1, -1), range(n - 1, j - 1, -1), zeros)
        if step is None:
            break
        back.append(Segment(step.ins[::-1], step.outs[::-1], step.known))
        m, n = m - len(step.ins), n - len(step.outs)
    middle: list[Segment] = []
    if i < m or j < n:
        ins, outs = tuple(range(i, m)), tuple(range(j, n))
        known = all(old[k] == 1 for k in ins) and all(new[k] == 1 for k in outs)
        middle = [Segment(ins, outs, known)]
    return [*front, *middle, *back[::-1]]


def _match(old: Shape, new: Shape, ins: range, outs: range, zeros: set[int]) -> Segment | None:
    """The shortest segment at one end, or None where unknown sizes stand in the way."""
    if _same(old[ins[0]], new[outs[0]]) or (ins[0] == outs[0] and outs[0] in zeros):
        return Segment((ins[0],), (outs[0],))
    a, b, took_a, took_b = old[ins[0]], new[outs[0]], 1, 1
    if a == 1 and not isinstance(b, int):
        return Segment((ins[0],), ())
    if b == 1 and not isinstance(a, int):
        return Segment((), (outs[0],))
    while True:
        left, right = factors(a), factors(b)
        if left is None or right is None:
            return None
        if left == right:
            taken = tuple(ins[:took_a]), tuple(outs[:took_b])
            return Segment(*taken, all(isinstance(d, int) for d in (a, b)))
        # What has fewer names, or else the smaller number, goes on.
        if (left[1].total(), left[0]) < (right[1].total(), right[0]):
            if took_a == len(ins):
                return None
            a, took_a = product((a, old[ins[took_a]])), took_a + 1
        else:
            if took_b == len(outs):
                return None
            b, took_b = product((b, new[outs[took_b]])), took_b + 1


def _same(a: Dim, b: Dim) -> bool:
    return a is not None and a == b
