"""``conet-graph analyze`` and the rules that all commands keep."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from conet_graph.cli import app_for, run
from conet_graph.cli.common import quantity
from conet_graph.cli.hooks import verify
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Two convolutions with a ReLU between them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "v"], ["y"], name="second"),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float32), "v"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def invoked(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app_for([]), [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_table_fits_and_says_what_is_what(network: Path) -> None:
    code, out, err = invoked("analyze", network)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines()]
    assert ["first", "conv", "1x1", "3", "->", "4", "g2", "g0", "12", "768"] in rows
    assert ["g0", "s0", "4", "1", "first", "second"] in rows
    assert "graph output 'y'" in out
    assert "20 parameters, 1.28 k MACs, 3 nodes, opset 17" in out


def test_json_is_all_there_is_on_stdout(network: Path) -> None:
    code, out, err = invoked("analyze", network, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["format"] == "conet-graph.analysis/1"
    assert data["model"]["macs"] == 64 * 20
    assert invoked("analyze", network, "--json")[1] == out


def test_text_and_print_after(network: Path) -> None:
    code, out, _ = invoked("analyze", network, "--text")
    assert code == 0
    assert out.startswith("conet-graph.ir/1\n")
    code, out, err = invoked("analyze", network, "--json", "--print-after", "canonicalize")
    assert code == 0
    assert json.loads(out)
    assert err.startswith("# after canonicalize\nconet-graph.ir/1\n")


def test_an_unknown_pass_is_refused_with_the_names(network: Path) -> None:
    code, _, err = invoked("analyze", network, "--print-after", "nothing")
    assert code == 2
    assert "tie_channels" in err


def test_verify_each_accepts_what_the_passes_leave(network: Path) -> None:
    assert invoked("analyze", network, "--verify-each")[0] == 0


def test_verify_each_names_the_pass_the_node_and_the_value(network: Path) -> None:
    graph = analysed(load_model(network))
    verify(graph, "unshare")
    graph.operators[1].proto.input[0] = "nowhere"
    with pytest.raises(InvalidModel, match="After pass unshare, Relu node 'relu' reads 'nowhere'"):
        verify(graph, "unshare")
    graph.operators[1].proto.input[0] = "a"
    graph.operators[1].proto.output[0] = "w"
    with pytest.raises(InvalidModel, match="writes 'w', which exists already"):
        verify(graph, "unshare")
    graph.operators[1].proto.output[0] = "elsewhere"
    with pytest.raises(InvalidModel, match="'relu' was changed past its operator"):
        verify(graph, "unshare")


def test_explain(network: Path) -> None:
    code, out, _ = invoked("analyze", network, "--explain", "second")
    assert code == 0
    assert out.splitlines()[-1] == "  -> graph output 'y'"
    code, out, err = invoked("analyze", network, "--explain", "secnd")
    assert (code, out) == (2, "")
    assert "did you mean 'second'" in err


def test_debug_shows_how_long_each_pass_took(network: Path) -> None:
    code, _, err = invoked("analyze", network, "--debug")
    assert code == 0
    assert "tie_channels: " in err


def missing(path: Path) -> None:
    """Leaves no file."""


def text(path: Path) -> None:
    path.write_text("this is not a network\n" * 20)


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def without_graph(path: Path) -> None:
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString())


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [missing, text, truncated, without_graph, folder])
def test_bad_input_gets_one_sentence_and_exit_code_2(
    make: Callable[[Path], None], network: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    if make is truncated:
        path.write_bytes(network.read_bytes())
    make(path)
    code, out, err = invoked("analyze", path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "bad.onnx" in err
    assert "Traceback" in invoked("analyze", path, "--debug")[2]


@pytest.mark.parametrize(
    "arguments",
    [["analyse", "x"], ["analyze"], ["analyze", "x", "--nothing"], ["analyze", "x", "--explain"]],
)
def test_wrong_usage_gets_one_sentence_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1


def test_exclusive_options(network: Path) -> None:
    assert invoked("analyze", network, "--json", "--text")[0] == 2


def test_a_bug_of_ours_gets_exit_code_70(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("conet_graph.passes.analysed", fails)
    code, out, err = invoked("analyze", network)
    assert (code, out) == (70, "")
    assert "report" in err
    assert "Traceback" not in err
    assert "Traceback" in invoked("analyze", network, "--debug")[2]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from conet_graph.cli import run; run(['--help']);"
        "print([m for m in ('torch', 'onnx', 'scipy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "analyze" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_analyze_imports_no_torch(network: Path) -> None:
    code = (
        "import sys; from conet_graph.cli import run; run(['analyze', sys.argv[1]]);"
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(network)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, "?"), (7, "7"), (999, "999"), (1_500, "1.50 k"), (12_345_678, "12.3 M")],
)
def test_quantities(number: int | None, shown: str) -> None:
    assert quantity(number) == shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"conet-graph {metadata.version('conet-graph')}\n"


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    told = capsys.readouterr()
    assert "analyze" in told.out
    assert "\n" in told.out.strip()
    assert not told.err
