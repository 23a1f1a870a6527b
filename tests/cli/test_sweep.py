"""``conet-graph sweep`` with processes of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer

from conet_graph.cli.sweep import sweep
from conet_graph.search.sweep import LocalProcesses

SAMPLE = str(Path(__file__).parents[2] / "models" / "samples" / "digits.onnx")
SEARCH = ["--", "--trials", "1", "--epochs", "1", "--width", "8", "--min-width", "4", "--batch", "256"]


def run(*arguments: str) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(sweep)
    try:
        code = app(list(arguments), standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def test_a_sweep_has_a_table_a_picture_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    assert run(SAMPLE, "--out", str(out), "--delta", "0.01,0.02", "--jobs", "2", *SEARCH) == 0
    shown = capsys.readouterr()
    assert "delta 0.01" in shown.out
    assert "1 of 1" in shown.out
    assert sorted(shown.err.split("\n"))[1:] == [
        f"conet-graph: delta-{delta}-seed-0: done" for delta in ("0.01", "0.02")
    ]
    written = json.loads((out / "sweep.json").read_text())
    assert written["format"] == "conet-graph.sweep/1"
    assert [(s["delta"], s["seed"], s["status"]) for s in written["searches"]] == [
        (0.01, 0, "finished"),
        (0.02, 0, "finished"),
    ]
    assert (out / "sweep.png").is_file()


def test_a_sweep_whose_searches_are_refused_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.onnx")
    assert run(missing, "--out", str(tmp_path / "sweep"), "--jobs", "1", "--json") == 1
    shown = capsys.readouterr()
    assert "seed-0: refused, see '" in shown.err
    assert json.loads(shown.out)["searches"][0]["status"] == "missing"


def test_values_that_are_no_numbers_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(SAMPLE, "--out", str(tmp_path / "sweep"), "--delta", "small") == 2
    assert "--delta 'small' is no list of numbers" in capsys.readouterr().err


@pytest.mark.parametrize(("usable", "at_a_time"), [(6, 3), (1, 1)])
def test_half_of_the_cores_that_may_be_used_search(
    usable: int, at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    monkeypatch.setattr(LocalProcesses, "__init__", lambda _, count: workers.append(count))
    monkeypatch.setattr(LocalProcesses, "run", lambda *_: None)
    run(SAMPLE, "--out", str(tmp_path / "sweep"))
    assert workers == [at_a_time]
