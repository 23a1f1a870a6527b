"""Rules of operators that work along some axes and leave the others alone (ONNX operator specs)."""

from __future__ import annotations

from collections.abc import Iterable

from conet_graph.bridge.batch.held import Held
from conet_graph.bridge.batch.seen import Direct, Rules, Seen
from conet_graph.ir.op_table import handles

RULES: Rules = {}

# From this version on Softmax works along one axis, before over all from one on.
_SOFTMAX_ALONG_ONE_AXIS = 13


def _untouched(seen: Seen, touched: Iterable[int] | None, *, kept: bool = True) -> Direct | None:
    """Direct, where the images of input 0 lie along an axis that the operator leaves alone.

    Args:
        seen: the operator.
        touched: the axes it works along; negative ones count from the end, None is not known.
        kept: whether those axes stay, with another length.

    """
    held, rank = seen.at(0), seen.rank(0)
    if held is None or held.axis is None or rank is None or touched is None or seen.batched() != [0]:
        return None
    axes = {axis % rank for axis in touched}
    if held.axis in axes:
        return None
    after = held.axis - (0 if kept else sum(axis < held.axis for axis in axes))
    return Direct({0: held}, Held(after, held.length))


@handles(RULES, "Softmax", "LogSoftmax", "Hardmax")
def softmax(seen: Seen) -> Direct | None:
    """Along one axis; in older versions over all from one on."""
    rank = seen.rank(0) or 0
    if seen.op.version >= _SOFTMAX_ALONG_ONE_AXIS:
        return _untouched(seen, [int(seen.attr("axis", -1))])
    return _untouched(seen, range(int(seen.attr("axis", 1)) % rank, rank)) if rank else None


@handles(RULES, "LayerNormalization", "RMSNormalization")
def layer_norm(seen: Seen) -> Direct | None:
    """Over all axes from one on."""
    rank = seen.rank(0)
    return _untouched(seen, range(int(seen.attr("axis", -1)) % rank, rank)) if rank else None


@handles(RULES, "LpNormalization", "TopK")
def along_last(seen: Seen) -> Direct | None:
    """Along one axis, the last if none is given."""
    return _untouched(seen, [int(seen.attr("axis", -1))])


@handles(RULES, "CumSum")
def cumulative_sum(seen: Seen) -> Direct | None:
    """Along one axis, a constant."""
    return _untouched(seen, seen.numbers(1))


@handles(RULES, "DFT")
def fourier(seen: Seen) -> Direct | None:
    """Along one axis, and the last, of real and imaginary parts."""
    if seen.op.input(2):
        named = seen.numbers(2)
    else:
        named = [int(seen.attr("axis", -2 if seen.op.version >= 20 else 1))]
    return None if named is None else _untouched(seen, [named[0], -1])


@handles(RULES, "ArgMax", "ArgMin")
def arg_extreme(seen: Seen) -> Direct | None:
    """Along one axis, which goes or stays."""
    return _untouched(seen, [int(seen.attr("axis", 0))], kept=bool(seen.attr("keepdims", 1)))


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@handles(RULES, *(f"Reduce{name}" for name in _REDUCTIONS))
def reduce(seen: Seen) -> Direct | None:
    """Over the axes that are named."""
    axes = seen.numbers(1, "axes")
    return _untouched(seen, axes, kept=bool(seen.attr("keepdims", 1))) if axes else None


@handles(RULES, "MeanVarianceNormalization")
def mean_variance(seen: Seen) -> Direct | None:
    """Over some axes, of which the first may be one."""
    return _untouched(seen, [int(a) for a in seen.attr("axes", [0, 2, 3])])


@handles(RULES, "Trilu")
def triangle(seen: Seen) -> Direct | None:
    """The last two axes."""
    return _untouched(seen, [-1, -2])


@handles(RULES, "Transpose")
def transpose(seen: Seen) -> Direct | None:
    """The images go with their axis."""
    held, rank = seen.at(0), seen.rank(0)
    if held is None or held.axis is None or rank is None:
        return None
    order = seen.attr("perm") or list(reversed(range(rank)))
    return Direct({0: held}, Held(list(order).index(held.axis), held.length))


@handles(RULES, "Squeeze")
def squeeze(seen: Seen) -> Direct | None:
    """Axes of length one go."""
    axes = seen.numbers(1, "axes")
    return _untouched(seen, axes, kept=False) if axes else None


@handles(RULES, "Unsqueeze")
def unsqueeze(seen: Seen) -> Direct | None:
    """New axes of length one."""
    held, rank, axes = seen.at(0), seen.rank(0), seen.numbers(1, "axes")
    if held is None or held.axis is None or rank is None or axes is None:
        return None
    new = {axis % (rank + len(axes)) for axis in axes}
    old = [axis for axis in range(rank + len(axes)) if axis not in new]
    return Direct({0: held}, Held(old[held.axis], held.length))


@handles(RULES, "Flatten")
def flatten(seen: Seen) -> Direct | None:
    """All axes before one become the rows: those of an image after those of the one before."""
    rank, length = seen.rank(0), 1
    axis = int(seen.attr("axis", 1)) % rank if rank else 0
    for k in range(axis):
        each = seen.length(0, k)
        if each is None:
            return None
        length *= each
    first = seen.length(0, 0)
    return Direct({0: Held(0, first)}, Held(0, length)) if axis and first else None


@handles(RULES, "Concat")
def concat(seen: Seen) -> Direct | None:
    """Along another axis than the images; what they share is repeated for each."""
    rank = next((seen.rank(slot) for slot in seen.slots() if seen.rank(slot)), None)
    if rank is None:
        return None
    axis = int(seen.attr("axis", 1)) % rank
    for slot in seen.batched():
        held = seen.at(slot)
        if held is None or held.axis is None or held.axis == axis:
            continue
        if all(seen.length(k, held.axis) == held.length for k in seen.slots()):
            return Direct(dict.fromkeys(seen.slots(), held), held)
    return None


@handles(RULES, "Split")
def split(seen: Seen) -> Direct | None:
    """Along another axis than the images."""
    return _untouched(seen, [int(seen.attr("axis", 0))])


@handles(RULES, "Slice")
def slice_(seen: Seen) -> Direct | None:
    """Along named axes, or the first ones, of which there are as many as starts."""
    axes = seen.numbers(3, "axes")
    if axes is None and not seen.op.input(3):
        starts = seen.numbers(1, "starts")
        count = seen.length(1, 0) if starts is None else len(starts)
        axes = None if count is None else list(range(count))
    return _untouched(seen, axes)


@handles(RULES, "Pad")
def pad(seen: Seen) -> Direct | None:
    """Along the axes that are padded at all; along named axes, or maybe all, where the pads are computed."""
    pads, named = seen.numbers(1, "pads"), seen.numbers(3)
    if named is None and 3 in seen.slots():
        return None
    if pads is None:
        return _untouched(seen, named)
    axes = named if named is not None else range(len(pads) // 2)
    half = len(pads) // 2
    return _untouched(seen, [axis for k, axis in enumerate(axes) if pads[k] or pads[half + k]])


@handles(RULES, "Tile")
def tile(seen: Seen) -> Direct | None:
    """Along the axes that are repeated."""
    repeats = seen.numbers(1)
    return None if repeats is None else _untouched(seen, [k for k, n in enumerate(repeats) if n != 1])


@handles(RULES, "Gather")
def gather(seen: Seen) -> Direct | None:
    """From each image along another axis, or by each image's positions from what they share."""
    axis, places, rank = int(seen.attr("axis", 0)), seen.rank(1), seen.rank(0)
    if rank is None or places is None:
        return None
    axis %= rank
    held = seen.at(0) or seen.at(1)
    if held is None or held.axis is None or len(seen.batched()) > 1:
        return None
    if seen.at(0) is None:
        return Direct({1: held}, Held(axis + held.axis, held.length))
    if held.axis == axis:
        return None
    after = held.axis + (places - 1 if axis < held.axis else 0)
    return Direct({0: held}, Held(after, held.length))


@handles(RULES, "OneHot")
def one_hot(seen: Seen) -> Direct | None:
    """A new axis, somewhere among those of the positions."""
    held, rank = seen.at(0), seen.rank(0)
    if held is None or held.axis is None or rank is None or seen.batched() != [0]:
        return None
    new = int(seen.attr("axis", -1)) % (rank + 1)
    return Direct({0: held}, Held(held.axis + (new <= held.axis), held.length))
