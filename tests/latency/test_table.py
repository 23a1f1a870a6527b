"""Latency tables as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conet_graph.ir.errors import BadUsage
from conet_graph.latency.table import Row, Table


def table() -> Table:
    rows = [Row("Conv at 8x8", ["a", "b"], [(16.0, 3.0, 0.25), (8.0, 3.0, 0.125)]), Row("Add at 8x8", ["c"])]
    return Table({r.shape: r for r in rows}, {"name": "board"}, "12ab", 0.5, 7.0, 3, 20, {"16,8": 0.5})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table().write(tmp_path / "table.json")
    assert Table.read(tmp_path / "table.json") == table()


def test_a_table_needs_no_more_than_layers(tmp_path: Path) -> None:
    layers = [{"shape": "first", "names": ["conv1"], "points": [[64, 3, 1.5]]}]
    (tmp_path / "board.json").write_text(json.dumps({"format": "conet-graph.latency/1", "layers": layers}))
    found = Table.read(tmp_path / "board.json")
    assert found.rows["first"].points == [(64.0, 3.0, 1.5)]
    assert found.original_ms is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "conet-graph.latency/9"}, "has the format 'conet-graph.latency/9'"),
        ({"layers": [{"shape": "x", "names": [], "points": [[1, 2]]}]}, "damaged"),
        ({"layers": [{"shape": "x", "names": [], "points": [[1, 2, float("nan")]]}]}, "damaged"),
        ({"layers": [{"shape": "x", "names": [], "points": [[0, 2, 1.0]]}]}, "damaged"),
        ({"layers": [{"names": []}]}, "damaged near ''shape"),
        ({"layers": 3}, "damaged"),
        ({"wholes": {"64,96": 0}}, "damaged"),
    ],
)
def test_tables_that_are_none(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps({**table().to_json(), **change}))
    with pytest.raises(BadUsage, match=sentence):
        Table.read(tmp_path / "table.json")


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(BadUsage, match="is not JSON"):
        Table.read(tmp_path / "table.json")
