"""A sweep on a Ray cluster of this machine, with a worker killed half-way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from conet_graph.cli import run
from conet_graph.search.sweep import Job, grid, result_of
from conet_graph.search.sweep_ray import RayCluster

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
OPTIONS = ["--trials", "3", "--epochs", "4", "--width", "12", "--min-width", "4", "--device", "cpu"]


def workers() -> set[int]:
    """Processes in which Ray runs a search now."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::_search"):
            found.add(int(folder.name))
    return found


def kill_one(folder: Path, killed: list[int], over: threading.Event) -> None:
    """Wait until a search is under way, and kill a worker."""
    while not over.is_set():
        found = workers()
        if found and list(folder.glob("*/trials/000.onnx")):
            killed.append(min(found))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            Exception("The current node timed out during startup. This could happen because it is busy."),
            1,
            "Ray does not start, it says: The current node timed out during startup; try again later.",
        ),
        (TimeoutError(), 1, "Ray does not start, it says: TimeoutError; try again later."),
        (ConnectionError("No\nnode."), 2, "The Ray cluster cannot be reached: No node."),
    ],
)
def test_a_cluster_that_does_not_start_is_one_sentence(
    error: Exception,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=fail))
    assert run(["sweep", str(SAMPLE), "--out", str(tmp_path / "s"), "--ray", "local"]) == code
    assert capsys.readouterr().err == f"conet-graph: {said}\n"


@pytest.mark.wide
@pytest.mark.filterwarnings("default")  # Ray's own threads and sockets
def test_searches_go_on_when_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs = grid({"delta": [0.01]}, 2, tmp_path)
    codes: dict[int, int] = {}
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_one, args=(tmp_path, killed, over))
    killer.start()

    def tell(job: Job, code: int) -> None:
        codes[job.seed] = code

    try:
        RayCluster("local", run).search(jobs, SAMPLE, OPTIONS, tell)
    finally:
        over.set()
        killer.join()
    assert killed
    assert codes == {0: 0, 1: 0}
    assert [(result.status, result.trials) for result in map(result_of, jobs)] == [("finished", 3)] * 2
