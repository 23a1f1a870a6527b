"""Curves of what narrowing loses, a small one for each free group, on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from conet_graph.analysis.analysis import GroupEntry
from conet_graph.report.document import section
from conet_graph.report.markup import safe
from conet_graph.report.palette import Palette

# Losses of the lower and upper end of each curve's axis.
LEAST, MOST = 1e-6, 1.0
WIDE, HIGH = 180, 100  # of a plot, in pixels
LEFT, UNDER, ABOVE = 40, 16, 16  # room for labels
MOST_POINTS = 120
_NOTE = (
    "What the layers that read a group lose, as a share of the variance of what they put out, when so many of"
    " its channels stay (the least missed have gone) and their weights are refitted. The scale is logarithmic"
    " and the same for all."
)


def loss_curves(
    losses: Mapping[str, Sequence[float]], groups: Sequence[GroupEntry], palette: Palette, most: int
) -> str:
    """A section with the curves of the groups.

    Args:
        losses: by the id of a group, the loss once 0, 1, 2, ... of its steps are gone.
        groups: the free ones.
        palette: colours of their sizes.
        most: how many are drawn at most.

    """
    drawn = [group for group in groups if group.id in losses]
    plots = [_plot(group, losses[group.id], palette) for group in drawn[:most]]
    more = f" The first {most} of {len(drawn)}." if len(drawn) > most else ""
    return section("What a width loses", _NOTE + more, "\n".join(plots))


def _plot(group: GroupEntry, curve: Sequence[float], palette: Palette) -> str:
    """One curve, from no channel to all of them."""
    gone = len(curve) - 1
    every = max(1, -(-gone // MOST_POINTS))
    # Nothing is left at the end of a curve: no width is zero.
    points = [(group.width - k * group.multiple, curve[k]) for k in range(0, gone, every)]
    xs = [LEFT + WIDE * width / group.width for width, _ in points]
    ys = [ABOVE + HIGH * _depth(loss) for _, loss in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    color = palette.color(palette.index.get(group.size))
    told = f"{group.id}: {_at(curve, 0.75)} with three quarters of its channels, {_at(curve, 0.5)} with half"
    ticks = "".join(
        f'<text x="{LEFT - 4}" y="{ABOVE + HIGH * _depth(loss) + 3:.1f}" text-anchor="end">{label}</text>'
        for loss, label in ((1.0, "1"), (1e-2, "0.01"), (1e-4, "1e-4"), (1e-6, "1e-6"))
    )
    bottom = ABOVE + HIGH
    return (
        f'<svg class="curve" width="{LEFT + WIDE + 14}" height="{bottom + UNDER}" role="img" font-size="9"'
        f' fill="currentColor"><title>{safe(told)}</title>'
        f'<text x="{LEFT}" y="{ABOVE - 5}">{safe(group.id)}</text>{ticks}'
        f'<path d="M{LEFT} {ABOVE}V{bottom}H{LEFT + WIDE}" fill="none" stroke="currentColor" opacity="0.3"/>'
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.8"/>'
        f'<text x="{LEFT + WIDE}" y="{bottom + 12}" text-anchor="middle">{group.width}</text>'
        f'<text x="{LEFT}" y="{bottom + 12}" text-anchor="middle">0</text></svg>'
    )


def _depth(loss: float) -> float:
    """How far down from the top a loss lies: 0 at ``MOST`` and above, 1 at ``LEAST`` and below."""
    within = min(max(loss, LEAST), MOST)
    return math.log(MOST / within) / math.log(MOST / LEAST)


def _at(curve: Sequence[float], share: float) -> str:
    """The loss when such a share of the channels stays."""
    return f"{curve[round((len(curve) - 1) * (1 - share))]:.2g}"
