"""What commands say besides their results: -h, -q, -v, progress, notes."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from conet_graph.cli import COMMANDS, run, steps
from conet_graph.cli.progress import progress

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "models" / "samples" / "digits.onnx"
ONCE = ["--epochs", "1", "--batch", "512"]
HALF = ["rewrite", "m.onnx", "-o", "s.onnx", "--scale", "0.5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "m.onnx")
    return tmp_path


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_has_a_short_name(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "-h"]) == 0
    told = capsys.readouterr().out
    assert "Usage: conet-graph" in told
    if command:
        for option in ("-q, --quiet", "-v, --verbose", "-h, --help"):
            assert option in told


def test_quiet_leaves_json_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*HALF, "-q"]) == 0
    assert run(["analyze", "m.onnx", "--quiet"]) == 0
    assert run(["verify", "m.onnx", "m.onnx", "--plan", "none", "-q"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("conet-graph: The plan 'none' cannot be read")
    assert run([*HALF, "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "conet-graph.rewrite/1"


@pytest.mark.parametrize("flag", ["-v", "--verbose", "--debug"])
def test_every_step_is_timed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*HALF, "--plan", "p.json", flag]) == 0
    names = re.findall(r"^(.+): [\d.]+ ms$", capsys.readouterr().err, re.MULTILINE)
    assert names == [
        *("reading the model", "analysing", "choosing widths", "rewriting", "verifying", "writing")
    ]
    assert run(["verify", "m.onnx", "s.onnx", "--plan", "p.json", flag]) == 0
    assert "verifying: " in capsys.readouterr().err
    assert run(["analyze", "m.onnx", flag, "--json"]) == 0
    assert "reading the model: " in capsys.readouterr().err
    assert run(["export", "resnet8", "-o", "r.onnx", flag]) == 0
    assert "exporting: " in capsys.readouterr().err


def test_what_is_not_verified_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*HALF, "--no-verify"]) == 0
    assert capsys.readouterr().out.endswith("not verified (--no-verify)\nwrote s.onnx\n")


def test_a_page_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "m.onnx", "--html", "page.html"]) == 0
    assert capsys.readouterr().out == "wrote page.html\n"
    assert run(["analyze", "m.onnx", "--html", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]


def test_one_display_at_a_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(steps, "TICK", 0.05)
    monkeypatch.setattr(steps, "EVERY", 0.0)
    monkeypatch.setattr("conet_graph.cli.progress.EVERY", 0.0)
    with steps.steps(quiet=False, timed=False):
        steps.step("verifying")
        time.sleep(0.2)
        steps.step("refitting")
        with progress() as tell:
            tell("looking", 0.5)
            time.sleep(0.2)
        assert "verifying" in (told := capfd.readouterr().err)
        assert told.endswith("looking, 50 % done\n")
        time.sleep(0.2)
    assert "refitting" in capfd.readouterr().err


def test_steps_leave_the_timer_as_it_was() -> None:
    import signal

    with steps.steps(quiet=False, timed=False):
        assert signal.getitimer(signal.ITIMER_REAL)[1] == steps.TICK
        steps.step("sleeping")
        time.sleep(0.01)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
