"""The small install: analyze, rewrite, verify and apply without PyTorch; what needs more says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from conet_graph.cli.common import TRAIN_MODULES

ROOT = Path(__file__).resolve().parents[1]
# Distributions whose packages are called otherwise.
PACKAGES = {"pillow": "PIL", "scikit-learn": "sklearn"}
# Runs the command line with the packages of the extra taken away.
WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(TRAIN_MODULES)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from conet_graph.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "m.onnx")
    weights = onnx.load(tmp_path / "m.onnx").graph.initializer
    save_file({t.name: numpy_helper.to_array(t) for t in weights}, tmp_path / "weights.safetensors")
    np.savez(tmp_path / "images.npz", x=np.zeros(1))
    return tmp_path


def work(command: list[str], folder: Path) -> None:
    """The four commands that the small install is for."""

    def done(*arguments: str) -> str:
        ran = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        return ran.stdout

    assert json.loads(done("analyze", "m.onnx", "--json", "--rank", "--html", "page.html"))["groups"]
    done("analyze", "m.onnx", "--explain", "/fc/Gemm")
    done("rewrite", "m.onnx", "-o", "s.onnx", "--macs", "0.5", "--plan", "p.json")
    done("rewrite", "m.onnx", "-o", "w.onnx", "--scale", "1.5", "--init", "fresh")
    done("verify", "m.onnx", "s.onnx", "--plan", "p.json")
    done("apply", "p.json", "weights.safetensors", "-o", "slim.safetensors")
    slim = load_file(folder / "slim.safetensors")
    for tensor in onnx.load(folder / "s.onnx").graph.initializer:
        np.testing.assert_array_equal(slim[tensor.name], numpy_helper.to_array(tensor))


def test_four_commands_need_no_pytorch(folder: Path) -> None:
    work([sys.executable, "-c", WITHOUT], folder)


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["apply", "p.json", "weights.pt", "-o", "slim.pt"], "torch"),
        (["train", "m.onnx", "--data", "npz:images.npz", "-o", "t.onnx"], "torch"),
        (["search", "m.onnx", "--data", "npz:images.npz", "--out", "run"], "torch"),
        (["distill", "m.onnx", "--teacher", "m.onnx", "--images", "images.npz", "-o", "t.onnx"], "torch"),
        (["export", "resnet8", "-o", "t.onnx"], "torch"),
        (["report", "run"], "matplotlib"),
        (["compare", "run"], "torch"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_that_lacks_a_package_says_so(arguments: list[str], module: str, folder: Path) -> None:
    (folder / "weights.pt").write_bytes(b"")
    rewrite = ["rewrite", "m.onnx", "-o", "s.onnx", "--scale", "0.5", "--plan", "p.json"]
    for command in ([rewrite] if arguments[0] == "apply" else []) + [arguments]:
        ran = subprocess.run(
            [sys.executable, "-c", WITHOUT, *command], cwd=folder, capture_output=True, text=True, check=False
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"conet-graph: This needs {module}")
    assert "pip install 'conet-graph[train]'" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_what_is_missing_is_what_the_extra_brings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {line.partition(">")[0] for line in project["optional-dependencies"]["train"]}
    assert {PACKAGES.get(name, name) for name in names} == TRAIN_MODULES
    assert names.isdisjoint(line.partition(">")[0] for line in project["dependencies"])
    assert "conet-graph[train]" in project["optional-dependencies"]["dev"]


@pytest.mark.install
def test_in_a_fresh_environment(folder: Path) -> None:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    assert {entry["name"].lower() for entry in json.loads(listed.stdout)}.isdisjoint(
        ("torch", "torchvision", "tensorboard", "scikit-learn", "matplotlib", "onnx2torch", "onnxscript")
    )
    work([str(folder / "venv" / "bin" / "conet-graph")], folder)
