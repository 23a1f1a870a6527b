"""``conet-graph analyze --rank``: two columns more, two fields more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from conet_graph.cli import app_for
from tests.graphs import GraphBuilder


@pytest.fixture
def network(tmp_path: Path) -> Path:
    g = GraphBuilder()
    x = g.relu(g.conv(g.input("x", ["N", 3, 8, 8]), 24, 3, name="a.layer.with.a.name.far.longer.than.most"))
    x = g.relu(g.conv(x, 24, 3, group=24, name="deep"))
    g.output(g.gemm(g.flatten(g.gap(x)), 4, name="head"))
    path = tmp_path / "model.onnx"
    onnx.save(g.build(), path)
    return path


def invoked(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app_for([]), [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_table_has_two_more_columns_and_still_fits(network: Path) -> None:
    code, out, err = invoked("analyze", network, "--rank")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    heads = next(line.split() for line in out.splitlines() if line.startswith("layer"))
    assert heads[-2:] == ["rank", "condition"]
    deep = next(line.split() for line in out.splitlines() if line.startswith("deep"))
    assert deep[-2:] == ["-", "-"]
    head = next(line.split() for line in out.splitlines() if line.startswith("head"))
    assert all(float(number) >= 0 for number in head[-4:])
    assert "rank" not in invoked("analyze", network)[1]


def test_the_fields_are_there_with_the_option_only(network: Path) -> None:
    plain = json.loads(invoked("analyze", network, "--json")[1])
    assert not any("rank" in layer or "condition" in layer for layer in plain["layers"])
    data = json.loads(invoked("analyze", network, "--json", "--rank")[1])
    first, deep, head = data["layers"]
    assert set(first["rank"]) == set(first["condition"]) == {"out", "in"}
    assert all(0 <= head["rank"][side] <= 1 <= head["condition"][side] for side in ("out", "in"))
    assert "rank" not in deep
    for layer in data["layers"]:
        layer.pop("rank", None)
        layer.pop("condition", None)
    assert data == plain


@pytest.mark.parametrize("other", [["--text"], ["--explain", "head"]])
def test_it_goes_with_the_table_and_json(network: Path, other: list[str]) -> None:
    code, out, err = invoked("analyze", network, "--rank", *other)
    assert (code, out) == (2, "")
    assert "--rank" in err


def test_no_torch_is_imported(network: Path) -> None:
    code = (
        "import sys; from conet_graph.cli import run; run(['analyze', sys.argv[1], '--rank']);"
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(network)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
