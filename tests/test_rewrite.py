"""The rewrite as users call it: the Python API, the commands, their exit codes, and what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import conet_graph as cg
from conet_graph.cli import run
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.rewriting.plans import Plan

SAMPLE = Path(__file__).parents[1] / "models" / "samples" / "digits.onnx"


def shapes(path: Path) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in onnx.load(path).graph.initializer}


def test_four_lines_of_python(tmp_path: Path) -> None:
    model = cg.load(SAMPLE)
    slim = cg.rewrite(model, cg.plan(model, macs=0.5))
    cg.save(slim, tmp_path / "slim.onnx")
    old = cg.analyze(SAMPLE).model
    new = cg.analyze(tmp_path / "slim.onnx").model
    assert old.macs is not None
    assert new.macs is not None
    assert 0.49 * old.macs < new.macs <= 0.5 * old.macs


def test_the_plan_repeats_the_rewrite(tmp_path: Path) -> None:
    arguments = ["rewrite", str(SAMPLE), "-o", str(tmp_path / "a.onnx"), "--params", "0.4"]
    assert run([*arguments, "--plan", str(tmp_path / "p.json")]) == 0
    plan = Plan.loads((tmp_path / "p.json").read_text())
    again = cg.rewrite(cg.load(SAMPLE), plan)
    cg.save(again, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("init", ["keep", "fresh"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, init: str) -> None:
    for name in ("a.onnx", "b.onnx"):
        command = [sys.executable, "-m", "conet_graph", "rewrite", str(SAMPLE), "-o", str(tmp_path / name)]
        subprocess.run(
            [*command, "--scale", "0.5", "--init", init, "--seed", "7"], check=True, capture_output=True
        )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_fresh_weights_are_new_and_neutral(tmp_path: Path) -> None:
    model = cg.load(SAMPLE)
    fresh = cg.rewrite(model, cg.plan(model, scale=0.5, init="fresh", seed=3))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in fresh.proto.graph.initializer}
    norms = [n for n in fresh.proto.graph.node if n.op_type == "BatchNormalization"]
    assert norms
    for node in norms:
        assert (arrays[node.input[1]] == 1).all()
        assert (arrays[node.input[2]] == 0).all()
    conv = next(n for n in fresh.proto.graph.node if n.op_type == "Conv")
    weight = arrays[conv.input[1]]
    assert abs(weight.std() - np.sqrt(1 / 3 / weight[0].size)) < 0.3 * np.sqrt(1 / 3 / weight[0].size)


def test_widening_keeps_the_function_and_noise_breaks_the_symmetry() -> None:
    model = cg.load(SAMPLE)
    plain, noisy = (cg.plan(model, scale=1.5, noise=noise) for noise in (False, True))
    assert plain.exact
    assert cg.verify(model, cg.rewrite(model, plain), plain).equality == "passed"
    assert cg.verify(model, cg.rewrite(model, noisy), noisy).equality == "passed"
    shared = next(name for name, t in noisy.tensors.items() if t.scale)
    axis, factors = next(iter(noisy.tensors[shared].scale.items()))
    assert len(set(factors.round(6))) > len(set(plain.tensors[shared].scale[axis].round(6)))


def test_named_widths_and_kept_layers(tmp_path: Path) -> None:
    groups = {g.id: g for g in cg.analyze(SAMPLE).groups if g.free}
    first, second = list(groups)[:2]
    plan = cg.plan(cg.load(SAMPLE), widths={first: groups[first].width // 2})
    assert [(g.id, g.new_width) for g in plan.groups] == [(first, groups[first].width // 2)]
    plan = cg.plan(cg.load(SAMPLE), scale=0.5, keep=(second,))
    assert second not in [g.id for g in plan.groups]
    with pytest.raises(BadUsage, match="close are"):
        cg.plan(cg.load(SAMPLE), widths={"no such layer": 4})


def test_what_cannot_be_met_says_what_is_closest() -> None:
    with pytest.raises(Refused, match="closest is"):
        cg.plan(cg.load(SAMPLE), params=0.5, min_width=10**6)
    frozen = next(g.id for g in cg.analyze(SAMPLE).groups if "output" in (g.reason or ""))
    with pytest.raises(Refused, match="graph output"):
        cg.plan(cg.load(SAMPLE), widths={frozen: 5})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["rewrite", "missing.onnx", "-o", "x.onnx", "--scale", "0.5"], 2),
        (["rewrite", str(SAMPLE), "--scale", "0.5"], 2),
        (["rewrite", str(SAMPLE), "-o", "x.onnx"], 2),
        (["rewrite", str(SAMPLE), "-o", "x.onnx", "--scale", "0.5", "--macs", "0.5"], 2),
        (["rewrite", str(SAMPLE), "-o", "x.onnx", "--set", "g0"], 2),
        (["rewrite", str(SAMPLE), "-o", "x.onnx", "--macs", "1"], 1),
        (["rewrite", str(SAMPLE), "-o", "no/such/folder/x.onnx", "--scale", "0.5"], 2),
        (["rewrite", str(SAMPLE), "--scale", "0.5", "--dry-run"], 0),
    ],
)
def test_exit_codes(
    arguments: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    assert not list(tmp_path.iterdir())
    told = capsys.readouterr().err
    assert (told.count("\n") == 1) == (code != 0)


def test_json_is_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rewrite", str(SAMPLE), "-o", str(tmp_path / "x.onnx"), "--scale", "0.5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verification"]["ok"] is True
    assert report["verification"]["equality"] == "passed"


def test_verify_fails_on_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slim, plan = tmp_path / "slim.onnx", tmp_path / "p.json"
    assert run(["rewrite", str(SAMPLE), "-o", str(slim), "--scale", "0.5", "--plan", str(plan)]) == 0
    assert run(["verify", str(SAMPLE), str(slim), "--plan", str(plan)]) == 0
    model = onnx.load(slim)
    weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    weight.raw_data = (onnx.numpy_helper.to_array(weight) * np.float32(1.5)).tobytes()
    onnx.save(model, slim)
    capsys.readouterr()
    assert run(["verify", str(SAMPLE), str(slim), "--plan", str(plan)]) == 1
    assert "differs" in capsys.readouterr().err


def test_a_killed_rewrite_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    command = [sys.executable, "-m", "conet_graph", "rewrite", str(SAMPLE), "-o", str(target), "--no-verify"]
    whole = set()
    for scale in ("0.5", "0.75"):
        subprocess.run([*command, "--scale", scale], check=True, capture_output=True)
        whole.add(target.read_bytes())
    start = time.perf_counter()
    subprocess.run([*command, "--scale", "0.5"], check=True, capture_output=True)
    usual = time.perf_counter() - start
    rng = random.Random(0)
    for k in range(12):
        process = subprocess.Popen(
            [*command, "--scale", ("0.75", "0.5")[k % 2]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.6, 1.05) * usual)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert target.read_bytes() in whole
