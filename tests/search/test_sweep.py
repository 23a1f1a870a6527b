"""Sweeps: their searches, retries, processes, and what is made of the results."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from conet_graph.ir.errors import BadUsage
from conet_graph.report.sweep_plot import write_picture
from conet_graph.search.algorithm import SizeState
from conet_graph.search.run_store import RunStore, TrialRow
from conet_graph.search.sweep import Job, LocalProcesses, SweepResult, grid, result_of, rows_of, run_job

MODEL = Path("m.onnx")


def finished(job: Job, accuracy: float, status: str = "finished") -> None:
    """A search's folder with one finished trial."""
    job.folder.mkdir(parents=True)
    RunStore.create(job.folder / "run.sqlite", {"status": status, "settings": "{}"}, [])
    store = RunStore(job.folder / "run.sqlite")
    store.begin_trial(0, {"s0": SizeState(8, 0, 0.2, False)}, 1000 + job.seed, 500)
    store.finish_trial(TrialRow(0, "finished", 1000 + job.seed, 500, 60.0, 1.0, 1.0, accuracy, None), {}, {})
    store.close()


def test_grid_has_every_combination_with_every_seed(tmp_path: Path) -> None:
    jobs = grid({"delta": [0.0025, 0.01], "epochs": [10], "phi": []}, 2, tmp_path)
    assert [(job.folder.name, job.seed) for job in jobs] == [
        ("delta-0.0025-epochs-10-seed-0", 0),
        ("delta-0.0025-epochs-10-seed-1", 1),
        ("delta-0.01-epochs-10-seed-0", 0),
        ("delta-0.01-epochs-10-seed-1", 1),
    ]
    assert [job.folder.name for job in grid({}, 1, tmp_path)] == ["seed-0"]
    with pytest.raises(BadUsage, match="given twice"):
        grid({"delta": [0.01, 0.01]}, 1, tmp_path)


def test_command_line_begins_or_goes_on(tmp_path: Path) -> None:
    job = grid({"delta": [0.0025]}, 1, tmp_path)[0]
    command = [
        "search",
        "m.onnx",
        "--out",
        str(job.folder),
        "--seed",
        "0",
        "--delta",
        "0.0025",
        "--batch",
        "64",
    ]
    assert job.arguments(MODEL, ["--batch", "64"]) == command
    finished(job, 0.5)
    assert job.arguments(MODEL, ["--batch", "64"]) == [*command, "--resume"]


@pytest.mark.parametrize(
    ("codes", "last", "times"), [([-9, -9, 0], 0, 3), ([-9] * 5, -9, 3), ([2, 0], 2, 1), ([70, 1, 0], 1, 2)]
)
def test_killed_searches_begin_again_answers_stand(
    codes: list[int], last: int, times: int, tmp_path: Path
) -> None:
    job, given = Job(tmp_path / "run", {}, 0), iter(codes)
    launched: list[list[str]] = []

    def launch(arguments: list[str], log: Path) -> int:
        launched.append(arguments)
        return next(given)

    assert run_job(job, MODEL, [], launch) == last
    assert len(launched) == times


def test_processes_run_and_their_words_are_kept(tmp_path: Path) -> None:
    jobs = grid({}, 3, tmp_path)
    codes: dict[int, int] = {}
    LocalProcesses(2).run(jobs, tmp_path / "none.onnx", [], lambda job, code: codes.update({job.seed: code}))
    assert codes == {0: 2, 1: 2, 2: 2}
    assert "There is no file" in jobs[1].log.read_text()


def test_an_interruption_ends_the_processes(tmp_path: Path) -> None:
    script = tmp_path / "conet_graph.py"
    script.write_text("import time; time.sleep(60)")
    pool = LocalProcesses(2)
    pool.environment |= {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.run(grid({}, 4, tmp_path), MODEL, [], lambda job, code: None)
    assert time.monotonic() - begun < 30
    assert not pool.running


def test_results_are_averaged_over_seeds(tmp_path: Path) -> None:
    jobs = grid({"delta": [0.1, 0.2]}, 2, tmp_path)
    for job, accuracy in zip(jobs[:3], (0.5, 0.7, 0.9), strict=True):
        finished(job, accuracy, "interrupted" if job is jobs[2] else "finished")
    results = [result_of(job) for job in jobs]
    assert results[0] == SweepResult(jobs[0], "finished", 1, 1000, 500, 0.5, 60.0)
    assert [result.status for result in results] == ["finished", "finished", "interrupted", "missing"]
    first, second = rows_of(results)
    assert (first.mean("accuracy"), first.spread("accuracy")) == (
        pytest.approx(0.6),
        pytest.approx(0.1414, abs=1e-4),
    )
    assert (second.mean("accuracy"), second.spread("accuracy")) == (0.9, None)
    assert (first.mean("parameters"), first.options) == (1000.5, {"delta": 0.1})
    assert results[3].entry() == {
        "folder": str(jobs[3].folder),
        "delta": 0.2,
        "seed": 1,
        "status": "missing",
        "trials": 0,
        "parameters": None,
        "macs": None,
        "accuracy": None,
        "seconds": 0.0,
    }
    files = write_picture([first, second], tmp_path / "sweep")
    assert [file.name for file in files] == ["sweep.png", "sweep.svg"]
    assert "delta 0.2" in (tmp_path / "sweep.svg").read_text()
    assert write_picture(rows_of([results[3]]), tmp_path / "none") == []


@pytest.mark.parametrize(("usable", "workers", "threads"), [(8, 2, "4"), (3, 2, "1"), (1, 4, "1")])
def test_processes_share_the_cores_that_may_be_used(
    usable: int, workers: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that is given two of ninety-six cores, the other ninety-four are somebody else's."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    assert LocalProcesses(workers).environment["OMP_NUM_THREADS"] == threads
