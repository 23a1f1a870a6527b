"""Latency tables that are kept for the user."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from latency_case import chain, table_of

from conet_graph.cli import run
from conet_graph.latency.kept import kept_path, kept_table
from conet_graph.latency.sessions import Conditions
from conet_graph.latency.table import Table
from conet_graph.rewriting.alignment import Alignment

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "conet-graph" / "latency"


def whole() -> Table:
    return replace(table_of(chain()), original_ms=10.0, measured=28, asked=28)


def test_each_network_and_each_condition_has_a_table_of_its_own(folder: Path) -> None:
    graph, usual = chain(), Conditions()
    path = kept_path(graph, usual, Alignment())
    assert path is not None
    assert path.parent == folder
    assert kept_path(chain(), usual, Alignment()) == path
    others = {
        kept_path(graph, Conditions(threads=2), Alignment()),
        kept_path(graph, Conditions(shapes={"x": (1, 3, 16, 16)}), Alignment()),
        kept_path(graph, usual, Alignment(16)),
    }
    assert len(others | {path}) == 4


def test_without_a_folder_nothing_is_kept(folder: Path) -> None:
    folder.parent.parent.write_text("a file, no folder")
    assert kept_path(chain(), Conditions(), Alignment()) is None


def test_a_whole_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert kept_table(path) is None
    whole().write(path)
    assert kept_table(path) == whole()


def test_a_damaged_table_goes_and_a_part_of_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("{")
    assert kept_table(path) is None
    assert not path.exists()
    replace(whole(), measured=5).write(path)
    assert kept_table(path) is None
    assert path.exists()


def test_the_same_command_again_takes_the_same_way(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name in ("one.onnx", "two.onnx"):
        path = tmp_path / name
        assert run(["rewrite", str(SAMPLE), "-o", str(path), "--latency", "0.7", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    (kept,) = folder.iterdir()
    told = [each["time"]["table"] for each in found]
    assert told == [{"path": str(kept), "measured_before": before} for before in (False, True)]
