"""Crashes, errors and hangs of ONNX Runtime in commands: planted where a session is opened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conet_graph.cli import apart, run
from conet_graph.ir.errors import Refused
from conet_graph.verification.report import Report
from tests.helpers.processes import gone

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are for Linux")

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
PLANTED = """
import os, pathlib, signal, sys, time
from conet_graph.latency import sessions
from conet_graph.rewriting import rewriting
from conet_graph.verification import pair
def planted(*arguments, **options):
    pathlib.Path("child").write_text(str(os.getpid()))
    FAULT
pair.open_session = rewriting.open_session = sessions.open_session = planted
from conet_graph.cli import main
main()
"""
HALVED = ["rewrite", str(SAMPLE), "--scale", "0.5", "-o", "slim.onnx", "--plan", "plan.json"]
HANG = "time.sleep(600)"


def start(folder: Path, fault: str, *arguments: str) -> subprocess.Popen[str]:
    """A command in ``folder``, where an old output lies, with its temporary files in ``folder/tmp``."""
    (folder / "tmp").mkdir()
    (folder / "slim.onnx").write_text("old")
    command = [sys.executable, "-c", PLANTED.replace("FAULT", fault), *arguments]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def only_the_old_output(folder: Path) -> bool:
    """Whether nothing was written, and no file and no process is left."""
    assert gone(int((folder / "child").read_text()))
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != ".ses")  # ONNX Runtime's
    return left == ["child", "slim.onnx", "tmp"] and (folder / "slim.onnx").read_text() == "old"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ONNX Runtime crashed (SIGSEGV) while loading the original"),
        ("os.abort()", "ONNX Runtime crashed (SIGABRT) while loading the original network"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "as the system does where memory runs out"),
    ],
)
def test_a_crash_is_a_failed_verification(fault: str, sentence: str, tmp_path: Path) -> None:
    process = start(tmp_path, fault, *HALVED)
    out, errors = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert errors.startswith("conet-graph: The rewritten network failed verification: ONNX Runtime ")
    assert sentence in errors
    assert errors.count("\n") == 1
    assert only_the_old_output(tmp_path)


FILE_CRASHES = """
import os
from types import SimpleNamespace
from conet_graph.verification import own_form, reference
reference._has = lambda *_: False  # the file is then compared with the form in which it was analysed
own_form.file_session = lambda *_: SimpleNamespace(run=lambda *_: os.abort())
from conet_graph.cli import main
main()
"""


def test_a_crash_of_the_users_own_file_is_not_laid_to_the_rewritten_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILE_CRASHES, *HALVED]
    process = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert process.returncode == 1
    assert "ONNX Runtime crashed (SIGABRT) while running the original network" in process.stderr


def test_a_crash_while_the_latency_is_measured(tmp_path: Path) -> None:
    arguments = ["rewrite", str(SAMPLE), "--latency", "0.001", "-o", "slim.onnx"]
    process = start(tmp_path, "os.abort()", *arguments)
    _, errors = process.communicate()
    assert process.returncode == 1
    failure = "ONNX Runtime crashed (SIGABRT) while timing a network"
    assert errors == f"conet-graph: The latency cannot be measured: {failure}.\n"
    assert only_the_old_output(tmp_path)


def test_verify_tells_a_crash_in_its_report(tmp_path: Path) -> None:
    slim, plan = str(tmp_path / "made.onnx"), str(tmp_path / "made.json")
    assert run(["rewrite", str(SAMPLE), "--scale", "0.5", "-o", slim, "--plan", plan]) == 0
    process = start(tmp_path, "os.abort()", "verify", str(SAMPLE), slim, "--plan", plan, "--json")
    out, errors = process.communicate()
    assert process.returncode == 1
    told = json.loads(out)
    assert told["ok"] is False
    assert told["checker"] == "not finished"
    failure = (
        "ONNX Runtime crashed (SIGABRT) while loading the original network (rewrite --no-verify runs nothing)"
    )
    assert told["failures"] == [failure]
    assert errors == f"conet-graph: Verification failed: {failure}.\n"


def test_an_error_of_ours_is_passed_on(tmp_path: Path) -> None:
    fault = "from conet_graph.ir.errors import BadUsage; raise BadUsage('Not like this.')"
    process = start(tmp_path, fault, *HALVED)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (2, "conet-graph: Not like this.\n")
    assert only_the_old_output(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("child_first", [None, 0.0, 0.3])
def test_an_interruption_ends_both(number: int, child_first: float | None, tmp_path: Path) -> None:
    process = start(tmp_path, HANG, *HALVED)
    wait_for(tmp_path / "child")
    if child_first is not None:  # as a terminal does, or who stops one process after the other
        os.kill(int((tmp_path / "child").read_text()), number)
        time.sleep(child_first)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "conet-graph: Interrupted.\n")
    assert only_the_old_output(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_that_is_stopped_alone_stops_the_command(number: int, tmp_path: Path) -> None:
    process = start(tmp_path, f"os.kill(os.getpid(), {number:d})", *HALVED)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "conet-graph: Interrupted.\n")
    assert only_the_old_output(tmp_path)


def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, HANG, *HALVED)
    wait_for(tmp_path / "child")
    child = int((tmp_path / "child").read_text())
    assert not gone(child, 0.0)
    process.kill()
    process.communicate(timeout=60)
    assert gone(child)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_report_is_the_one_that_is_made_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slim, plan = str(tmp_path / "slim.onnx"), str(tmp_path / "plan.json")
    assert run(["rewrite", str(SAMPLE), "--scale", "0.5", "-o", slim, "--plan", plan]) == 0
    capsys.readouterr()
    told = []
    for may_fork in (True, False):
        monkeypatch.setattr(apart, "_may_fork", lambda may_fork=may_fork: may_fork)
        assert run(["verify", str(SAMPLE), slim, "--plan", plan, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert told[0]["equality"] == "passed"


def test_numbers_of_a_report_come_through_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_may_fork", lambda: True)
    report = Report(largest_difference=float("inf"), sensitivity=0.1 + 0.2, runs=[{"inputs": {"x": [1, 2]}}])
    assert apart.report_of(lambda: report, None) == report  # type: ignore[arg-type]  # no crash, no plan


def test_what_is_timed_comes_through_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, Any]:
        raise Refused("Not that.")

    monkeypatch.setattr(apart, "_may_fork", lambda: True)
    assert apart.timed(lambda: {"copies": [2, 0, 1]}) == {"copies": [2, 0, 1]}
    with pytest.raises(Refused, match="Not that"):
        apart.timed(refuse)


def test_onnx_runtime_stays_out_of_the_process_itself(tmp_path: Path) -> None:
    slow = "1000"  # milliseconds: reached at once, after a run
    script = (
        "import sys; from conet_graph.cli import run;"
        f"print(run(['rewrite', {str(SAMPLE)!r}, '--latency', '{slow}', '-o', 'a.onnx']));"
        f"print(run(['rewrite', {str(SAMPLE)!r}, '--scale', '0.5', '-o', 'a.onnx']));"
        "print('onnxruntime' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True)
    assert "runs in" in done.stderr
    assert done.stdout.splitlines()[0] == "1"
    assert done.stdout.splitlines()[-2:] == ["0", "False False"]


def test_a_process_with_other_threads_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert apart._may_fork()
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert not apart._may_fork()
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "torch", threading)
    assert not apart._may_fork()
