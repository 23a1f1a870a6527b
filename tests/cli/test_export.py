"""``conet-graph export``."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from conet_graph.analysis.analysis import analyze
from conet_graph.cli import app_for


def test_a_zoo_network_is_written_at_the_width_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "small.onnx"
    arguments = ["export", "resnet8", "-o", str(path), "--width", "8", "--classes", "7"]
    result = CliRunner().invoke(app_for([]), arguments)
    assert (result.exit_code, result.stdout) == (0, "")
    layers = analyze(path).layers
    assert layers[0].out_channels == 8
    assert layers[-1].out_channels == 7


@pytest.mark.parametrize(
    ("name", "folder", "told"), [("nonet", ".", "nonet"), ("resnet8", "missing", "missing")]
)
def test_what_cannot_be_written_is_said_and_leaves_no_file(
    name: str, folder: str, told: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / folder / "out.onnx"
    result = CliRunner().invoke(app_for([]), ["export", name, "-o", str(path)])
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert not path.exists()
