"""The database of a search: what is written is read again, half-done changes leave no trace."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from conet_graph.indicators import LayerIndicators
from conet_graph.ir.errors import BadUsage
from conet_graph.search.algorithm import SizeState
from conet_graph.search.read_run import read_run
from conet_graph.search.run_store import ComparedRow, EpochRecord, RunStore, TrialRow
from conet_graph.search.voices import Size

SIZES = [Size("s1", 24, 1, ("g1",), ("b",), ()), Size("s0", 32, 2, ("g0", "g2"), ("a", "c"), ())]
STATES = {"s1": SizeState(32, 0, 0.2, False), "s0": SizeState(48, -1, 0.1, True)}
LAYER = LayerIndicators(0.5, 0.25, 2, 1, 3.0, 1.5, 0.1, 0.1, 0.4, 0.2)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    RunStore.create(tmp_path / "run.sqlite", {"status": "running", "settings": "{}"}, SIZES)
    return RunStore(tmp_path / "run.sqlite")


def record(epoch: int, rank: float) -> EpochRecord:
    return EpochRecord(epoch, {"test_accuracy": rank}, 2.0, 0.5, {"a": LAYER}, {"s0": (rank, 1.0 + epoch)})


def test_states_come_back_in_the_networks_order(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    assert list(store.states(0).items()) == list(STATES.items())
    last = store.last_trial()
    assert last is not None
    assert (last.trial, last.status, last.parameters, last.macs) == (0, "running", 1000, 5000)


def test_indicators_follow_from_the_recorded_ranks(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    for epoch, rank in ((1, 0.1), (2, 0.2), (3, 0.5), (4, 0.4)):
        store.record_epoch(0, record(epoch, rank))
    found = store.indicators(0)["s0"]
    assert (found.ranks, found.condition, found.slope, found.peak) == ((0.1, 0.2, 0.5, 0.4), 5.0, 0.2, 2)
    assert store.spent(0) == (8.0, 2.0)
    assert store.hours() == 10.0 / 3600


def test_an_epoch_recorded_again_replaces_itself_and_what_came_after(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    for epoch in (1, 2, 3):
        store.record_epoch(0, record(epoch, 0.1 * epoch))
    store.record_epoch(0, record(2, 0.9))
    assert store.indicators(0)["s0"].ranks == (0.1, 0.9)
    assert store.metrics(0) == [{"test_accuracy": 0.1}, {"test_accuracy": 0.9}]
    store.forget_epochs(0)
    assert store.metrics(0) == []


def test_beginning_a_trial_again_keeps_what_it_has(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    store.mark_trial(0, "retried")
    store.record_epoch(0, record(1, 0.1))
    store.begin_trial(0, STATES, 1000, 5000)
    last = store.last_trial()
    assert last is not None
    assert last.status == "retried"
    assert len(store.metrics(0)) == 1


def test_reports_read_what_a_search_writes(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    store.record_epoch(0, record(1, 0.1))
    done = TrialRow(0, "finished", 1000, 5000, 9.0, 1.0, 0.5, 0.75, "trials/000.onnx")
    store.finish_trial(done, store.indicators(0), STATES)
    store.record_compared(ComparedRow("uniform", 1, {"s0": 8, "s1": 4}, 900, 4000, 3, "step", 0.5, 7.0))
    assert store.trials() == [done]
    assert store.settled(0) == {"s1": False, "s0": True}
    run = read_run(store.path.parent)
    assert [(s.name, s.original_width, s.multiple, s.groups) for s in run.sizes] == [
        ("s1", 24, 1, ("g1",)),
        ("s0", 32, 2, ("g0", "g2")),
    ]
    outcome = run.trials[0].outcomes
    assert (outcome["s0"].slope, outcome["s0"].new_width, outcome["s0"].stopped) == (0.0, 48, True)
    assert outcome["s1"].slope is None
    assert (run.trials[0].accuracy, run.seconds, run.overhead_seconds) == (0.75, 9.0, 1.5)
    assert run.comparison[0].test_accuracy == 0.5
    assert store.comparison()[0].widths == {"s0": 8, "s1": 4}


def test_a_change_that_fails_half_way_leaves_no_trace(store: RunStore) -> None:
    store.begin_trial(0, STATES, 1000, 5000)
    store.record_epoch(0, record(1, 0.1))
    unstorable = EpochRecord(2, {}, 1.0, 0.1, {}, {"s0": (object(), 1.0)})  # type: ignore[dict-item]
    with pytest.raises(BadUsage, match=r"' is damaged"):
        store.record_epoch(0, unstorable)
    assert len(store.metrics(0)) == 1
    store.tell("status", "interrupted")
    assert store.about()["status"] == "interrupted"


def test_a_missing_foreign_or_damaged_database_is_one_sentence(tmp_path: Path, store: RunStore) -> None:
    with pytest.raises(BadUsage, match=r"holds no search: run\.sqlite is missing"):
        RunStore(tmp_path / "elsewhere" / "run.sqlite")
    store.close()
    data = bytearray(store.path.read_bytes())
    (tmp_path / "text.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(BadUsage, match=r"is damaged \(file is not a database\)"):
        RunStore(tmp_path / "text.sqlite")
    data[4096:8192] = b"\xff" * 4096
    (tmp_path / "torn.sqlite").write_bytes(data)
    with pytest.raises(BadUsage, match="is damaged"):
        RunStore(tmp_path / "torn.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other, other:
        other.execute("CREATE TABLE about(key TEXT, value TEXT)")
    with pytest.raises(BadUsage, match="its format is None"):
        RunStore(tmp_path / "other.sqlite")
