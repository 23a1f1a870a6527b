"""What commands say besides their results: -h, -q, -v, progress, notes."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from conet_graph.cli import COMMANDS, run, steps
from conet_graph.ir.errors import shown

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


def test_defaults_are_shown_in_one_style(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert run([command, "--help"]) == 0
        told = capsys.readouterr().out
        assert not re.findall(r"\[(?!default: |OPTIONS|x>=|-- OPTIONS)[^\]]*\]", told), command


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


def test_bn_says_when_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*HALF, "--importance", "bn"]) == 0
    assert capsys.readouterr().err == ""
    assert (
        run(["train", "m.onnx", "--data", "digits", "-o", "f.onnx", "--epochs", "1", "--batch", "512"]) == 0
    )
    capsys.readouterr()
    assert run(["rewrite", "f.onnx", "-o", "s.onnx", "--scale", "0.5", "--importance", "bn"]) == 0
    assert capsys.readouterr().err == (
        "conet-graph: There is no BatchNorm in this network to read: --importance bn ranks as l2 does.\n"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("модель.onnx", "'модель.onnx'"),
        ("模型", "'模型'"),
        ("naïve é.onnx", "'naïve é.onnx'"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("a\u202eb", r"'a\u202eb'"),
        ("back\\slash", r"'back\\slash'"),
    ],
)
def test_names_are_readable_and_harmless(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(name) == told
    assert run(["analyze", name]) == 2
    assert f"There is no file {told}" in capsys.readouterr().err


# A step of several seconds, of which a line or a display tells.
LONG = """
import time
from conet_graph.cli import steps
steps.TICK, steps.EVERY = 0.2, 0.5
with steps.steps(quiet={quiet}, timed=False):
    steps.step("verifying")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        time.sleep(0.05)
    steps.step("")
print("done")
"""


def long_step(quiet: bool = False) -> list[str]:
    return [sys.executable, "-c", LONG.format(quiet=quiet)]


def test_a_long_step_is_a_line_now_and_then() -> None:
    done = subprocess.run(long_step(), capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(re.fullmatch(r"conet-graph: verifying, \d s so far", line) for line in lines)
    assert subprocess.run(long_step(True), capture_output=True, check=True).stderr == b""


def test_on_a_terminal_a_long_step_is_shown_and_taken_away() -> None:
    reading, writing = pty.openpty()
    subprocess.run(long_step(), stdout=subprocess.DEVNULL, stderr=writing, check=True)
    os.close(writing)
    told = b""
    try:
        while piece := os.read(reading, 4096):
            told += piece
    except OSError:
        pass  # the other end has gone
    os.close(reading)
    assert b"\r\x1b[Kverifying ... 1 s" in told
    assert told.endswith(b"\r\x1b[K")


def test_a_long_rewrite_tells_its_steps(tmp_path: Path) -> None:
    slow = (
        "import sys, time\n"
        "from conet_graph.cli import steps, run\n"
        "from conet_graph.rewriting import rewriting\n"
        "steps.TICK, steps.EVERY = 0.2, 0.4\n"
        "save = rewriting.save\n"
        "rewriting.save = lambda *a: (time.sleep(1), save(*a))\n"
        f"sys.exit(run({HALF!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, check=True)
    assert "conet-graph: writing, " in done.stderr
    assert "wrote s.onnx" in done.stdout
    assert numpy_helper.to_array(onnx.load("s.onnx").graph.initializer[0]).size


def test_steps_leave_the_timer_as_it_was() -> None:
    import signal

    with steps.steps(quiet=False, timed=False):
        assert signal.getitimer(signal.ITIMER_REAL)[1] == steps.TICK
        steps.step("sleeping")
        time.sleep(0.01)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
