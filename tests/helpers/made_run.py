"""A run folder as a search leaves it, made from Algorithm 2 and invented ranks."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from conet_graph.analysis.analysis import Analysis, analyze
from conet_graph.indicators.slope import SizeIndicators, rank_slope
from conet_graph.search.algorithm import SearchSettings, SizeState, finished, start_state, step_all
from conet_graph.search.run_store import TABLES
from conet_graph.search.settings import RunSettings


def make_run(
    folder: Path,
    sizes: int = 6,
    trials: int = 4,
    *,
    epochs: int = 5,
    model: Path | None = None,
    status: str = "finished",
    compared: bool = True,
    about: dict[str, str] | None = None,
) -> Path:
    """Write a run; with a model its sizes are the model's own, and the model lies beside."""
    folder.mkdir(parents=True, exist_ok=True)
    analysis = None
    if model is not None:
        (folder / "original.onnx").write_bytes(model.read_bytes())
        analysis = analyze(model)
    settings = SearchSettings(trials=trials, epochs=epochs, delta=0.012)
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        database.executescript(TABLES)
        names = _write_sizes(database, analysis, sizes)
        facts = {
            "format": "conet-graph.run/1",
            "model": "networks/resnet20.onnx" if model is None else str(model),
            "sha256": "9f" * 32,
            "data": "npz:cifar10_small.npz",
            "settings": json.dumps(RunSettings("npz:cifar10_small.npz", settings).flat()),
            "status": status,
            "command": "conet-graph search networks/resnet20.onnx --data npz:cifar10_small.npz --out runs/a",
            "version": "0.1.0",
            "started": "2026-03-01T09:30:00+00:00",
            **(about or {}),
        }
        database.executemany("INSERT INTO about VALUES(?, ?)", facts.items())
        _search(database, names, settings, running=status == "running")
        if compared:
            _compare(database)
    return folder


def _write_sizes(database: sqlite3.Connection, analysis: Analysis | None, count: int) -> list[str]:
    if analysis is None:
        rows = [(f"s{k}", [f"layer{k // 4}.{k % 4}.conv"], [f"g{k}"], 1, 32) for k in range(count)]
    else:
        merged: dict[str, tuple[str, list[str], list[str], int, int]] = {}
        for g in analysis.groups:
            if g.free:
                _, layers, groups, multiple, width = merged.get(g.size, (g.size, [], [], 1, 0))
                entry = (g.size, [*layers, *g.producers], [*groups, g.id], multiple, width + g.width)
                merged[g.size] = entry
        rows = list(merged.values())
    for k, (name, layers, groups, multiple, width) in enumerate(rows):
        row = (name, k, json.dumps(layers), json.dumps(groups), multiple, width)
        database.execute("INSERT INTO sizes VALUES(?, ?, ?, ?, ?, ?)", row)
    return [row[0] for row in rows]


def _search(database: sqlite3.Connection, names: list[str], settings: SearchSettings, running: bool) -> None:
    states = {name: start_state(settings) for name in names}
    trial = 0
    while not finished(states.values(), trial, settings):
        last = running and trial == settings.trials - 1
        _write_state(database, trial, states, settings.epochs, last)
        found = {}
        for k, name in enumerate(names):
            # Late layers are born with more rank than they need, and each size fills up at its own pace.
            room = 0.25 + 0.5 * math.exp(-states[name].width / (40 + 60 * math.sin(k) ** 2))
            pace = 2.0 + 3 * (k % 5)
            curve = tuple(room * (1 - 0.8 * math.exp(-(t + 1) / pace)) for t in range(settings.epochs))
            shown = curve[: settings.epochs // 2 + 1] if last else curve
            rows = [(trial, t + 1, name, rank, 3.0 + k % 4) for t, rank in enumerate(shown)]
            database.executemany("INSERT INTO ranks VALUES(?, ?, ?, ?, ?)", rows)
            slope, peak = rank_slope(curve)
            found[name] = SizeIndicators(curve, 3.0 + k % 4, slope, peak)
        if last:
            return
        after = step_all(states, found, settings, trial == 0, {})
        for name, state in after.items():
            row: tuple[Any, ...] = (trial, name, found[name].slope, found[name].condition)
            row = (*row, state.action, state.width, state.stopped)
            database.execute("INSERT INTO outcomes VALUES(?, ?, ?, ?, ?, ?, ?)", row)
        states = after
        trial += 1


def _write_state(
    database: sqlite3.Connection, trial: int, states: dict[str, SizeState], epochs: int, running: bool
) -> None:
    rows = [(trial, name, s.width, s.action, s.phi, s.stopped) for name, s in states.items()]
    database.executemany("INSERT INTO widths VALUES(?, ?, ?, ?, ?, ?)", rows)
    widths = [s.width for s in states.values()]
    parameters = sum(9 * a * b for a, b in zip([3, *widths], widths, strict=False)) + 10 * widths[-1]
    ceiling = 0.93 - 0.35 * math.exp(-parameters / 400_000) + 0.004 * math.sin(trial * 2.1)
    done = epochs // 2 + 1 if running else epochs
    for epoch in range(1, done + 1):
        accuracy = ceiling * (1 - 0.6 * math.exp(-epoch / 2))
        metrics = {"epoch": epoch, "train_loss": 2.3 * math.exp(-epoch / 4), "test_accuracy": accuracy}
        row = (trial, epoch, json.dumps(metrics), 21.4, 0.31)
        database.execute("INSERT INTO epochs VALUES(?, ?, ?, ?, ?)", row)
    spent = 21.4 * epochs, 0.42, 0.31 * epochs
    finished_with = (sum(spent), *spent[1:], accuracy, f"trials/{trial:03d}.onnx")
    ended = (0.0, 0.0, 0.0, None, None) if running else finished_with
    row = (trial, "running" if running else "finished", parameters, parameters * 400, *ended)
    database.execute("INSERT INTO trials VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _compare(database: sqlite3.Connection) -> None:
    for kind, parameters, best in (
        ("conet", 412_000, 0.912),
        ("uniform", 414_500, 0.897),
        ("random", 409_800, 0.884),
        ("original", 272_474, 0.889),
    ):
        for seed in range(3):
            accuracy = best + 0.003 * math.sin(seed * 7 + len(kind))
            row = (kind, seed, "{}", parameters, parameters * 400, 60, "adas", accuracy, 1260.0)
            database.execute("INSERT INTO comparison VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
