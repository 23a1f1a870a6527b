"""A search killed with SIGKILL again and again ends in what it would have found without."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
COMMAND = (
    "import typer; from conet_graph.cli.search import search;"
    "app = typer.Typer(); app.command()(search); app()"
)
OPTIONS = ["--epochs", "4", "--width", "12", "--min-width", "4", "--delta", "0.02", "--batch", "64"]
TRAINING = ["--lr", "0.2", "--weight-decay", "0.005", "--schedule", "cosine", "--device", "cpu"]


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, str(SAMPLE), "--out", str(out), *OPTIONS, *TRAINING, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def rows(out: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{out / 'run.sqlite'}?mode=ro", uri=True, timeout=30)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()


def count(out: Path, table: str) -> int:
    try:
        return len(rows(out, table))
    except sqlite3.OperationalError:
        return 0  # not there yet


def found(out: Path) -> dict[str, Any]:
    """All that was decided and measured, but for times; and the files."""
    tables: dict[str, Any] = {
        name: sorted(rows(out, name)) for name in ("widths", "ranks", "layers", "outcomes")
    }
    # Trial, status, parameters, MACs; accuracy, file.
    tables["trials"] = [(*row[:4], *row[7:]) for row in sorted(rows(out, "trials"))]
    with closing(sqlite3.connect(out / "run.sqlite")) as database:
        query = "SELECT trial, epoch, json_remove(metrics, '$.seconds') FROM epochs ORDER BY trial, epoch"
        tables["metrics"] = database.execute(query).fetchall()
        tables["status"] = database.execute("SELECT value FROM about WHERE key = 'status'").fetchone()
    files = [out / "final.onnx", out / "widths.json", *sorted(out.glob("trials/*.onnx"))]
    return tables | {str(file.relative_to(out)): file.read_bytes() for file in files}


def kill_and_go_on(tmp_path: Path, trials: int, kills: int, longest: float) -> None:
    """Kill at random moments and go on each time; compare with a search that was left alone."""
    more = ["--trials", str(trials)]
    finish(start(tmp_path / "whole", *more))
    out, moments = tmp_path / "killed", random.Random(0)
    process = start(out, *more)
    for _ in range(kills):
        # Half of the time at once: while it starts, reads the checkpoint or trains.
        goal = count(out, "epochs") + moments.randint(0, 1)
        while process.poll() is None and count(out, "epochs") < goal:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, longest))
        process.kill()
        process.communicate()
        process = start(out, "--resume", *more)
    finish(process)
    assert found(out) == found(tmp_path / "whole")


def test_a_search_killed_twice(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, trials=2, kills=2, longest=3.0)


@pytest.mark.wide
def test_a_search_killed_ten_times(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, trials=6, kills=10, longest=4.0)


def test_sigterm_ends_with_a_status_and_a_way_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--trials", "50")
    while process.poll() is None and not count(out, "epochs"):
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"Interrupted. The same command with --resume goes on" in errors
    assert dict(rows(out, "about"))["status"] == "interrupted"
