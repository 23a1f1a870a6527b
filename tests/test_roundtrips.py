"""Rewritten files go where their originals go: benchmarks/roundtrips."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "roundtrips"
TOOLS = ("ncnn", "onnxconverter_common", "onnxsim", "onnxslim", "openvino", "pnnx", "tract")
NETWORKS = (
    *("digits", "resnet20", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "lraspp_mobilenet_v3_large"),
)


@pytest.mark.roundtrip
@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten_files_go_where_their_originals_go(name: str, tmp_path: Path) -> None:
    absent = [tool for tool in TOOLS if importlib.util.find_spec(tool) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)} (benchmarks/roundtrips/requirements.txt)")
    rows = tmp_path / "rows.csv"
    command = [sys.executable, str(FOLDER / "table.py"), name, "--rows", str(rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-500:]
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3 * 13
    accepted = {row["way"] for row in found if row["file"] == "original" and not row["failure"]}
    assert len(accepted) >= 12


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("networks", "table", "ways"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("table")


def row(file: str, way: str, error: str, failure: str = "") -> dict[str, str]:
    return {"network": "n", "file": file, "way": way, "error": error, "failure": failure}


def test_what_fares_worse_than_its_original_is_named(table: ModuleType) -> None:
    assert set(NETWORKS) == set(table.NETWORKS)
    originals = [row("original", "OpenVINO", "1e-6"), row("original", "tract", "", "no")]
    originals.append(row("original", "half floats", "1e-2"))
    good = [row("narrower", "OpenVINO", "9e-5"), row("wider", "tract", "", "no")]
    good.append(row("wider", "half floats", "3.9e-2"))
    assert table.worse([*originals, *good]) == []
    bad = [row("narrower", "OpenVINO", "2e-4"), row("wider", "OpenVINO", "", "no such node")]
    bad += [row("wider", "half floats", "4.1e-2"), row("narrower", "half floats", "nan")]
    assert table.worse([*originals, *bad]) == [
        "n, narrower, OpenVINO: error 2e-4, the original's 1e-6",
        "n, wider, OpenVINO: not accepted: no such node",
        "n, wider, half floats: error 4.1e-2, the original's 1e-2",
        "n, narrower, half floats: error nan, the original's 1e-2",
    ]
