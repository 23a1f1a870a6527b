"""The examples of docs/PIPELINES.md run, and fail where they say that they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml  # timm, which the tests need, brings it
from onnx import numpy_helper

ROOT = Path(__file__).parents[1]
# The examples that need other runtimes are tested in test_roundtrips.py.
PAGE = (ROOT / "docs" / "PIPELINES.md").read_text("utf-8").partition("\n## On to runtimes\n")[0]
# How the workflow's runner starts a step of its own shell.
STEP = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in a folder, with this environment's `conet-graph` on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    return tmp_path


def assert_halved(folder: Path) -> None:
    report = json.loads((folder / "rewrite.json").read_text())
    assert report["macs"]["new"] <= report["macs"]["old"] / 2
    assert report["verification"]["ok"]
    assert json.loads((folder / "verify.json").read_text())["ok"]
    assert json.loads((folder / "analysis.json").read_text())["format"] == "conet-graph.analysis/1"
    assert json.loads((folder / "plan.json").read_text())["format"] == "conet-graph.plan/1"


def test_the_shell_lines_halve_the_network_and_its_checkpoint(folder: Path) -> None:
    halve, follow = blocks("sh")
    done = run(["sh", "-c", halve], folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_halved(folder)
    weights = onnx.load(folder / "model.onnx").graph.initializer
    torch.save({t.name: torch.tensor(numpy_helper.to_array(t)) for t in weights}, folder / "weights.pt")
    done = run(["sh", "-c", follow], folder)
    assert (done.returncode, done.stderr) == (0, "")
    made = torch.load(folder / "slim.pt", weights_only=True)
    for tensor in onnx.load(folder / "slim.onnx").graph.initializer:
        np.testing.assert_array_equal(made[tensor.name].numpy(), numpy_helper.to_array(tensor))


def test_the_shell_lines_fail_the_build(folder: Path) -> None:
    halve = blocks("sh")[0]
    done = run(["sh", "-c", halve.replace("--macs 0.5", "--macs 0.00001")], folder)
    assert done.returncode == 1
    assert "cannot be halved" in done.stderr
    assert not (folder / "slim.onnx").exists()
    (folder / "model.onnx").write_bytes(b"no model")
    assert run(["sh", "-c", halve], folder).returncode == 2


def test_the_python_lines_halve_the_network(folder: Path) -> None:
    (code,) = blocks("python")
    done = run([sys.executable, "-c", code], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"slim.onnx", "plan.json"} <= {p.name for p in folder.iterdir()}
    assert (
        run(["conet-graph", "verify", "model.onnx", "slim.onnx", "--plan", "plan.json"], folder).returncode
        == 0
    )


def test_the_python_lines_fail_the_build(folder: Path) -> None:
    (code,) = blocks("python")
    done = run([sys.executable, "-c", code.replace("macs=0.5", "macs=0.00001")], folder)
    assert done.returncode == 1
    assert "cannot be halved" in done.stderr
    assert not (folder / "slim.onnx").exists()


def workflow() -> list[dict[str, object]]:
    """The steps of the workflow's one job."""
    (text,) = blocks("yaml")
    (job,) = yaml.safe_load(text)["jobs"].values()
    return job["steps"]


def commands() -> list[str]:
    """What the workflow runs once conet-graph is installed."""
    lines = [str(step["run"]) for step in workflow() if "run" in step]
    assert lines[0] == "pip install ./conet-graph"
    return lines[1:]


def test_the_workflow_halves_the_network_and_keeps_the_plan(folder: Path) -> None:
    for command in commands():
        done = run([*STEP, command], folder)
        assert (done.returncode, done.stderr) == (0, "")
    assert_halved(folder)
    kept = [step for step in workflow() if "upload-artifact" in str(step.get("uses"))]
    assert [step["if"] for step in kept] == ["always()"]
    files = kept[0]["with"]["path"].split()
    assert "plan.json" in files
    assert all((folder / name).is_file() for name in files)


def test_the_workflow_fails_on_a_file_that_is_not_the_plans(folder: Path) -> None:
    *before, verify = commands()
    for command in before:
        assert run([*STEP, command], folder).returncode == 0
    slim = onnx.load(folder / "slim.onnx")
    weight = next(t for t in slim.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    onnx.save(slim, folder / "slim.onnx")
    done = run([*STEP, verify], folder)
    assert done.returncode == 1
    assert "Verification failed" in done.stderr


def test_the_mapping_is_json() -> None:
    (text,) = blocks("json")
    assert set(map(type, json.loads(text).values())) == {str, list, dict, type(None)}
