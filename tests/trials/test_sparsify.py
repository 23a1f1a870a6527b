"""Training towards exact zeros, and the network that is left of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import conet_graph as cg
from conet_graph.bridge.network import from_torch, trainable
from conet_graph.cli import run
from conet_graph.cli.train import train
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.insert_batchnorm import insert_batchnorm
from conet_graph.trials.sparsify import sparsifier
from tests.graphs import GraphBuilder

SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"


@pytest.mark.parametrize("how", ["bn", "group"])
def test_what_is_trained_so_shrinks_without_loss(how: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train)
    out, slim = tmp_path / "sparse.onnx", tmp_path / "slim.onnx"
    asked = [str(SAMPLE), "--data", "digits", "-o", str(out), "--epochs", "4", "--sparsify", how]
    more = ["--sparsity", "1.5" if how == "bn" else "0.1", "--lr", "0.05", "--json"]
    result = CliRunner().invoke(app, [*asked, *more])
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["epochs"]) == 4
    dead = sum(group.dead for group in cg.analyze(out).groups)
    assert dead > 5
    assert run(["rewrite", str(out), "-o", str(slim), "--lossless"]) == 0
    assert cg.analyze(slim).model.parameters < cg.analyze(out).model.parameters


def _chain(norm: bool) -> LoadedModel:
    b = GraphBuilder()
    x = b.conv(b.input("x", ["N", 3, 8, 8]), 4, 3, name="a")
    x = b.relu(b.bn(x) if norm else x)
    b.output(b.conv(x, 2, name="b"))
    return LoadedModel(b.build())


def test_a_step_takes_the_same_from_every_scale() -> None:
    model = _chain(norm=True)
    module = trainable(model)
    before = dict(module.named_parameters())
    (name,) = (n for n, p in before.items() if p.shape == (4,) and (p >= 0.5).all())
    with torch.no_grad():
        before[name].copy_(torch.tensor([1.0, -0.3, 0.04, 0.0]))
    sparsifier(module, model, "bn", 0.5)(0.1)
    assert torch.allclose(before[name], torch.tensor([0.95, -0.25, 0.0, 0.0]))


def test_a_weak_class_of_channels_goes_as_a_whole() -> None:
    model = _chain(norm=False)
    module = trainable(model)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.shape == (4, 3, 3, 3) or parameter.shape == (4,):
                parameter[1] = 1e-3
            if parameter.shape == (2, 4, 1, 1):
                parameter[:, 1] = 1e-3
    sparsifier(module, model, "group", 1.0)(0.01)
    found = cg.analyze(from_torch(module, model))
    assert [group.dead for group in found.groups if group.free] == [1]


def test_what_cannot_be_made_sparse_is_said() -> None:
    model = _chain(norm=False)
    with pytest.raises(Refused, match="no BatchNorm whose channels may change"):
        sparsifier(trainable(model), model, "bn", 1e-3)
    with pytest.raises(BadUsage, match="choose bn or group"):
        sparsifier(trainable(model), model, "l0", 1e-3)
    with pytest.raises(BadUsage, match="must be above 0"):
        sparsifier(trainable(model), model, "group", 0.0)
    both = insert_batchnorm(_chain(norm=False))
    assert sparsifier(trainable(both), both, "bn", 1e-3)
