"""``--free-kept`` of analyze and rewrite: what is kept by default is freed."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from golden_text import parsed
from typer.testing import CliRunner

from conet_graph.cli import app_for


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A convolution whose channels a Softmax selects among."""
    model = parsed(
        "agraph (float[1,3,4,4] x) => (float[] y)<float[8,3,1,1] w, float[5,8,1,1] wy>"
        "{a = Conv(x, w) s = Softmax<axis=1>(a) y = Conv(s, wy)}"
    )
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def output(*arguments: str | Path) -> tuple[int, str]:
    names = [str(a) for a in arguments]
    result = CliRunner().invoke(app_for(names), names)
    return result.exit_code, result.stdout


def test_analyze(network: Path) -> None:
    for options, free in (((), []), (("--free-kept",), [8])):
        code, out = output("analyze", network, "--json", *options)
        assert code == 0
        assert [g["width"] for g in json.loads(out)["groups"] if g["free"]] == free


def test_rewrite_and_verify(network: Path, tmp_path: Path) -> None:
    new, plan = tmp_path / "new.onnx", tmp_path / "plan.json"
    arguments = ("rewrite", network, "-o", new, "--plan", plan, "--set", "a=4")
    assert output(*arguments)[0] == 1
    assert not new.exists()
    assert output(*arguments, "--free-kept")[0] == 0
    assert json.loads(plan.read_text())["free_kept"] is True
    assert output("verify", network, new, "--plan", plan)[0] == 0
