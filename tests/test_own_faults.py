"""What conet-graph itself gets wrong is called its own fault: exit code 70, never the file's."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

import conet_graph as cg
from conet_graph.cli import run
from conet_graph.ir.errors import RAISING, InvalidModel, OwnFault, of_our_making
from conet_graph.ir.graph import Operator
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.channels.units import Tracker
from conet_graph.passes.rules import RULES
from conet_graph.passes.rules.faults import OUR_FAULT
from conet_graph.passes.tie_channels import CHANNELS
from tests.graphs import GraphBuilder


def network() -> onnx.ModelProto:
    g = GraphBuilder(17)
    x = g.input("x", [1, 3, 4, 4])
    g.output(g.conv(g.relu(g.conv(x, 8, 3, name="a")), 5, 3, name="y"))
    return g.build()


def broken(_: Tracker, op: Operator) -> None:
    raise IndexError(f"planted at {op.name}")


def whys(model: onnx.ModelProto) -> list[str]:
    return [why for _, why, _ in analysed(LoadedModel(model)).result(CHANNELS).units.unsupported]


def test_a_rule_that_fails_ends_in_a_traceback_under_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, ("", "Relu"), broken)
    with pytest.raises(IndexError, match="planted"):
        whys(network())


def test_a_rule_that_fails_freezes_and_says_whose_fault_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(RULES, ("", "Relu"), broken)
    monkeypatch.delenv(RAISING)
    with caplog.at_level(logging.ERROR):
        assert whys(network()) == [OUR_FAULT]
    assert "fault of conet-graph" in caplog.text
    assert "planted" in caplog.text


def test_an_invalid_network_of_our_own_is_our_fault() -> None:
    told = "not of the file: what was made: Node 'y' is wrong; please"
    with pytest.raises(OwnFault, match=told), of_our_making("what was made"):
        raise InvalidModel("Node 'y' is wrong.")


@pytest.mark.parametrize("options", [[], ["--no-verify"]])
def test_a_wrong_rewrite_ends_with_70_and_no_file(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight that lost a channel on the way: the file is not to blame."""
    import conet_graph.passes.widths.rewidth as rewidth

    real = rewidth.apply_plan

    def short(array: np.ndarray, *more: object) -> np.ndarray:
        made = real(array, *more)
        return made[:, :-1] if made.shape[:2] == (5, 4) else made

    monkeypatch.setattr(rewidth, "apply_plan", short)
    file, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(network(), file)
    assert run(["rewrite", str(file), "-o", str(out), "--scale", "0.5", *options]) == 70
    assert "fault of conet-graph" in capsys.readouterr().err
    assert not out.exists()


def test_a_wrong_value_is_our_fault_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import conet_graph.passes.widths.rewidth as rewidth

    real = rewidth.apply_plan
    monkeypatch.setattr(rewidth, "apply_plan", lambda array, *more: 2 * real(array, *more))
    file = tmp_path / "m.onnx"
    onnx.save(network(), file)
    model = cg.load(file)
    with pytest.raises(OwnFault, match="differs by"):
        cg.rewrite(model, cg.plan(model, scale=0.5))
