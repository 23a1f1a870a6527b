"""``conet-graph distill``."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import conet_graph as cg
from conet_graph.bridge import to_torch
from conet_graph.cli.distill import distill

SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"


def run(*arguments: object) -> Result:
    pytest.importorskip("torch")
    app = typer.Typer()
    app.command()(distill)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(name="slim", scope="module")
def _slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slim") / "slim.onnx"
    model = cg.load(SAMPLE)
    cg.save(cg.rewrite(model, cg.plan(model, macs=0.5)), path)
    return path


def test_it_writes_a_network_and_one_json_document(slim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    asked = ("--teacher", SAMPLE, "--images", "digits", "-o", out, "--epochs", 1, "--json")
    result = run(slim, *asked)
    assert result.exit_code == 0
    assert [line.split("  ")[0] for line in result.stderr.splitlines()] == ["epoch 0/1", "epoch 1/1"]
    told = json.loads(result.stdout)
    assert (told["format"], told["output"], told["images"] + told["images_aside"]) == (
        "conet-graph.distill/1",
        str(out),
        1437,
    )
    assert told["best_epoch"] == 1
    assert told["epochs"][1]["error"] < told["epochs"][0]["error"]
    first = out.read_bytes()
    assert run(slim, *asked).exit_code == 0
    assert out.read_bytes() == first
    cg.load(out)


def test_it_says_how_near_the_student_came(slim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = run(slim, "--teacher", SAMPLE, "--images", "digits", "-o", out, "--epochs", 1)
    assert result.exit_code == 0
    images, first, nearest, wrote = result.stdout.splitlines()
    assert images == "images: 1294 of 8 x 8 (height x width)"
    assert first.startswith("at first: error ")
    assert nearest.startswith("nearest to the teacher, after epoch 1: error 0.")
    assert "same class for" in nearest
    assert wrote == f"wrote {out}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--images", "nowhere"), "There is no data 'nowhere'"),
        (("--images", "digits", "--mean", "0.5"), "go together"),
        (("--images", "digits", "--mean", "x", "--std", "1"), "--mean 'x' is not a list of numbers"),
        (("--images", "digits", "--lr", "-1"), "must be above 0"),
        (("--images", "digits", "--device", "toaster"), "There is no device 'toaster'"),
        (("--images", "digits", "-o", "missing/out.onnx"), "There is no folder"),
        (("--images", "digits", "--size", "48"), "--size '48' is not HEIGHTxWIDTH"),
        (("--images", "digits", "--size", "8x8", "--image", "8"), "give one of them"),
        (("--images", "digits", "--augment", "rotate"), "--augment 'rotate' is none of"),
        (("--images", "digits", "--augment", "none,crop"), "is none of"),
        (("--images", "digits", "--bgr"), "grey images"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_file(
    slim: Path, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    out = tmp_path / "out.onnx"
    result = run(slim, "--teacher", SAMPLE, "-o", out, *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_student_that_only_gets_worse_stays_as_it_was(slim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    asked = ("--teacher", SAMPLE, "--images", "digits", "-o", out, "--lr", "1e6", "--epochs", 1)
    result = run(slim, *asked)
    assert result.exit_code == 0
    assert "nearest to the teacher, after epoch 0" in result.stdout
    assert "what was written is the student as it was" in result.stderr
    before, after = (to_torch(cg.load(path)).state_dict() for path in (slim, out))
    for name, weight in before.items():
        assert float((after[name] - weight).abs().max()) <= 1e-5 * float(weight.abs().max())
