"""Reading run folders: values, states half-way, and what is no run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from made_run import make_run

from conet_graph.ir.errors import BadUsage
from conet_graph.search.read_run import find_runs, read_run


def altered(folder: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for statement in statements:
            database.execute(statement)
    return folder


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", sizes=3, trials=4, epochs=5))
    assert (run.status, run.settings["delta"], len(run.trials)) == ("finished", 0.012, 4)
    assert [s.name for s in run.sizes] == ["s0", "s1", "s2"]
    assert run.sizes[1].layers == ("layer0.1.conv",)
    first = run.trials[0]
    assert {w.width for w in first.widths.values()} == {32}
    assert [e.number for e in first.epochs] == [1, 2, 3, 4, 5]
    assert [epoch for epoch, _ in first.ranks["s2"]] == [1, 2, 3, 4, 5]
    assert first.outcomes["s0"].new_width == run.trials[1].widths["s0"].width
    assert run.seconds == pytest.approx(4 * (5 * (21.4 + 0.31) + 0.42))
    assert run.overhead_seconds == pytest.approx(4 * (5 * 0.31 + 0.42))
    assert run.best is not None
    assert run.best.accuracy == max(t.accuracy or 0 for t in run.trials)
    assert run.first_and_last(run.sizes[0]) == (32, run.trials[2].outcomes["s0"].new_width)


def test_a_trial_under_way_counts_by_its_epochs(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", trials=2, epochs=6, status="running"))
    last = run.trials[-1]
    assert (last.status, last.test_accuracy, len(last.epochs)) == ("running", None, 4)
    assert last.accuracy == last.epochs[-1].metrics["test_accuracy"]
    assert run.seconds == pytest.approx(10 * (21.4 + 0.31) + 0.42)
    assert run.first_and_last(run.sizes[0]) == (32, last.widths["s0"].width)


def test_an_open_write_is_not_seen_and_does_not_disturb(tmp_path: Path) -> None:
    folder = altered(make_run(tmp_path / "a", trials=3), "PRAGMA journal_mode=WAL")
    with closing(sqlite3.connect(folder / "run.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM trials")
        assert len(read_run(folder).trials) == 3
        writer.execute("COMMIT")
    assert read_run(folder).trials == ()


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_folder_that_may_only_be_read_is_read(tmp_path: Path, mode: str) -> None:
    folder = altered(make_run(tmp_path / "a", trials=3), f"PRAGMA journal_mode={mode}")
    before = sorted(p.name for p in folder.iterdir())
    folder.chmod(0o500)
    try:
        assert len(read_run(folder).trials) == 3
    finally:
        folder.chmod(0o700)
    assert [p.name for p in folder.iterdir() if not p.name.endswith(("-shm", "-wal"))] == before


def test_folders_without_a_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"holds no run\.sqlite"):
        read_run(tmp_path)
    (tmp_path / "run.sqlite").write_bytes(b"not a database, but long enough to look at" * 20)
    with pytest.raises(BadUsage, match="damaged"):
        read_run(tmp_path)
    (tmp_path / "run.sqlite").write_bytes(b"")
    with pytest.raises(BadUsage, match="no such table"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE about SET value='other/7' WHERE key='format'", "its format is 'other/7'"),
        ("DELETE FROM about WHERE key='format'", "its format is 'none'"),
        ("DROP TABLE outcomes", "no such table: outcomes"),
        ("ALTER TABLE trials DROP COLUMN macs", "damaged"),
        ("UPDATE widths SET width='wide'", "damaged"),
        ("UPDATE sizes SET layers='[1]'", "damaged"),
        ("UPDATE sizes SET layers='{'", "damaged"),
        ("UPDATE epochs SET metrics='[]'", "damaged"),
        ("UPDATE about SET value='7' WHERE key='settings'", "settings are no object"),
        ("UPDATE ranks SET rank=x'00'", "damaged"),
    ],
)
def test_a_damaged_database_is_one_sentence(tmp_path: Path, statement: str, reason: str) -> None:
    with pytest.raises(BadUsage, match=reason) as caught:
        read_run(altered(make_run(tmp_path / "a", trials=2), statement))
    assert "\n" not in str(caught.value)


def test_a_cut_off_database_is_one_sentence(tmp_path: Path) -> None:
    file = make_run(tmp_path / "a", sizes=40, trials=5) / "run.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadUsage, match=r"is damaged, or no run's database"):
        read_run(tmp_path / "a")


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "deep/er/a"):
        make_run(tmp_path / name, trials=1)
    assert find_runs(tmp_path) == [tmp_path / "b", tmp_path / "deep/er/a"]
    with pytest.raises(BadUsage, match="not a folder"):
        find_runs(tmp_path / "nowhere")
