"""``conet-graph search``: outputs, mistakes, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from conet_graph.cli.search import search

SAMPLE = str(Path(__file__).parents[2] / "models" / "samples" / "digits.onnx")
QUICK = ["--trials", "1", "--epochs", "1", "--width", "8", "--min-width", "4", "--batch", "256"]
CPU = ["--device", "cpu"]


def run(*arguments: str) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(search)
    try:
        code = app(list(arguments), standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def test_a_search_and_more_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(SAMPLE, "--out", out, *QUICK, *CPU, "--json") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["format"] == "conet-graph.search/1"
    assert (found["status"], found["trials"]) == ("finished", 1)
    assert [(s["size"], s["original_width"], s["width"]) for s in found["sizes"]] == [
        (f"s{k}", width, 8) for k, width in enumerate((24, 32, 40, 48, 16, 64))
    ]
    assert "No size can settle in under 3 trials; this search has 1." in shown.err
    assert "\ntrial 0 (1 of 1), accuracy " in shown.err
    assert Path(found["final"]).is_file()
    # Without options it goes on with those of the folder; the number of trials may grow.
    assert run(SAMPLE, "--out", out, "--resume", "--trials", "2") == 0
    shown = capsys.readouterr()
    assert "2 trials in " in shown.out
    assert "on indicators" in shown.out
    assert "trial 1 (2 of 2)" in shown.err
    assert 'schedule = "adas"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_rule_is_asked_for_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    quick = ["--trials", "2", "--epochs", "1", "--width", "own", "--min-width", "4", "--batch", "256", *CPU]
    assert run(SAMPLE, "--out", out, *quick, "--rule", "best") == 2
    assert "There is no rule 'best'" in capsys.readouterr().err
    assert run(SAMPLE, "--out", out, *quick, "--rule", "worth") == 2
    assert "give --max-params, --max-macs or both" in capsys.readouterr().err
    budget = ["--rule", "worth", "--max-macs", "1.0"]
    assert run(SAMPLE, "--out", out, *quick, *budget, "--json") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "decides by the test part of the data" in shown.err
    assert [s["width"] for s in found["sizes"]] != [s["original_width"] for s in found["sizes"]]
    assert run(SAMPLE, "--out", out, "--resume", "--rule", "pairs") == 2
    assert "The search began with rule worth, not pairs" in capsys.readouterr().err


def test_a_second_search_needs_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(SAMPLE, "--out", out, *QUICK, *CPU) == 0
    capsys.readouterr()
    assert run(SAMPLE, "--out", out, *QUICK, *CPU) == 2
    assert "holds a search already: go on with --resume" in capsys.readouterr().err
    assert run(SAMPLE, "--out", out, "--resume", "--delta", "0.5") == 2
    assert "The search began with delta 0.01, not 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resume"], "holds no search"),
        (["--width", "wide"], "--width 'wide' is neither a number nor 'own'"),
        (["--delta", "-1"], "delta is -1"),
        (["--schedule", "magic"], "There is no schedule 'magic'"),
        (["--data", "photos"], "'photos'"),
        (["--device", "abacus"], "abacus"),
        (["--batch", "0"], "The batch is 0"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(SAMPLE, "--out", str(tmp_path / "run"), *arguments) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_fit_the_network_leaves_the_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "colour.npz", str(tmp_path / "run")
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert run(SAMPLE, "--out", out, "--data", f"npz:{data}", *QUICK, *CPU) in (1, 2)
    assert "conet-graph: " in capsys.readouterr().err
    assert run(SAMPLE, "--out", out, *QUICK, *CPU) == 0


def test_a_missing_model_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none.onnx"), "--out", str(tmp_path / "run")) == 2
    assert "There is no file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_going_on_with_another_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SAMPLE, "--out", str(tmp_path / "run"), *QUICK, *CPU) == 0
    other = tmp_path / "other.onnx"
    data = Path(SAMPLE).read_bytes()
    other.write_bytes(data.replace(b"logits", b"scores"))
    assert run(str(other), "--out", str(tmp_path / "run"), "--resume") == 2
    assert "is the search of another network" in capsys.readouterr().err
