"""Tables of the widths experiment: differences to compound scaling, seed by seed, with Holm's correction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import t

REFERENCE = "compound"
MATCHED = {"both": "parameters and MACs", "params": "parameters", "macs": "MACs"}
TITLES = (
    "| widths | test accuracy | ahead of compound | p (Holm) | parameters | MACs | ms | minutes | search |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def tables(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    """A table for every network and budget, in the order of the rows."""
    places = dict.fromkeys(map(_place, rows))
    return "\n\n".join(_table(place, rows, found) for place in places)


def paired(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference, half of its 95 % t interval, and the two-sided p of the paired t test.

    >>> [round(x, 4) for x in paired([0.5, 0.6, 0.7], [0.4, 0.4, 0.6])]
    [0.1333, 0.1434, 0.0572]
    """
    gaps = [one - other for one, other in zip(mine, theirs, strict=True)]
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
    free = len(gaps) - 1
    p = float(2 * t.sf(abs(mean) / error, free)) if error else float(not mean)
    return mean, float(t.ppf(0.975, free)) * error, p


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected by Holm's step-down method.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        corrected[index] = largest
    return corrected


def _place(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["network"], row["base"], row["match"]


def _table(
    place: tuple[str, int, str], rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> str:
    mine = [row for row in rows if _place(row) == place or _is_reference(row, place)]
    kinds = {kind: [row for row in mine if row["kind"] == kind] for kind in dict.fromkeys(_kinds(mine))}
    reference = {row["seed"]: row["accuracy"] for row in kinds.get(REFERENCE, [])}
    tests = {}
    for kind, these in kinds.items():
        pairs = [(row["accuracy"], reference[row["seed"]]) for row in these if row["seed"] in reference]
        if kind != REFERENCE and len(pairs) > 1:
            tests[kind] = paired(*zip(*pairs, strict=True))
    corrected = dict(zip(tests, holm([p for _, _, p in tests.values()]), strict=True))
    lines = [f"{place[0]}, base width {place[1]}, at equal {MATCHED[place[2]]}:", "", *TITLES]
    for kind, these in kinds.items():
        searches = [row for row in found if (_place(row), row["kind"]) == (place, kind)]
        lines.append(_line(kind, these, tests.get(kind), corrected.get(kind), searches))
    return "\n".join(lines)


def _is_reference(row: dict[str, Any], place: tuple[str, int, str]) -> bool:
    """Whether it is of compound scaling, which fills all budgets of its base width at once."""
    return row["kind"] == REFERENCE and _place(row)[:2] == place[:2]


def _line(
    kind: str,
    rows: Sequence[dict[str, Any]],
    test: tuple[float, float, float] | None,
    corrected: float | None,
    searches: Sequence[dict[str, Any]],
) -> str:
    accuracy = [100 * row["accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    ahead = "" if test is None else f"{100 * test[0]:+.2f} ± {100 * test[1]:.2f}"
    p = "" if corrected is None else f"{corrected:.2g}"
    macs = f"{statistics.mean(row['macs'] for row in rows) / 1e6:.2f} M"
    known = [row["minutes"] for row in searches if row["minutes"] is not None]
    spent = f"{statistics.mean(known):.1f}" if known else ""
    timed = [row["ms"] for row in rows if row["ms"] is not None]
    cells = (
        f"{kind} ({len(rows)})", f"{statistics.mean(accuracy):.2f}{spread} %", ahead, p,
        f"{statistics.mean(row['parameters'] for row in rows):,.0f}", macs,
        f"{statistics.median(timed):.3f}" if timed else "",
        f"{statistics.mean(row['minutes'] for row in rows):.2f}", spent,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _kinds(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Kinds in the order of their first rows."""
    return [row["kind"] for row in rows]
