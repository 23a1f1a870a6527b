"""The plots of a search, drawn by matplotlib: each function fills axes, for pages and for files alike.

Curves of sizes bear the id ``size-K`` (K: the size's place), so that a page can find them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from conet_graph.ir.errors import shown
from conet_graph.report.colors import FEW, size_color
from conet_graph.report.layout import separated
from conet_graph.report.markup import count, percent, short_count
from conet_graph.search.recorded import RecordedRun

# Curves are named at their ends up to this many sizes; more would overlap.
MOST_LABELS = 24
PARAMETERS, ACCURACY = FEW[0], FEW[2]


@dataclass(frozen=True)
class Theme:
    """Colours of text, secondary text, lines and ground; no ground is transparent."""

    ink: str
    muted: str
    line: str
    ground: str | None


PRINTED = Theme("#1c2128", "#5b6570", "#d9dee4", "#ffffff")


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a curve and what is to be said about it; ``size`` is None where it is of no size."""

    x: float
    y: float
    text: str
    size: int | None = None


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draw with this theme inside."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "conet-graph",
        "font.size": 9,
        "text.color": theme.ink,
        "axes.axisbelow": True,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "figure.facecolor": theme.ground or "none",
        "figure.dpi": 72,
        "grid.color": theme.line,
        "grid.linewidth": 0.7,
        "lines.solid_capstyle": "round",
        "xtick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.color": theme.line,
        "ytick.labelcolor": theme.muted,
        "ytick.left": False,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches of 72 points, that makes room for its labels by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def draw_widths(axes: Axes, run: RecordedRun) -> list[Dot]:
    """Channel sizes per trial (the paper's Fig. 5)."""
    curves = {k: run.course(size) for k, size in enumerate(run.sizes)}
    axes.set_ylabel("channels")
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    dots = _draw_sizes(axes, run, curves, lambda y: f"{y:g} channels")
    _trial_axis(axes, run)
    return dots


def decides_by_delta(run: RecordedRun) -> bool:
    """Whether the search's rule is Algorithm 2, as in all runs from before there were others."""
    return bool(run.settings.get("rule", "conet") == "conet")


def draw_slopes(axes: Axes, run: RecordedRun) -> list[Dot]:
    """The rank-slope of every size in every trial, and the delta below which Algorithm 2 shrinks a size."""
    curves: dict[int, list[tuple[int, float]]] = {}
    for k, size in enumerate(run.sizes):
        found = [(t.number, t.outcomes[size.name].slope) for t in run.trials if size.name in t.outcomes]
        curves[k] = [(x, y) for x, y in found if y is not None]
    axes.set_ylabel("rank-slope per epoch")
    delta = run.settings.get("delta") if decides_by_delta(run) else None
    if isinstance(delta, int | float):
        ink = matplotlib.rcParams["text.color"]
        dashes = (0, (4, 3))
        axes.axhline(delta, color=ink, linewidth=1.1, linestyle=dashes, label=f"delta {delta:g}", zorder=3)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False)
    dots = _draw_sizes(axes, run, curves, lambda y: f"rank-slope {y:.4f}")
    _trial_axis(axes, run)
    return dots


def draw_parameters(axes: Axes, run: RecordedRun) -> list[Dot]:
    """Parameters of the network of each trial."""
    points = [(t.number, float(t.parameters)) for t in run.trials if t.parameters is not None]
    _draw_course(axes, points, PARAMETERS)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short_count(y)))
    axes.set_ylabel("parameters")
    _trial_axis(axes, run)
    return [Dot(x, y, f"trial {x}: {count(round(y))} parameters") for x, y in points]


def draw_accuracy(axes: Axes, run: RecordedRun) -> list[Dot]:
    """Test accuracy at the end of each trial."""
    points = [(t.number, t.accuracy) for t in run.trials if t.accuracy is not None]
    _draw_course(axes, points, ACCURACY)
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    axes.set_ylabel("test accuracy")
    _trial_axis(axes, run)
    return [Dot(x, y, f"trial {x}: {percent(y)}") for x, y in points]


def draw_tradeoff(axes: Axes, run: RecordedRun) -> list[Dot]:
    """Accuracy against parameters, trial after trial, and compared networks (the paper's Fig. 6)."""
    known = [
        (t.number, t.parameters, t.accuracy) for t in run.trials if t.parameters and t.accuracy is not None
    ]
    muted, ink = matplotlib.rcParams["axes.labelcolor"], matplotlib.rcParams["text.color"]
    axes.plot([p for _, p, _ in known], [a for _, _, a in known], color=muted, linewidth=0.9, alpha=0.6)
    for number, parameters, accuracy in known:
        shade = 0.25 + 0.75 * (number + 1) / len(run.trials)
        axes.plot([parameters], [accuracy], "o", color=ACCURACY, alpha=shade, markersize=5.5)
    for place, (number, parameters, accuracy) in (("first", known[0]), ("last", known[-1])) if known else ():
        if place == "first" or number != known[0][0]:
            axes.annotate(
                place,
                (parameters, accuracy),
                xytext=(0, -11),
                textcoords="offset points",
                fontsize=8,
                color=ink,
                ha="center",
            )
    axes.margins(x=0.12, y=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_count(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy")
    return [Dot(p, a, f"trial {n}: {count(p)} parameters, {percent(a)}") for n, p, a in known]


def draw_ranks(axes: Axes, run: RecordedRun, size: int, top: float) -> None:
    """Rank curves of one size (Fig. 3): one line a trial, the later the stronger; y up to ``top``."""
    trials = [t for t in run.trials if t.ranks.get(run.sizes[size].name)]
    color = size_color(size, len(run.sizes))
    curves = [trial.ranks[run.sizes[size].name] for trial in trials]
    shades = [0.22 + 0.78 * ((k + 1) / len(curves)) ** 2 for k in range(len(curves))]
    widths = [1.0] * (len(curves) - 1) + [1.9]
    axes.add_collection(
        LineCollection(curves, colors=[to_rgba(color, shade) for shade in shades], linewidths=widths)
    )
    single = [curve[0] for curve in curves if len(curve) == 1]
    axes.plot([x for x, _ in single], [y for _, y in single], "o", color=color, markersize=3)
    epochs = [x for t in trials for x, _ in t.ranks[run.sizes[size].name]]
    low, high = (min(epochs), max(epochs)) if epochs else (1, 2)
    axes.set_xlim(low - 0.03 * (high - low) - 0.02, max(high, low + 1) * 1.0 + 0.03 * (high - low))
    axes.set_xticks(sorted({low, high}))
    axes.set_ylim(0, top)
    axes.set_yticks([0, top / 2, top], labels=["0", f"{top / 2:g}", f"{top:g}"])


def rank_top(run: RecordedRun) -> float:
    """The upper end of all rank axes: the largest rank, rounded up to a fifth."""
    ranks = (y for t in run.trials for curve in t.ranks.values() for _, y in curve)
    return max(0.2, math.ceil(max(ranks, default=1.0) * 5 - 1e-9) / 5)


def draw_final(axes: Axes, run: RecordedRun) -> None:
    """The last width of each size beside its first."""
    pairs = [(k, run.first_and_last(size)) for k, size in enumerate(run.sizes)]
    known = [(k, pair) for k, pair in pairs if pair is not None]
    muted = matplotlib.rcParams["axes.labelcolor"]
    places = list(range(len(known)))
    colors = [size_color(k, len(run.sizes)) for k, _ in known]
    axes.bar(places, [last for _, (_, last) in known], width=0.72, color=colors, label="last")
    for x, (_, (first, _)) in zip(places, known, strict=True):
        axes.plot([x - 0.42, x + 0.42], [first, first], color=muted, linewidth=1.6)
    axes.set_xticks(
        places, labels=[size_label(run, k) for k, _ in known], rotation=90 if len(known) > 16 else 0
    )
    axes.set_xlim(-0.6, len(known) - 0.4)
    axes.tick_params(axis="x", labelsize=8 if len(known) <= 40 else 6, length=0)
    axes.set_ylabel("channels (line: first trial)")


def size_label(run: RecordedRun, size: int, limit: int = 12) -> str:
    """A size's name as matplotlib may print it: short, of its fonts' letters, and no formula."""
    return shown(run.sizes[size].name, limit)[1:-1].replace("$", r"\$")


def _draw_sizes(
    axes: Axes,
    run: RecordedRun,
    curves: Mapping[int, Sequence[tuple[int, float]]],
    said: Callable[[float], str],
) -> list[Dot]:
    """One line a size, named at its end while there is room."""
    total = len(run.sizes)
    thin = total > MOST_LABELS
    dots = []
    for k, curve in curves.items():
        axes.plot(
            [x for x, _ in curve],
            [y for _, y in curve],
            color=size_color(k, total),
            linewidth=1.2 if thin else 1.7,
            marker="o",
            markersize=2.0 if thin else 3.2,
            gid=f"size-{k}",
        )
        dots += [Dot(x, y, f"{size_label(run, k, 40)}, trial {x}: {said(y)}", k) for x, y in curve]
    if not thin:
        _name_ends(axes, run, {k: curve[-1] for k, curve in curves.items() if curve})
    return dots


def _name_ends(axes: Axes, run: RecordedRun, ends: Mapping[int, tuple[int, float]]) -> None:
    """Names to the right of the last points, moved apart where they would overlap.

    Sizes that end at one point share a line of text.
    """
    if not ends:
        return
    sharing: dict[float, list[int]] = {}
    for k in sorted(ends, key=lambda k: ends[k][1]):
        sharing.setdefault(ends[k][1], []).append(k)
    low, high = axes.get_ylim()
    height = axes.get_figure(root=True).get_figheight() * 72 * 0.8  # type: ignore[union-attr]
    step = 10.0 * (high - low) / height
    places = separated(list(sharing), [1.0] * len(sharing), [step * n for n in range(len(sharing))])
    axes.set_ylim(min(low, places[0] - step / 2), max(high, places[-1] + step / 2))
    right = max(x for x, _ in ends.values())
    for together, y in zip(sharing.values(), places, strict=True):
        alone = len(together) == 1
        more = f" +{len(together) - 3}" if len(together) > 3 else ""
        axes.annotate(
            ", ".join(size_label(run, k) for k in together[:3]) + more,
            (right, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=size_color(together[0], len(run.sizes)) if alone else None,
            annotation_clip=False,
            gid=f"size-{together[0]}" if alone else None,
        )


def _draw_course(axes: Axes, points: Sequence[tuple[int, float]], color: str) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=color,
        linewidth=1.9,
        marker="o",
        markersize=4,
    )


def _trial_axis(axes: Axes, run: RecordedRun) -> None:
    last = max((trial.number for trial in run.trials), default=0)
    room = 0.3 if last else 0.6
    axes.set_xlabel("trial")
    axes.set_xlim(-room, last + room)
    axes.set_xticks(range(0, last + 1, max(1, math.ceil(last / 13))))


def _percent_tick(y: float, _: object) -> str:
    return f"{100 * y:.3g} %"
