"""Rewritten files go where their originals go: benchmarks/roundtrips."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "roundtrips"
SAMPLE = ROOT / "models" / "samples" / "digits.onnx"
PAGE = (ROOT / "docs" / "PIPELINES.md").read_text("utf-8")
TOOLS = ("ncnn", "olive", "onnxconverter_common", "onnxsim", "onnxslim", "openvino", "pnnx", "tract")
NETWORKS = (
    *("digits", "resnet20", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "lraspp_mobilenet_v3_large"),
)


@pytest.fixture
def tools() -> None:
    absent = [tool for tool in TOOLS if importlib.util.find_spec(tool) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)} (benchmarks/roundtrips/requirements.txt)")


@pytest.mark.roundtrip
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("title", "made"),
    [
        ("OpenVINO", "slim.xml"),
        ("ncnn", "slim.ncnn.param"),
        ("INT8 after narrowing", "int8.onnx"),
        ("A pass of onnx_ir or onnxscript", "slim.onnx"),
        ("A step of Olive", "slim/model.onnx"),
    ],
)
def test_examples_of_the_docs_run(title: str, made: str, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "model.onnx")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).standard_normal((32, 1, 8, 8), np.float32))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"OMP_NUM_THREADS": "1", "OLIVE_DISABLE_TELEMETRY": "1"}
    (example,) = re.findall(rf"### {title}\n.*?```(sh|python)\n(.*?)```", PAGE, re.DOTALL)[:1]
    command = ["sh", "-ec"] if example[0] == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, example[1]],
        cwd=tmp_path,
        env={**os.environ, **quiet, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert (tmp_path / made).stat().st_size > 1000


@pytest.mark.roundtrip
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten_files_go_where_their_originals_go(name: str, tmp_path: Path) -> None:
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
