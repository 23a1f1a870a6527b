"""Outputs never take the place of inputs or of each other, and '-' is a pipe."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conet_graph.cli import run
from conet_graph.ir.save import atomic_write

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its hard and its soft link, one with its weights beside it, and other inputs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "m.onnx")
    os.link("m.onnx", "hard.onnx")
    os.symlink("m.onnx", "soft.onnx")
    onnx.save(onnx.load(SAMPLE), "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert run(["rewrite", "m.onnx", "-o", "slim.onnx", "--scale", "0.5", "--plan", "plan.json"]) == 0
    Path("widths.json").write_text('{"g1": 16}')
    Path("weights.pt").write_bytes(b"no checkpoint")
    np.savez("images.npz", x=np.zeros(1))
    Path("run").mkdir()
    Path("run/run.sqlite").write_bytes(b"a database")
    Path("run/sweep.json").write_bytes(b"a model by that name")
    Path("run/original.onnx").write_bytes(SAMPLE.read_bytes())
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"a photo")
    return tmp_path


HALF = ["--scale", "0.5"]
COLLISIONS = [
    ["rewrite", "m.onnx", *HALF, "-o", "m.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "./run/../m.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "hard.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "soft.onnx"],
    ["rewrite", "soft.onnx", *HALF, "-o", "m.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "m.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "out.onnx"],
    ["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "run/../out.onnx"],
    ["rewrite", "m.onnx", "--widths", "widths.json", "-o", "out.onnx", "--plan", "widths.json"],
    ["rewrite", "big.onnx", *HALF, "-o", "out.onnx", "--plan", "big.bin"],
    ["rewrite", "big.onnx", *HALF, "-o", "big.bin"],
    ["analyze", "m.onnx", "--html", "hard.onnx"],
    ["analyze", "big.onnx", "--html", "big.bin"],
    ["apply", "plan.json", "weights.pt", "-o", "weights.pt"],
    ["apply", "plan.json", "weights.pt", "-o", "out.pt", "--mapping", "out.pt"],
    ["distill", "slim.onnx", "--teacher", "m.onnx", "--images", "images.npz", "-o", "hard.onnx"],
    ["distill", "slim.onnx", "--teacher", "m.onnx", "--images", "images.npz", "-o", "images.npz"],
    ["distill", "slim.onnx", "--teacher", "m.onnx", "--images", "photos", "-o", "photos/a.png"],
    ["distill", "slim.onnx", "--teacher", "big.onnx", "--images", "npz:images.npz", "-o", "big.bin"],
    ["train", "m.onnx", "--data", "digits", "-o", "soft.onnx"],
    ["train", "m.onnx", "--data", "npz:images.npz", "-o", "images.npz"],
    ["export", "resnet8", "-o", "run/run.sqlite", "--widths-from", "run"],
    ["report", "run", "--html", "run/run.sqlite"],
    ["search", "run/original.onnx", "--out", "run"],
    ["sweep", "run/sweep.json", "--out", "run"],
]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("arguments", COLLISIONS, ids=" ".join)
def test_nothing_that_is_read_is_written(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "search":
        Path("run/run.sqlite").unlink()
    if arguments[-1] == "out.pt":
        Path("out.pt").write_text("{}")
    before = contents(folder)
    capsys.readouterr()
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert "would overwrite" in told or "both name" in told
    assert told.count("\n") == 1
    assert contents(folder) == before


def test_the_data_of_a_copied_model_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rewrite", "big.onnx", *HALF, "-o", "slim-big.onnx"]) == 0
    shutil.copy("slim-big.onnx", "copy.onnx")  # refers to slim-big's data file, as slim-big does
    before = contents(folder)
    assert run(["rewrite", "copy.onnx", *HALF, "-o", "slim-big.onnx"]) == 2
    assert "shares 'slim-big.onnx." in capsys.readouterr().err
    assert contents(folder) == before


def test_other_outputs_are_written(folder: Path) -> None:
    assert run(["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "new.json"]) == 0
    assert run(["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "new.json"]) == 0
    assert run(["analyze", "m.onnx", "--html", "page.html"]) == 0


@pytest.mark.parametrize("option", ["-o", "--plan"])
def test_a_read_only_output_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Path("kept")
    kept.write_text("mine")
    kept.chmod(0o444)
    other = {"-o": "--plan", "--plan": "-o"}[option]
    assert run(["rewrite", "m.onnx", *HALF, other, "new", option, "kept"]) == 2
    assert "'kept' is read-only" in capsys.readouterr().err
    assert kept.read_text() == "mine"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o444
    assert not Path("new").exists()


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_an_output_keeps_its_mode(mode: int) -> None:
    for name in ("out.onnx", "new.json"):
        Path(name).write_text("")
        Path(name).chmod(mode)
    assert run(["rewrite", "m.onnx", *HALF, "-o", "out.onnx", "--plan", "new.json"]) == 0
    assert {stat.S_IMODE(Path(name).stat().st_mode) for name in ("out.onnx", "new.json")} == {mode}


def test_a_new_file_has_the_usual_mode() -> None:
    before = os.umask(0o027)
    try:
        atomic_write(Path("fresh"), [b""])
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("fresh").stat().st_mode) == 0o640


def process(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "conet_graph", *arguments], input=given, capture_output=True, check=False
    )


def test_a_model_goes_through_pipes() -> None:
    given = Path("m.onnx").read_bytes()
    done = process("rewrite", "-", "-o", "-", *HALF, "--plan", "piped.json", given=given)
    assert done.returncode == 0
    assert done.stdout == Path("slim.onnx").read_bytes()
    assert b"wrote the model to stdout" in done.stderr
    assert Path("piped.json").read_bytes() == Path("plan.json").read_bytes()  # the hash is the file's
    assert not Path("-").exists()
    assert process("verify", "m.onnx", "-", "--plan", "plan.json", given=done.stdout).returncode == 0
    assert process("verify", "-", "slim.onnx", "--plan", "plan.json", given=given).returncode == 0
    found = process("analyze", "-", "--json", given=given)
    planned_for = json.loads(Path("plan.json").read_text())["source"]["sha256"]
    assert json.loads(found.stdout)["model"]["sha256"] == planned_for


def test_weights_beside_a_model_come_out_of_a_pipe_inside_it() -> None:
    done = process("rewrite", "big.onnx", "-o", "-", *HALF)
    assert done.returncode == 0
    model = onnx.load_from_string(done.stdout)
    assert all(t.data_location != TensorProto.EXTERNAL for t in model.graph.initializer)


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        (["analyze", "-"], b"", "What came through the pipe is empty"),
        (["analyze", "-"], b"\x89PNG\r\n", "What came through the pipe is a PNG picture"),
        (["rewrite", "-", *HALF, "-o", "x"], b"\x08\x07garbage", "What came through the pipe is not an ONNX"),
        (["verify", "-", "-", "--plan", "plan.json"], b"", "Only one of the two models can come through"),
        (["rewrite", "m.onnx", *HALF, "-o", "-", "--json"], b"", "-o - and --json both want stdout"),
        (["rewrite", "m.onnx", *HALF, "-o", "x", "--plan", "-"], b"", "--plan takes no pipe: name a file"),
        (["analyze", "m.onnx", "--html", "-"], b"", "--html takes no pipe: name a file"),
        (["apply", "plan.json", "weights.pt", "-o", "-"], b"", "-o takes no pipe"),
        (["train", "m.onnx", "--data", "digits", "-o", "-"], b"", "-o takes no pipe"),
        (["export", "resnet8", "-o", "-"], b"", "-o takes no pipe"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_pipe_that_cannot_be(arguments: list[str], given: bytes, sentence: str) -> None:
    done = process(*arguments, given=given)
    assert done.returncode == 2
    assert sentence in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""
    assert not Path("-").exists()


def test_what_libraries_print_is_not_on_stdout() -> None:
    """ONNX Runtime prints a warning about its experimental operators on the process's stdout."""
    scale = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "w")
    last = numpy_helper.from_array(np.ones((2, 8, 1, 1), np.float32), "v")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Affine", ["a"], ["b"], alpha=2.0, beta=0.5),
        helper.make_node("Conv", ["b", "v"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 2, 8, 8])],
        [scale, last],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3), "affine.onnx"
    )
    done = process("rewrite", "affine.onnx", "--scale", "0.5", "-o", "out.onnx", "--json")
    assert done.returncode == 0
    assert b"experimental ops: Affine" in done.stderr
    assert json.loads(done.stdout)["verification"]["ok"]
