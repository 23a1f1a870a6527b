"""docs/FORMATS.md names what ``train``, ``distill`` and ``apply`` print and take, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import conet_graph as cg
from conet_graph.cli.distill import distill
from conet_graph.cli.train import train
from conet_graph.passes.widths.rewidth import TensorPlan
from conet_graph.rewriting.checkpoint import apply_plan_to_state_dict
from conet_graph.rewriting.plans import Plan

PAGE = (Path(__file__).parents[2] / "docs" / "FORMATS.md").read_text("utf-8")
SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"


def block(title: str) -> str:
    """The indented block below a title of the page."""
    found = re.search(rf"^## {re.escape(title)}\n\n((?:    .*\n)+)", PAGE, re.MULTILINE)
    assert found, title
    return found[1]


def keys_of(document: dict[str, Any]) -> set[str]:
    return set(document).union(*(epoch for epoch in document["epochs"]))


@pytest.mark.parametrize(("command", "extra"), [(train, ()), (distill, ("--teacher", SAMPLE))])
def test_json_has_the_keys_that_the_page_names(command: Any, extra: tuple[Any, ...], tmp_path: Path) -> None:
    name = command.__name__
    images = ("--data", "digits") if command is train else ("--images", "digits")
    app = typer.Typer()
    app.command()(command)
    asked = [SAMPLE, *extra, *images, "-o", tmp_path / "out.onnx", "--epochs", 1, "--lr", 0.01, "--json"]
    result = CliRunner().invoke(app, [str(a) for a in asked])
    assert result.exit_code == 0, result.stderr
    text = block(f"`conet-graph.{name}/1` (`{name} --json`)")
    assert keys_of(json.loads(result.stdout)) == set(re.findall(r'"([a-z_]+)"', text))


def test_the_mapping_is_one() -> None:
    mapping = json.loads(block("The mapping (`apply --mapping`)"))
    state = {"conv1.weight": torch.arange(6.0).reshape(3, 2, 1, 1), "fc.weight": torch.ones(4, 3)}
    state |= {f"bn2.{part}": torch.ones(3) for part in ("weight", "bias", "running_mean", "running_var")}
    tensors = {name: TensorPlan(name, {0: np.array([0, 2])}) for name in mapping}
    plan = Plan("", "keep", True, [], [], tensors)
    made = apply_plan_to_state_dict(plan, state, mapping)
    assert made["conv1.weight"].flatten().tolist() == [0, 1, 4, 5]
    assert made["fc.weight"].shape == (4, 2)
    assert {tuple(v.shape) for k, v in made.items() if k.startswith("bn2.")} == {(2,)}
