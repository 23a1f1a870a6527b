"""Tables of the report page, as HTML."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from conet_graph.report.colors import size_color
from conet_graph.report.markup import UNKNOWN, change, count, duration, named, percent, safe
from conet_graph.search.recorded import Compared, Outcome, RecordedRun, RecordedSize, RecordedTrial

_ACTIONS = {1: ("up", "▲", "grows"), -1: ("down", "▼", "shrinks"), 0: ("", "", "stays")}
# Kinds of networks in a comparison, in the order of the paper's tables.
_KINDS = {
    "conet": "found by the search",
    "uniform": "uniform scaling",
    "flat": "one width everywhere",
    "random": "random widths",
    "original": "original widths",
}


def table(heads: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    """A table from ready cells; a head that begins with '#' is of a column of numbers."""
    cells = "".join(f'<th class="n">{h[1:]}</th>' if h.startswith("#") else f"<th>{h}</th>" for h in heads)
    body = "\n".join(rows)
    start = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="table">{start}<thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def swatch(color: str) -> str:
    """A small square in a size's colour."""
    return f'<span class="swatch" style="--c:{color}"></span>'


def sizes_table(run: RecordedRun) -> str:
    """The last widths beside the first, with what the last measured trial said of each size."""
    known = [(k, size, run.first_and_last(size)) for k, size in enumerate(run.sizes)]
    widest = max((max(pair) for _, _, pair in known if pair), default=1)
    rows = [_size_row(run, k, size, pair, widest) for k, size, pair in known]
    heads = ("size", "layers", "#first", "#last", "#change", "", "#slope", "#condition", "#step", "state")
    return table(heads, rows)


def _size_row(run: RecordedRun, k: int, size: RecordedSize, pair: tuple[int, int] | None, widest: int) -> str:
    color = size_color(k, len(run.sizes))
    trial = next((t for t in reversed(run.trials) if size.name in t.outcomes), None)
    outcome = trial.outcomes[size.name] if trial else None
    first, last = pair or (0, 0)
    bars = (
        f'<div class="bars"><span class="is" style="--c:{color};width:{100 * last / widest:.1f}%"></span>'
        f'<span class="was" style="width:{100 * first / widest:.1f}%"></span></div>'
    )
    phi = run.trials[-1].widths.get(size.name) if run.trials else None
    layers = ", ".join(size.layers)
    more = f' <span class="muted">+{len(size.layers) - 1}</span>' if len(size.layers) > 1 else ""
    cells = [
        f'<td><span class="size">{swatch(color)}{named(size.name, 24)}</span></td>',
        f'<td class="name" title="{named(layers, 600)}">'
        f"{named(size.layers[0], 60) if layers else UNKNOWN}{more}</td>",
        *(_number(str(w) if pair else UNKNOWN) for w in (first, last)),
        _number(change(first, last)),
        f"<td>{bars if pair else ''}</td>",
        _number(_decimals(outcome.slope if outcome else None, 4)),
        _number(_decimals(outcome.condition if outcome else None, 2)),
        _number(UNKNOWN if phi is None else f"{100 * phi.phi:.3g} %"),
        f"<td>{_state(outcome)}</td>",
    ]
    return f'<tr data-size="{k}">{"".join(cells)}</tr>'


def _state(outcome: Outcome | None) -> str:
    if outcome is None:
        return '<span class="muted">not measured yet</span>'
    return "settled" if outcome.stopped else _ACTIONS.get(outcome.action, _ACTIONS[0])[2]


def _number(text: str) -> str:
    return f'<td class="n">{text}</td>'


def _decimals(number: float | None, digits: int) -> str:
    return UNKNOWN if number is None else f"{number:.{digits}f}"


def course_table(run: RecordedRun) -> str:
    """Width of every size in every trial, and what Algorithm 2 made of it."""
    heads = "".join(f'<th class="n">{trial.number}</th>' for trial in run.trials)
    rows = []
    for k, size in enumerate(run.sizes):
        head = f'<span class="size">{swatch(size_color(k, len(run.sizes)))}{named(size.name, 24)}</span>'
        cells = "".join(_course_cell(trial, size) for trial in run.trials)
        rows.append(f'<tr data-size="{k}"><th class="row">{head}</th>{cells}</tr>')
    return (
        '<div class="table"><table class="course"><thead><tr><th class="corner">size</th>'
        f"{heads}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _course_cell(trial: RecordedTrial, size: RecordedSize) -> str:
    width, outcome = trial.widths.get(size.name), trial.outcomes.get(size.name)
    if width is None:
        return "<td></td>"
    if outcome is None:
        return f"<td>{width.width}</td>"
    name, mark, verb = _ACTIONS.get(outcome.action, _ACTIONS[0])
    if outcome.stopped:
        name, mark, verb = "stopped", "", "settled"
    said = (
        f"trial {trial.number}: {width.width} channels, rank-slope {_decimals(outcome.slope, 4)}, "
        f"condition {_decimals(outcome.condition, 2)}, step {100 * width.phi:.3g} %: {verb}"
        + ("" if outcome.stopped else f" to {outcome.new_width}")
    )
    mark = f"<i>{mark}</i>" if mark else ""
    return f'<td class="{name}" title="{safe(said)}">{width.width}{mark}</td>'


def trials_table(run: RecordedRun) -> str:
    """One row a trial."""
    heads = (
        *("trial", "status", "#parameters", "#MACs", "#test accuracy", "#epochs", "#time"),
        *("#indicators and graph", "#grow", "#shrink", "#settled"),
    )
    best = run.best
    rows = []
    for trial in run.trials:
        moves = Counter(
            "settled" if o.stopped else _ACTIONS.get(o.action, _ACTIONS[0])[2]
            for o in trial.outcomes.values()
        )
        moved = [str(moves[verb]) if trial.outcomes else UNKNOWN for verb in ("grows", "shrinks", "settled")]
        mark = " best" if best is not None and trial.number == best.number else ""
        cells = [
            f"<td>{trial.number}</td><td>{named(trial.status, 40)}</td>",
            _number(count(trial.parameters)),
            _number(count(trial.macs)),
            f'<td class="n{mark}">{percent(trial.accuracy)}</td>',
            _number(str(len(trial.epochs))),
            _number(duration(trial.total_seconds)),
            _number(share(trial.overhead_seconds, trial.total_seconds)),
            *map(_number, moved),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return table(heads, rows)


def share(part: float, whole: float) -> str:
    """A part of some time as a percentage."""
    return f"{100 * part / whole:.1f} %" if whole else UNKNOWN


def comparison_table(comparison: Sequence[Compared]) -> str:
    """The paper's table: accuracy over seeds, parameters and cost of each kind of network."""
    kinds: dict[str, list[Compared]] = defaultdict(list)
    for entry in comparison:
        kinds[entry.kind].append(entry)
    order = [k for k in _KINDS if k in kinds] + [k for k in kinds if k not in _KINDS]
    means = {kind: _mean_accuracy(kinds[kind]) for kind in order}
    best = max((m for m in means.values() if m is not None), default=None)
    rows = [_kind_row(kind, kinds[kind], best is not None and means[kind] == best) for kind in order]
    heads = ("widths", "#test accuracy", "#parameters", "#MACs", "#seeds", "#epochs", "#training time")
    return table(heads, rows)


def _mean_accuracy(entries: Sequence[Compared]) -> float | None:
    found = [e.test_accuracy for e in entries if e.test_accuracy is not None]
    return fmean(found) if found else None


def _kind_row(kind: str, entries: Sequence[Compared], best: bool) -> str:
    found = [e.test_accuracy for e in entries if e.test_accuracy is not None]
    spread = f" ± {100 * stdev(found):.1f}" if len(found) > 1 else ""
    accuracy = f"{100 * fmean(found):.1f}{spread} %" if found else UNKNOWN
    seconds = [e.seconds for e in entries if e.seconds is not None]
    cells = [
        f"<td>{safe(_KINDS[kind]) if kind in _KINDS else named(kind, 40)}</td>",
        f'<td class="n{" best" if best else ""}">{accuracy}</td>',
        _number(_range([e.parameters for e in entries])),
        _number(_range([e.macs for e in entries])),
        _number(str(len(entries))),
        _number(_range([e.epochs for e in entries])),
        _number(duration(sum(seconds) if seconds else None)),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _range(numbers: Sequence[int | None]) -> str:
    """A number, or the smallest and the largest where seeds differ in it."""
    known = [n for n in numbers if n is not None]
    if not known:
        return UNKNOWN
    low, high = count(min(known)), count(max(known))
    return low if low == high else f"{low} to {high}"
