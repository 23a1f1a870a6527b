"""``run.sqlite``: everything that a search has done, one transaction for each change of its state.

The database has a write-ahead log and is synced at every commit: a process killed at any moment
leaves the state before a change or the state after it, and readers never wait for the search.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conet_graph.indicators import LayerIndicators, SizeIndicators, rank_slope
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.search.algorithm import SizeState
from conet_graph.search.voices import Size

FORMAT = "conet-graph.run/1"
# Readers hold the database for milliseconds only.
WAIT_SECONDS = 30.0

TABLES = """
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE sizes(size TEXT PRIMARY KEY, position INTEGER, layers TEXT, groups TEXT, multiple INTEGER,
    original_width INTEGER);
CREATE TABLE trials(trial INTEGER PRIMARY KEY, status TEXT, parameters INTEGER, macs INTEGER,
    seconds REAL, graph_seconds REAL, indicator_seconds REAL, test_accuracy REAL, onnx TEXT);
CREATE TABLE widths(trial INTEGER, size TEXT, width INTEGER, action INTEGER, phi REAL, stopped INTEGER,
    PRIMARY KEY(trial, size));
CREATE TABLE epochs(trial INTEGER, epoch INTEGER, metrics TEXT, seconds REAL, indicator_seconds REAL,
    PRIMARY KEY(trial, epoch));
CREATE TABLE ranks(trial INTEGER, epoch INTEGER, size TEXT, rank REAL, condition REAL,
    PRIMARY KEY(trial, epoch, size));
CREATE TABLE layers(trial INTEGER, epoch INTEGER, layer TEXT, out_rank REAL, in_rank REAL,
    out_condition REAL, in_condition REAL, PRIMARY KEY(trial, epoch, layer));
CREATE TABLE outcomes(trial INTEGER, size TEXT, slope REAL, condition REAL, action INTEGER,
    new_width INTEGER, stopped INTEGER, PRIMARY KEY(trial, size));
CREATE TABLE worths(trial INTEGER, size TEXT, worth REAL, PRIMARY KEY(trial, size));
CREATE TABLE comparison(kind TEXT, seed INTEGER, widths TEXT, parameters INTEGER, macs INTEGER,
    epochs INTEGER, schedule TEXT, test_accuracy REAL, seconds REAL,
    PRIMARY KEY(kind, seed, epochs, schedule));
"""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as it is stored; its times are in seconds, the accuracy is 0 to 1."""

    trial: int
    status: str
    parameters: int
    macs: int | None
    seconds: float
    graph_seconds: float
    indicator_seconds: float
    test_accuracy: float | None
    onnx: str | None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What is known after one epoch, counted from 1.

    Attributes:
        metrics: what the trial yielded.
        seconds: of training and testing.
        indicator_seconds: of measuring.
        layers: indicators of each layer that was measured.
        sizes: size -> (Rbar, kappabar).

    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    indicator_seconds: float
    layers: Mapping[str, LayerIndicators]
    sizes: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one layer after one epoch: ranks (0 to 1) and conditions (from 1) of its two unfoldings."""

    out_rank: float
    in_rank: float
    out_condition: float
    in_condition: float


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One network of a comparison, trained from fresh weights with one seed."""

    kind: str
    seed: int
    widths: Mapping[str, int]
    parameters: int
    macs: int | None
    epochs: int
    schedule: str
    test_accuracy: float | None
    seconds: float


class RunStore:
    """The database of one search. Every method that writes is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open a database.

        Raises:
            BadUsage: it is not there, damaged, or of another format.

        """
        self.path = path
        if not path.is_file():
            raise BadUsage(f"{shown(str(path.parent))} holds no search: {path.name} is missing.")
        with self._clear_errors():
            self._database = _connected(path)
            if self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its pages contradict each other")
            found = self.about().get("format")
        if found != FORMAT:
            raise BadUsage(f"{shown(str(path))} is not a {FORMAT} database: its format is {found!r}.")

    @staticmethod
    def create(path: Path, about: Mapping[str, str], sizes: Iterable[Size]) -> None:
        """Make a database; it appears at ``path`` complete or not at all."""
        made = path.with_name(f".{path.name}.new")
        rows = [
            (s.name, k, json.dumps(s.layers), json.dumps(s.groups), s.multiple, s.width)
            for k, s in enumerate(sizes)
        ]
        try:
            made.unlink(missing_ok=True)
            with closing(_connected(made)) as database:
                database.execute("BEGIN IMMEDIATE")
                for statement in TABLES.split(";"):
                    database.execute(statement)
                database.executemany("INSERT INTO sizes VALUES(?, ?, ?, ?, ?, ?)", rows)
                entries = {"format": FORMAT, **about}.items()
                database.executemany("INSERT INTO about VALUES(?, ?)", entries)
                database.execute("COMMIT")
            for left_by_another in ("-wal", "-shm"):
                path.with_name(path.name + left_by_another).unlink(missing_ok=True)
            os.replace(made, path)
        except (sqlite3.Error, OSError) as error:
            raise BadUsage(f"{shown(str(path))} cannot be written: {error}.") from None

    def close(self) -> None:
        """Close the database; its log is merged into it."""
        self._database.close()

    # -- the search --------------------------------------------------------------------------------

    def about(self) -> dict[str, str]:
        """Facts about the search, by name."""
        return {str(key): str(value) for key, value in self._rows("SELECT key, value FROM about")}

    def tell(self, key: str, value: str) -> None:
        """Note a fact about the search, its status for instance."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO about VALUES(?, ?)", (key, value))

    # -- trials ------------------------------------------------------------------------------------

    def last_trial(self) -> TrialRow | None:
        """The trial that began last."""
        rows = self._rows("SELECT * FROM trials ORDER BY trial DESC LIMIT 1")
        return TrialRow(*rows[0]) if rows else None

    def trials(self) -> list[TrialRow]:
        """All trials, first to last."""
        return [TrialRow(*row) for row in self._rows("SELECT * FROM trials ORDER BY trial")]

    def states(self, trial: int) -> dict[str, SizeState]:
        """The state of every size that a trial is trained with."""
        query = (
            "SELECT w.size, w.width, w.action, w.phi, w.stopped FROM widths w"
            " JOIN sizes s ON s.size = w.size WHERE w.trial = ? ORDER BY s.position"
        )
        return {
            size: SizeState(width, action, phi, bool(stopped))
            for size, width, action, phi, stopped in self._rows(query, trial)
        }

    def begin_trial(
        self, trial: int, states: Mapping[str, SizeState], parameters: int, macs: int | None
    ) -> None:
        """Note that a trial begins; one that was under way keeps what it has."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO trials VALUES(?, 'running', ?, ?, 0, 0, 0, NULL, NULL)",
                (trial, parameters, macs),
            )
            rows = [(trial, size, s.width, s.action, s.phi, s.stopped) for size, s in states.items()]
            database.executemany("INSERT OR REPLACE INTO widths VALUES(?, ?, ?, ?, ?, ?)", rows)

    def mark_trial(self, trial: int, status: str) -> None:
        """Set a trial's status: running, retried, finished or failed."""
        with self._transaction() as database:
            database.execute("UPDATE trials SET status = ? WHERE trial = ?", (status, trial))

    def forget_epochs(self, trial: int) -> None:
        """Drop the epochs of a trial that begins again."""
        with self._transaction() as database:
            _drop_epochs(database, trial, 1)

    def record_epoch(self, trial: int, found: EpochRecord) -> None:
        """Note an epoch; it replaces a record of the same one, and later ones are dropped."""
        row = (json.dumps(dict(found.metrics)), found.seconds, found.indicator_seconds)
        with self._transaction() as database:
            _drop_epochs(database, trial, found.epoch)
            database.execute("INSERT INTO epochs VALUES(?, ?, ?, ?, ?)", (trial, found.epoch, *row))
            layers = [
                (trial, found.epoch, name, x.out_rank, x.in_rank, x.out_condition, x.in_condition)
                for name, x in found.layers.items()
            ]
            database.executemany("INSERT INTO layers VALUES(?, ?, ?, ?, ?, ?, ?)", layers)
            sizes = [(trial, found.epoch, size, *numbers) for size, numbers in found.sizes.items()]
            database.executemany("INSERT INTO ranks VALUES(?, ?, ?, ?, ?)", sizes)

    def metrics(self, trial: int) -> list[dict[str, float]]:
        """What a trial yielded after each of its epochs."""
        rows = self._rows("SELECT metrics FROM epochs WHERE trial = ? ORDER BY epoch", trial)
        return [json.loads(text) for (text,) in rows]

    def spent(self, trial: int) -> tuple[float, float]:
        """Seconds of training and of measuring in the epochs of a trial so far."""
        query = "SELECT TOTAL(seconds), TOTAL(indicator_seconds) FROM epochs WHERE trial = ?"
        training, measuring = self._rows(query, trial)[0]
        return float(training), float(measuring)

    def hours(self) -> float:
        """Hours of training and measuring in all epochs of the search so far."""
        query = "SELECT TOTAL(seconds) + TOTAL(indicator_seconds) FROM epochs"
        return float(self._rows(query)[0][0]) / 3600

    def indicators(self, trial: int) -> dict[str, SizeIndicators]:
        """What a trial measured of each size, as Algorithm 2 reads it."""
        curves: dict[str, list[tuple[float, float]]] = {}
        query = "SELECT size, rank, condition FROM ranks WHERE trial = ? ORDER BY epoch"
        for size, rank, condition in self._rows(query, trial):
            curves.setdefault(size, []).append((rank, condition))
        found = {}
        for size, curve in curves.items():
            ranks = tuple(rank for rank, _ in curve)
            slope, peak = rank_slope(ranks)
            found[size] = SizeIndicators(ranks, curve[-1][1], slope, peak)
        return found

    def layers(self, trial: int) -> list[dict[str, Measured]]:
        """What was measured of each layer after each epoch of a trial."""
        query = (
            "SELECT epoch, layer, out_rank, in_rank, out_condition, in_condition FROM layers"
            " WHERE trial = ? ORDER BY epoch"
        )
        epochs: dict[int, dict[str, Measured]] = {}
        for epoch, layer, *numbers in self._rows(query, trial):
            epochs.setdefault(epoch, {})[layer] = Measured(*numbers)
        return list(epochs.values())

    def record_worths(self, trial: int, found: Mapping[str, float]) -> None:
        """Note what the sizes of a trial's network are worth."""
        with self._transaction() as database:
            rows = [(trial, size, worth) for size, worth in found.items()]
            database.executemany("INSERT OR REPLACE INTO worths VALUES(?, ?, ?)", rows)

    def worths(self, trial: int) -> dict[str, float]:
        """Size -> what it was worth in a trial, where that was measured."""
        return dict(self._rows("SELECT size, worth FROM worths WHERE trial = ?", trial))

    def finish_trial(
        self, done: TrialRow, measured: Mapping[str, SizeIndicators], after: Mapping[str, SizeState]
    ) -> None:
        """Note a trial's end, what it measured of each size, and the sizes' next states."""
        outcomes = []
        for size, state in after.items():
            found = measured.get(size)
            numbers = (None, None) if found is None else (found.slope, found.condition)
            outcomes.append((done.trial, size, *numbers, state.action, state.width, state.stopped))
        with self._transaction() as database:
            database.execute(
                "UPDATE trials SET status = ?, seconds = ?, graph_seconds = ?, indicator_seconds = ?,"
                " test_accuracy = ?, onnx = ? WHERE trial = ?",
                (
                    *(done.status, done.seconds, done.graph_seconds, done.indicator_seconds),
                    *(done.test_accuracy, done.onnx, done.trial),
                ),
            )
            database.executemany("INSERT OR REPLACE INTO outcomes VALUES(?, ?, ?, ?, ?, ?, ?)", outcomes)

    def settled(self, trial: int) -> dict[str, bool]:
        """Which sizes had settled after a trial."""
        rows = self._rows("SELECT size, stopped FROM outcomes WHERE trial = ?", trial)
        return {size: bool(stopped) for size, stopped in rows}

    # -- the comparison ----------------------------------------------------------------------------

    def record_compared(self, found: ComparedRow) -> None:
        """Note one network of the comparison."""
        row = (found.parameters, found.macs, found.epochs, found.schedule, found.test_accuracy, found.seconds)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO comparison VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (found.kind, found.seed, json.dumps(dict(found.widths)), *row),
            )

    def comparison(self) -> list[ComparedRow]:
        """The networks of the comparison that are trained, in the order of training."""
        rows = self._rows("SELECT * FROM comparison ORDER BY rowid")
        return [ComparedRow(kind, seed, json.loads(widths), *rest) for kind, seed, widths, *rest in rows]

    # -- the database ------------------------------------------------------------------------------

    def _rows(self, query: str, *values: Any) -> Sequence[Any]:
        with self._clear_errors():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._clear_errors():
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        name = shown(str(self.path))
        try:
            yield
        except sqlite3.OperationalError as error:
            raise BadUsage(f"{name} cannot be read or written: {error}.") from None
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise BadUsage(
                f"{name} is damaged ({error}): restore a copy, or search into another folder."
            ) from None


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database


def _drop_epochs(database: sqlite3.Connection, trial: int, first: int) -> None:
    for table in ("epochs", "layers", "ranks"):
        database.execute(f"DELETE FROM {table} WHERE trial = ? AND epoch >= ?", (trial, first))
