"""``conet-graph report``: a search as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conet_graph.ir.errors import shown
from conet_graph.ir.save import atomic_write
from conet_graph.report.colors import size_color
from conet_graph.report.document import canvas, card, document, section
from conet_graph.report.inline_plot import ON_PAGE, inline_svg
from conet_graph.report.markup import change, count, duration, named, percent, safe
from conet_graph.report.plots import (
    Dot,
    decides_by_delta,
    draw_accuracy,
    draw_parameters,
    draw_ranks,
    draw_slopes,
    draw_tradeoff,
    draw_widths,
    new_figure,
    rank_top,
    themed,
)
from conet_graph.report.run_drawing import draw_network
from conet_graph.report.tables import (
    comparison_table,
    course_table,
    share,
    sizes_table,
    swatch,
    trials_table,
)
from conet_graph.search.recorded import RecordedRun

_MAIN_SETTINGS = (
    *("rule", "trials", "epochs", "delta", "mu", "gamma", "phi", "start_width", "own_widths", "warm"),
    *("min_width", "max_width", "multiple", "schedule", "learning_rate", "batch", "seed"),
)
_STATES = ("running", "finished", "failed", "interrupted")
_NO_TRIAL = '<p class="note">No trial has been measured yet.</p>'


def write_page(run: RecordedRun, path: Path) -> None:
    """Write the page of a run.

    Raises:
        BadUsage: the file cannot be written.

    """
    atomic_write(path, [page(run).encode()])


def page(run: RecordedRun) -> str:
    """The page of a run as HTML."""
    name = PurePath(run.about.get("model", "unnamed network")).name
    with themed(ON_PAGE):
        parts = [
            _header(run, name),
            _cards(run),
            _widths(run),
            _progress(run),
            section("Last widths beside the first", _LAST_NOTE, sizes_table(run)),
            _ranks(run),
            _slopes(run),
            section("Decisions", _DECISIONS_NOTE, course_table(run)),
            _drawing(run),
            section("Trials", "", trials_table(run) if run.trials else _NO_TRIAL),
        ]
    if run.comparison:
        note = "Each network trained equally long; mean and standard deviation over seeds."
        parts.append(section("Comparison", note, comparison_table(run.comparison)))
    return document(f"{shown(name)[1:-1]}: channel search", [*parts, _footer(run)])


_LAST_NOTE = (
    "The width of each size in the last trial; the thin bar below is the first trial's. Slope, condition and "
    "what followed are the last measured trial's. A row lights its curve."
)
_DECISIONS_NOTE = (
    '<span class="key"><span>Each size\'s width in each trial, and what followed:</span>'
    '<span><b class="up">▲</b> grew</span><span><b class="down">▼</b> shrank</span>'
    "<span>grey: settled</span></span>"
)


def _header(run: RecordedRun, name: str) -> str:
    status = run.status if run.status in _STATES else "unknown"
    given = {key: value for key, value in run.settings.items() if value not in (None, False)}
    main = _chips({key: given[key] for key in _MAIN_SETTINGS if key in given})
    others = {key: value for key, value in given.items() if key not in (*_MAIN_SETTINGS, "data")}
    more = f"<details><summary>other settings</summary>{_chips(others)}</details>" if others else ""
    about = run.about
    return (
        f'<header><div class="line"><h1>{named(name)}</h1>'
        f'<span class="badge {status}">{named(run.status, 40)}</span></div>'
        f'<p class="note">Channel search on {named(about.get("data", "unknown data"))}, started '
        f"{named(about.get('started', 'at an unknown time').replace('T', ' '))}</p>"
        f"{main}{more}</header>"
    )


def _chips(settings: Mapping[str, object]) -> str:
    items = "".join(
        f"<li><span>{named(key.replace('_', ' '), 40)}</span> {named(_value(value), 60)}</li>"
        for key, value in settings.items()
    )
    return f'<ul class="settings">{items}</ul>'


def _value(value: object) -> str:
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _cards(run: RecordedRun) -> str:
    cards = []
    counted = [t.parameters for t in run.trials if t.parameters is not None]
    if counted:
        moved = f"{count(counted[0])} → {count(counted[-1])}"
        cards.append(card("Parameters, first → last trial", moved, change(counted[0], counted[-1])))
    best = run.best
    if best is not None:
        more = f"trial {best.number}, {count(best.parameters)} parameters"
        cards.append(card("Best test accuracy", percent(best.accuracy), more))
    most = run.settings.get("trials")
    of = f" of at most {most}" if isinstance(most, int) else ""
    epochs = sum(len(trial.epochs) for trial in run.trials)
    cards.append(
        card("Trials", str(len(run.trials)), f"{safe(of.strip())}{', ' if of else ''}{epochs} epochs")
    )
    settled = sum(o.stopped for o in run.last_outcomes.values())
    cards.append(card("Sizes settled", f"{settled} of {len(run.sizes)}"))
    cards.append(card("Time in trials", duration(run.seconds)))
    overhead = share(run.overhead_seconds, run.seconds)
    cards.append(card("Indicators and graph work", overhead, "of that time"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _plot(
    run: RecordedRun,
    draw: Callable[[Axes, RecordedRun], list[Dot]],
    shape: tuple[float, float],
    label: str,
    kind: str = "plot",
) -> str:
    figure = new_figure(*shape)
    axes = figure.add_subplot()
    dots = draw(axes, run)
    return f'<div class="{kind}">{inline_svg(figure, label, axes, dots)}</div>'


def _widths(run: RecordedRun) -> str:
    if not run.trials:
        return section("Channel sizes per trial", "", _NO_TRIAL)
    chips = "".join(
        f'<span class="chip" data-size="{k}" title="{named(", ".join(size.layers), 300)}">'
        f"{swatch(size_color(k, len(run.sizes)))}{named(size.name, 24)}</span>"
        for k, size in enumerate(run.sizes)
    )
    note = "One line a size, from the first layers (blue) to the last (red). Point at a size to follow it."
    if len(run.sizes) <= 8:
        note = "One line a size. Point at a size to follow it."
    plot = _plot(run, draw_widths, (11.0, 4.6), "Channel sizes per trial", "plot wide")
    return section("Channel sizes per trial", note, plot, f'<div class="chips">{chips}</div>')


def _progress(run: RecordedRun) -> str:
    if not any(trial.epochs for trial in run.trials):
        return section("Parameters and accuracy", "", _NO_TRIAL)
    shape = (4.0, 2.9)
    plots = [
        f"<div><h3>{title}</h3>{_plot(run, draw, shape, title)}</div>"
        for title, draw in (
            ("Parameters", draw_parameters),
            ("Test accuracy", draw_accuracy),
            ("Accuracy against parameters", draw_tradeoff),
        )
    ]
    return section("Parameters and accuracy over trials", "", f'<div class="trio">{"".join(plots)}</div>')


def _ranks(run: RecordedRun) -> str:
    if not any(trial.ranks for trial in run.trials):
        return section("Rank of each size over epochs", "", _NO_TRIAL)
    top = rank_top(run)
    note = (
        "The share of a size's channels that carry structure, after each epoch; one line a trial, the later "
        "the stronger. Beside the name: the rank-slope of the last measured trial."
    )
    panels = []
    for k, size in enumerate(run.sizes):
        # Fixed margins: fitting the layout to labels would take longer than all the rest.
        figure = Figure(figsize=(2.0, 1.25))
        axes = figure.add_axes((0.15, 0.17, 0.81, 0.76))
        draw_ranks(axes, run, k, top)
        outcome = run.last_outcomes.get(size.name)
        slope = f"{outcome.slope:.4f}" if outcome is not None and outcome.slope is not None else ""
        panels.append(
            f'<div class="panel" data-size="{k}"><div class="name">'
            f'{swatch(size_color(k, len(run.sizes)))}<span class="text">{named(size.name, 24)}</span>'
            f'<span class="slope">{slope}</span></div>'
            f'<div class="plot">{inline_svg(figure, f"Rank of size {k}")}</div></div>'
        )
    return section("Rank of each size over epochs", note, f'<div class="panels">{"".join(panels)}</div>')


def _slopes(run: RecordedRun) -> str:
    title = "Rank-slope per trial"
    if not run.last_outcomes:
        return section(title, "", _NO_TRIAL)
    below = "; below delta it shrinks" if decides_by_delta(run) else ""
    note = f"How fast each size still learned{below}."
    return section(title, note, _plot(run, draw_slopes, (11.0, 4.2), title, "plot wide"))


def _drawing(run: RecordedRun) -> str:
    title = "The network"
    drawn = draw_network(run)
    if drawn is None:
        return section(title, "No ONNX file of this run could be read, so there is no drawing.")
    if drawn.svg is None:
        return section(title, f"{drawn.layers} layers are more than a drawing can show.")
    note = (
        f"Layers and the places where feature maps meet, with {drawn.what}; colours are sizes, dashed layers "
        "are frozen, lines are as thick as they have channels."
    )
    return section(title, note, canvas(drawn.svg))


def _footer(run: RecordedRun) -> str:
    about = run.about
    digest = about.get("sha256", "")[:16]
    return (
        f"<footer><code>{named(about.get('command', ''), 600)}</code><br>"
        f"model {named(about.get('model', 'unknown'), 300)} · sha256 {named(digest)}… · conet-graph "
        f"{named(about.get('version', '?'), 40)}</footer>"
    )
