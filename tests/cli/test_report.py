"""``conet-graph report`` and ``conet-graph runs``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from made_run import make_run
from parsed_page import Page
from typer.testing import CliRunner

from conet_graph.cli.report import report
from conet_graph.cli.runs import runs

app = typer.Typer()
app.command()(report)
app.command()(runs)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_report_writes_the_page_and_the_plots(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", sizes=2, trials=2)
    code, out, _ = run("report", str(folder))
    assert code == 0
    assert "wrote 10 pictures" in out
    assert Page((folder / "report" / "index.html").read_text("utf-8")).text("h1") == "resnet20.onnx"


def test_report_names_its_files_as_json(tmp_path: Path) -> None:
    folder, page = make_run(tmp_path / "a", sizes=2, trials=1), tmp_path / "page.html"
    code, out, _ = run("report", str(folder), "--html", str(page), "--json")
    data = json.loads(out)
    assert (code, data["format"], data["html"]) == (0, "conet-graph.report/1", str(page))
    assert all(Path(p).is_file() for p in (page, *data["plots"]))
    assert not (folder / "report" / "index.html").exists()


@pytest.mark.parametrize("command", ["report", "runs"])
def test_a_folder_that_is_not_there(command: str, tmp_path: Path) -> None:
    code, out, err = run(command, str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_runs_lists_what_can_be_read_and_names_the_rest(tmp_path: Path) -> None:
    make_run(tmp_path / "good", trials=2, status="running")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.sqlite").write_text("no database" * 99)
    code, out, err = run("runs", str(tmp_path))
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("good")).split()
    assert row[1:2] == ["resnet20.onnx"]
    assert row[3:5] == ["running", "2"]
    assert "bad" not in out
    assert "damaged" in err


def test_runs_as_json(tmp_path: Path) -> None:
    make_run(tmp_path / "one", trials=2, epochs=4)
    code, out, _ = run("runs", str(tmp_path), "--json")
    entry = json.loads(out)["runs"][0]
    assert code == 0
    assert (entry["status"], entry["trials"], entry["data"]) == ("finished", 2, "npz:cifar10_small.npz")
    assert entry["hours"] == pytest.approx(2 * (4 * (21.4 + 0.31) + 0.42) / 3600)


def test_no_runs_is_an_answer(tmp_path: Path) -> None:
    assert run("runs", str(tmp_path))[0] == 0
    assert json.loads(run("runs", str(tmp_path), "--json")[1])["runs"] == []
