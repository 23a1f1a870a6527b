"""Reading a run folder's ``run.sqlite``, also while a search writes it."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.search.recorded import (
    Compared,
    Epoch,
    Outcome,
    RecordedRun,
    RecordedSize,
    RecordedTrial,
    Width,
)
from conet_graph.search.run_store import FORMAT

DATABASE = "run.sqlite"
# A writer holds the database for milliseconds only.
WAIT_SECONDS = 5.0


def read_run(folder: str | Path) -> RecordedRun:
    """Read a run folder; one consistent state of it, also while a search writes there.

    Raises:
        BadUsage: there is no run in the folder, or its database is damaged or of another format.

    """
    folder = Path(folder)
    path = folder / DATABASE
    if not path.is_file():
        raise BadUsage(
            f"{shown(str(folder))} holds no {DATABASE}: give the folder that `conet-graph search --out` made."
        )
    with _clear_errors(path), closing(_opened(path)) as database:
        database.row_factory = sqlite3.Row
        database.execute("BEGIN")
        about = {str(r["key"]): str(r["value"]) for r in database.execute("SELECT key, value FROM about")}
        if about.get("format") != FORMAT:
            found = shown(about.get("format", "none"))
            raise BadUsage(f"{shown(str(path))} is not a {FORMAT} database: its format is {found}.")
        settings = json.loads(about.get("settings", "{}"))
        if not isinstance(settings, dict):
            raise ValueError("settings are no object")
        return RecordedRun(
            folder, about, settings, _sizes(database), _trials(database), _comparison(database)
        )


def find_runs(folder: Path) -> list[Path]:
    """Folders at or below ``folder`` that hold a run, sorted; symbolic links are not followed.

    Raises:
        BadUsage: there is no such folder.

    """
    if not folder.is_dir():
        raise BadUsage(f"{shown(str(folder))} is not a folder: give one that holds runs.")
    return sorted(path.parent for path in folder.rglob(DATABASE) if path.is_file())


def _opened(path: Path) -> sqlite3.Connection:
    """The database, for reading only; where its folder is read-only too, taken as settled."""
    address = path.resolve().as_uri()
    database = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        database.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        # A database with a write-ahead log cannot be read without its index file. Without a log
        # beside it nobody is writing, and it can be read as it is.
        database.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        database = sqlite3.connect(f"{address}?immutable=1", uri=True, isolation_level=None)
    return database


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BadUsage(f"{shown(str(path))} is locked by another program: try again.") from None
        raise BadUsage(f"{shown(str(path))} cannot be read as a run: {error}.") from None
    except (sqlite3.Error, ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        reason = shown(str(error))
        raise BadUsage(f"{shown(str(path))} is damaged, or no run's database: {reason}.") from None


def _sizes(database: sqlite3.Connection) -> tuple[RecordedSize, ...]:
    rows = database.execute("SELECT * FROM sizes ORDER BY position, size")
    return tuple(
        RecordedSize(
            str(r["size"]),
            _names(r["layers"]),
            _names(r["groups"]),
            int(r["multiple"]),
            _maybe_int(r["original_width"]),
        )
        for r in rows
    )


def _names(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("a list of names is none")
    return tuple(found)


def _trials(database: sqlite3.Connection) -> tuple[RecordedTrial, ...]:
    widths = _widths(database)
    epochs = _epochs(database)
    ranks = _ranks(database)
    outcomes = _outcomes(database)
    found = []
    for r in database.execute("SELECT * FROM trials ORDER BY trial"):
        number = int(r["trial"])
        found.append(
            RecordedTrial(
                number,
                str(r["status"]),
                _maybe_int(r["parameters"]),
                _maybe_int(r["macs"]),
                _maybe_float(r["seconds"]),
                _maybe_float(r["graph_seconds"]),
                _maybe_float(r["indicator_seconds"]),
                _maybe_float(r["test_accuracy"]),
                None if r["onnx"] is None else str(r["onnx"]),
                widths[number],
                tuple(epochs[number]),
                {size: tuple(curve) for size, curve in ranks[number].items()},
                outcomes[number],
            )
        )
    return tuple(found)


def _widths(database: sqlite3.Connection) -> dict[int, dict[str, Width]]:
    found: dict[int, dict[str, Width]] = defaultdict(dict)
    for r in database.execute("SELECT * FROM widths"):
        made = Width(int(r["width"]), int(r["action"]), float(r["phi"]), bool(r["stopped"]))
        found[int(r["trial"])][str(r["size"])] = made
    return found


def _epochs(database: sqlite3.Connection) -> dict[int, list[Epoch]]:
    found: dict[int, list[Epoch]] = defaultdict(list)
    for r in database.execute("SELECT * FROM epochs ORDER BY trial, epoch"):
        raw = json.loads(r["metrics"] or "{}")
        if not isinstance(raw, dict):
            raise ValueError("metrics are no object")
        metrics = {k: float(v) for k, v in raw.items() if isinstance(v, int | float) and math.isfinite(v)}
        spent = _maybe_float(r["seconds"]) or 0.0, _maybe_float(r["indicator_seconds"]) or 0.0
        found[int(r["trial"])].append(Epoch(int(r["epoch"]), metrics, *spent))
    return found


def _ranks(database: sqlite3.Connection) -> dict[int, dict[str, list[tuple[int, float]]]]:
    found: dict[int, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for r in database.execute("SELECT trial, size, epoch, rank FROM ranks ORDER BY trial, size, epoch"):
        rank = _maybe_float(r["rank"])
        if rank is not None:
            found[int(r["trial"])][str(r["size"])].append((int(r["epoch"]), rank))
    return found


def _outcomes(database: sqlite3.Connection) -> dict[int, dict[str, Outcome]]:
    found: dict[int, dict[str, Outcome]] = defaultdict(dict)
    for r in database.execute("SELECT * FROM outcomes"):
        found[int(r["trial"])][str(r["size"])] = Outcome(
            _maybe_float(r["slope"]),
            _maybe_float(r["condition"]),
            int(r["action"]),
            int(r["new_width"]),
            bool(r["stopped"]),
        )
    return found


def _comparison(database: sqlite3.Connection) -> tuple[Compared, ...]:
    """The networks that were trained like the last one was."""
    return tuple(
        Compared(
            str(r["kind"]),
            int(r["seed"]),
            _maybe_int(r["parameters"]),
            _maybe_int(r["macs"]),
            int(r["epochs"]),
            _maybe_float(r["test_accuracy"]),
            _maybe_float(r["seconds"]),
        )
        for r in database.execute(
            "SELECT * FROM comparison WHERE (epochs, schedule) IS"
            " (SELECT epochs, schedule FROM comparison ORDER BY rowid DESC LIMIT 1) ORDER BY kind, seed"
        )
    )


def _maybe_int(value: object) -> int | None:
    return None if value is None else int(str(value))


def _maybe_float(value: object) -> float | None:
    """A finite number; what has overflowed is as good as not measured."""
    number = math.nan if value is None else float(str(value))
    return number if math.isfinite(number) else None
