"""``conet-graph compare`` on a small search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from conet_graph.cli.compare import compare
from conet_graph.cli.search import search

SAMPLE = str(Path(__file__).parents[2] / "models" / "samples" / "digits.onnx")


def run(command: Callable[..., None], *arguments: str) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    try:
        code = app(list(arguments), standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def test_table_and_json_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    options = ["--trials", "1", "--epochs", "1", "--width", "12", "--batch", "256", "--device", "cpu"]
    assert run(search, SAMPLE, "--out", out, *options, "--min-width", "4", "--max-width", "32") == 0
    capsys.readouterr()
    assert run(compare, out, "--seeds", "1") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("each trained 1 epochs\n")
    assert [line.split("  ")[0] for line in shown.out.splitlines()[3:8]] == [
        *(
            "found by the search",
            "scaled alike (compound)",
            "one width everywhere",
            "random widths",
            "the file's own",
        )
    ]
    assert shown.err.count("seed 0: accuracy") == 5
    assert run(compare, out, "--seeds", "1", "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # all is recorded
    found = json.loads(shown.out)
    assert found["format"] == "conet-graph.compare/1"
    conet, uniform, _, random, original = found["networks"]
    assert conet["widths"] == [12, 12]
    assert original["widths"] == [16, 64]
    assert uniform["parameters"] <= conet["parameters"] >= random["parameters"]
    assert 0 <= conet["accuracy"] <= 1
    assert conet["spread"] is None
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_folder_without_a_search_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(compare, str(tmp_path / "none")) == 2
    assert "holds no search" in capsys.readouterr().err
    assert run(compare, str(tmp_path)) == 2
    assert "holds no search" in capsys.readouterr().err
