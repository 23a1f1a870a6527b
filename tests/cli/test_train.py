"""``conet-graph train``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import typer
from onnx import helper
from typer.testing import CliRunner, Result

import conet_graph as cg
from conet_graph.cli.train import train
from conet_graph.ir.errors import VerificationFailed
from conet_graph.ir.load import LoadedModel
from conet_graph.trials.data import open_data
from conet_graph.trials.networks import FileNetwork, write_trained

SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"
# A process of its own, as the command line starts one.
COMMAND = "import typer; from conet_graph.cli.train import train; a = typer.Typer(); a.command()(train); a()"


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(train)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def trained(out: Path, *arguments: object) -> dict[str, object]:
    asked = (SAMPLE, "--data", "digits", "-o", out, "--epochs", 3, "--batch", 64, "--json", *arguments)
    result = run(*asked)
    assert result.exit_code == 0, result.stderr
    # The document alone on stdout; how far it is on stderr.
    assert [line.split()[1] for line in result.stderr.splitlines()] == ["1/3", "2/3", "3/3"]
    told: dict[str, object] = json.loads(result.stdout)
    return told


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def accuracy(path: Path) -> float:
    """In ONNX Runtime, on images normalised as the data gives them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = open_data("digits").test(100, device="cpu")
    right = [session.run(None, {name: x.numpy()})[0].argmax(1) == y.numpy() for x, y in batches]
    return float(np.concatenate(right).mean())


def test_a_file_is_trained_from_new_weights_and_folded(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    told = trained(out, "--fresh")
    assert (told["format"], told["output"]) == ("conet-graph.train/1", str(out))
    assert told["test_accuracy"] == pytest.approx(accuracy(out), abs=1e-6)
    assert accuracy(out) > 0.8
    assert "BatchNormalization" in operators(SAMPLE)
    assert "BatchNormalization" not in operators(out)
    first = out.read_bytes()
    trained(out, "--fresh")
    assert out.read_bytes() == first
    trained(out, "--fresh", "--seed", 1)
    assert out.read_bytes() != first


def test_batchnorm_stays_when_asked_and_weights_go_into_the_files_own_names(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    told = trained(out, "--keep-batchnorm", "--lr", 0.001)
    assert operators(out) == operators(SAMPLE)
    before, after = (onnx.load(path).graph.initializer for path in (SAMPLE, out))
    assert [(t.name, t.dims) for t in before] == [(t.name, t.dims) for t in after]
    # It began with the file's weights, which know the digits.
    epochs = told["epochs"]
    assert isinstance(epochs, list)
    assert epochs[0]["train_accuracy"] > 0.9


def test_folded_batchnorm_is_put_back_for_the_training(tmp_path: Path) -> None:
    from conet_graph.passes.fold_batchnorm import fold_batchnorm

    folded = fold_batchnorm(cg.load(SAMPLE))
    network = FileNetwork.of(folded, fresh=True)
    kinds = [type(part).__name__ for part in network.module.modules()]
    assert sum("BatchNorm" in kind for kind in kinds) == operators(SAMPLE).count("BatchNormalization")


def test_rows_for_people(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = run(SAMPLE, "--data", "digits", "-o", out, "--epochs", 2, "--schedule", "adas")
    rows = result.stdout.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["epoch 1/2", "epoch 2/2", f"wrote {out}"]
    assert result.stderr == ""


def small_cifar(folder: Path) -> str:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    path = folder / "small.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    return f"npz:{path}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnet8", "--width", 4),
        ("darts7", "--width", 4, "--auxiliary", 0.4, "--drop-path", 0.2, "--clip", 5),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_network_of_the_zoo(arguments: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = run(
        *arguments, "--data", small_cifar(tmp_path), "-o", out, "--epochs", 1, "--batch", 20, "--json"
    )
    assert result.exit_code == 0, result.stderr
    (scores,) = onnx.load(out).graph.output
    assert [d.dim_value for d in scores.type.tensor_type.shape.dim][1:] == [4]
    assert not any("auxiliary" in t.name for t in onnx.load(out).graph.initializer)


def test_a_killed_training_ends_in_the_same_file(tmp_path: Path) -> None:
    whole, out, folder = tmp_path / "whole.onnx", tmp_path / "out.onnx", tmp_path / "checkpoint"
    asked = ["--epochs", "2", "--batch", "16", "--fresh", "--lr", "0.02", "--device", "cpu"]
    assert run(SAMPLE, "--data", "digits", "-o", whole, *asked).exit_code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", COMMAND, str(SAMPLE), "--data", "digits", "-o", str(out), *asked]
    process = subprocess.Popen([*command, "--checkpoint", str(folder)], env=environment)
    deadline = time.monotonic() + 120
    # Killed in the second epoch.
    while not (folder / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    result = run(SAMPLE, "--data", "digits", "-o", out, *asked, "--checkpoint", folder)
    assert result.exit_code == 2
    assert "give --resume to go on" in result.stderr
    result = run(SAMPLE, "--data", "digits", "-o", out, *asked, "--checkpoint", folder, "--resume")
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("missing.onnx",), 2, "missing.onnx"),
        ((SAMPLE, "--resume"), 2, "--resume needs to know from where"),
        ((SAMPLE, "--width", 8), 2, "for networks of the zoo, not for a file"),
        ((SAMPLE, "--schedule", "warm"), 2, "There is no schedule 'warm'"),
        (("resnet8",), 2, "does not take the images of 'digits', 1 x 8 x 8"),
        (("vgg11", "--auxiliary", 0.4), 2, "'vgg11' cannot be built"),
        ((SAMPLE, "--fresh", "--lr", 1e5), 1, "The training diverged"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: tuple[object, ...], code: int, sentence: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    result = run(*arguments, "--data", "digits", "-o", out, "--epochs", 1)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_is_missing_is_told_before_the_training(tmp_path: Path) -> None:
    result = run(SAMPLE, "--data", "digits", "-o", tmp_path / "no" / "out.onnx")
    assert result.exit_code == 2
    assert "There is no folder" in result.stderr


def test_a_file_that_answers_otherwise_is_not_written(tmp_path: Path) -> None:
    class Other(FileNetwork):
        """A network whose file is not what was trained."""

        def model(self) -> LoadedModel:
            return self.source

    network = FileNetwork.of(cg.load(SAMPLE))
    wrong = Other(network.source, network.module)
    with torch.no_grad():
        network.module.get_parameter(next(n for n, _ in network.module.named_parameters())).mul_(2)
    out = tmp_path / "out.onnx"
    with pytest.raises(VerificationFailed, match="answers otherwise"):
        write_trained(wrong, open_data("digits"), out, keep_batchnorm=True)
    assert not out.exists()
    write_trained(network, open_data("digits"), out, keep_batchnorm=True)
    assert out.exists()


def test_a_network_that_ends_in_a_softmax(tmp_path: Path) -> None:
    model = onnx.load(SAMPLE)
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"], axis=1))
    output.name = "probabilities"
    source, out = tmp_path / "soft.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    result = run(source, "--data", "digits", "-o", out, "--epochs", 2, "--lr", 0.01, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["test_accuracy"] > 0.9
    assert operators(out)[-1] == "Softmax"
