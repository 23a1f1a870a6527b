"""Which axes of a Reshape's input become which of its output: parts with one product on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from conet_graph.ir.graph import Dim, Shape


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
        back.append(Segment(step.ins[::-1], step.outs[::-1]))
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
        if not isinstance(a, int) or not isinstance(b, int) or a == 0 or b == 0:
            return None
        if a == b:
            return Segment(tuple(ins[:took_a]), tuple(outs[:took_b]))
        if a < b:
            if took_a == len(ins):
                return None
            step = old[ins[took_a]]
            a, took_a = a * step if isinstance(step, int) else None, took_a + 1
        else:
            if took_b == len(outs):
                return None
            step = new[outs[took_b]]
            b, took_b = b * step if isinstance(step, int) else None, took_b + 1


def _same(a: Dim, b: Dim) -> bool:
    return a is not None and a == b
