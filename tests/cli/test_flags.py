"""Every flag of every command is used by some test; here are those that no other test needs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer

from conet_graph.cli import app_for, run
from conet_graph.ir.errors import Refused

ROOT = Path(__file__).parents[2]
SAMPLE = str(ROOT / "models" / "samples" / "digits.onnx")
QUICK = ["--data", "digits", "--epochs", "1", "--batch", "256", "--device", "cpu"]


def used(texts: list[str]) -> set[str]:
    """All that stands in texts as a flag."""
    return {flag for text in texts for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", text)}


def flags() -> list[tuple[str, list[str]]]:
    """Every option of every command, with all that means the same."""
    group: Any = typer.main.get_command(app_for([]))
    return [
        (f"{name} {options[0]}", options)
        for name, command in group.commands.items()
        for parameter in command.params
        for options in (parameter.opts, parameter.secondary_opts)
        if any(option.startswith("-") for option in options)
    ]


def test_every_flag_is_used() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")]
    texts += [(ROOT / page).read_text("utf-8") for page in ("README.md", "docs/PIPELINES.md", "Makefile")]
    there = used(texts)
    assert [name for name, same in flags() if there.isdisjoint(same)] == []


def test_a_flag_that_nobody_uses_is_found() -> None:
    assert len(flags()) > 100
    assert used(['["--dry-run", "-o"]', "x --plan=y"]) == {"--dry-run", "-o", "--plan"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "m.onnx")
    return tmp_path


def widths(path: str) -> dict[str, int]:
    """Output channels by weight."""
    return {t.name: t.dims[0] for t in onnx.load(path).graph.initializer if len(t.dims) > 1}


def rewritten(*options: str) -> dict[str, int]:
    assert run(["rewrite", "m.onnx", "--output", "s.onnx", "--verify", *options]) == 0
    return widths("s.onnx")


def kept(*options: str) -> list[list[int]]:
    rewritten("--scale", "0.5", "--plan", "p.json", *options)
    return [group["channels"] for group in json.loads(Path("p.json").read_text())["groups"]]


def test_importance() -> None:
    first = kept("--importance", "first")
    assert all(channels == list(range(len(channels))) for channels in first)
    chosen = [kept("--importance", how) for how in ("l2", "l1", "bn", "random")]
    assert all(choice != first for choice in chosen)
    assert kept("--importance", "random", "--seed", "1") != chosen[3] == kept("--importance", "random")
    assert run(["rewrite", "m.onnx", "-o", "s.onnx", "--scale", "0.5", "--importance", "luck"]) == 2


def test_uniform_widths_keep_their_shares() -> None:
    before = widths("m.onnx")
    shares = {
        new / before[name]
        for name, new in rewritten("--macs", "0.5", "--uniform", "--multiple-of", "1").items()
        if new != before[name]
    }
    assert max(shares) - min(shares) < 0.1


def test_noise_tells_copies_apart(capsys: pytest.CaptureFixture[str]) -> None:
    rewritten("--scale", "2")
    plain = {t.name: t.raw_data for t in onnx.load("s.onnx").graph.initializer}
    rewritten("--scale", "2", "--noise")
    assert {t.name: t.raw_data for t in onnx.load("s.onnx").graph.initializer} != plain


def test_a_provider_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["rewrite", "m.onnx", "-o", "s.onnx", "--latency", "0.5", "--threads", "1"]
    assert run([*asked, "--provider", "AbacusExecutionProvider"]) == 2
    assert "AbacusExecutionProvider" in capsys.readouterr().err
    profile = ["profile", "m.onnx", "--output", "t.json", "--threads", "1"]
    assert run([*profile, "--provider", "AbacusExecutionProvider"]) == 2


def test_free_kept_and_dag() -> None:
    assert run(["analyze", "m.onnx", "--free-kept", "--dag", "d.graphml", "--quiet"]) == 0
    assert "graphml" in Path("d.graphml").read_text()
    assert rewritten("--scale", "0.5", "--free-kept")


def test_calibrate(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["rewrite", "m.onnx", "-o", "s.onnx", "--macs", "0.6", "--json"]
    assert run([*asked, "--calibrate", "digits", "--samples", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]


class Asked(Refused):
    """Ends a command that has read its options."""


def test_settings_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def begin(model: Path, folder: object, settings: Any, command: str) -> None:
        asked.append(settings)
        raise Asked("enough")

    monkeypatch.setattr("conet_graph.search.begin.begin", begin)
    steps = [
        "--mu",
        "12",
        "--gamma",
        "0.02",
        "--phi",
        "0.3",
        "--warm",
        "--augment",
        "--cutout",
        "--image",
        "8",
    ]
    limits = ["--max-params", "30000", "--max-macs", "2.0", "--max-hours", "1.5", "--download"]
    assert run(["search", "m.onnx", "--out", "run", *QUICK, *steps, *limits]) == 1
    found = asked[0].flat()
    wanted = {"mu": 12, "gamma": 0.02, "phi": 0.3, "warm": True, "augment": True, "image": 8}
    wanted |= {"max_parameters": 30000, "max_macs": 2.0, "max_hours": 1.5}
    assert {name: found[name] for name in wanted} == wanted


def test_settings_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, Any]] = []

    def trial(source: object, settings: Any, device: str, **more: Any) -> None:
        asked.append((settings, more))
        raise Asked("enough")

    monkeypatch.setattr("conet_graph.trials.training.ClassificationTrial", trial)
    train = ["train", "m.onnx", "--output", "t.onnx", *QUICK, "--fresh", "--image", "8", "--augment"]
    sgd = ["--momentum", "0.8", "--nesterov", "--label-smoothing", "0.1", "--compile", "--download"]
    steps = ["--schedule", "step", "--step-epochs", "3", "--step-factor", "0.1", "--adas-beta", "0.9"]
    assert run([*train, *sgd, *steps, "--no-amp", "--no-channels-last", "--tensorboard", "board"]) == 1
    assert run([*train, "--amp", "--channels-last", "--no-cutout"]) == 1
    (first, more), (second, _) = asked
    assert (first.momentum, first.nesterov, first.label_smoothing, first.compile) == (0.8, True, 0.1, True)
    assert (first.step_epochs, first.step_factor, first.adas_beta) == (3, 0.1, 0.9)
    assert (first.amp, first.channels_last, second.amp, second.channels_last) == (False, False, True, True)
    assert more["tensorboard"] == Path("board")


def test_a_sweep_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    class Cluster:
        def __init__(self, address: str, run: object, cpus: float, gpus: float) -> None:
            asked.append((address, cpus, gpus))

        def search(self, jobs: list[Any], *_: object) -> None:
            asked.append(tuple(sorted(job.folder.name for job in jobs)))

    monkeypatch.setattr("conet_graph.search.sweep_ray.RayCluster", Cluster)
    options = ["--ray", "local", "--cpus", "2", "--gpus", "0.5", "--phi", "0.1,0.2", "--mu", "10"]
    assert run(["sweep", "m.onnx", "--out", "sweep", *options, "--json"]) == 0
    assert asked[0] == ("local", 2.0, 0.5)
    assert len(asked[1]) == 2


def test_sides_of_images() -> None:
    assert run(["export", "resnet8", "--output", "r.onnx", "--image", "16"]) == 0
    shape = onnx.load("r.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim][2:] == [16, 16]
    images = np.random.default_rng(0).integers(0, 255, (64, 8, 8, 1)).astype(np.uint8)
    np.savez("i.npz", images=images)
    asked = ["distill", "m.onnx", "--teacher", "m.onnx", "--images", "i.npz", "--output", "d.onnx"]
    assert run([*asked, "--image", "8", "--epochs", "1", "--batch", "16"]) == 0
    assert run([*asked, "--image", "9", "--epochs", "1", "--batch", "16"]) == 2
