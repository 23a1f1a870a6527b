"""Networks whose height and width are free are counted at named or assumed sizes, all of their layers."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from rewidth_case import graph_of

from conet_graph.cli import run
from conet_graph.costs.cost import cost
from conet_graph.costs.input_shapes import counting, named_shapes
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from tests.graphs import GraphBuilder

Shape = list[int | str]


def saved(folder: Path, shape: Shape, second: Shape | None = None) -> str:
    """Convolutions, the last of which halves the image, and a head whose size is always known."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", shape), 16))
    if second is not None:
        x = b.add(x, b.relu(b.conv(b.input("y", second), 16)))
    x = b.relu(b.conv(x, 24, stride=2))
    b.output(b.gemm(b.flatten(b.gap(x)), 10))
    onnx.save(b.build(), folder / "m.onnx")
    return str(folder / "m.onnx")


def inputs_of(path: Path) -> list[list[int | str]]:
    return [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    ]


def fixed(path: str | Path, *shape: int) -> int:
    """All MACs of a file whose inputs are given a shape."""
    model = onnx.load(path)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    found = cost(graph_of(model)).macs
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [["N", 3, "H", "W"], [1, 3, "H", 64], ["N", 3, "S", "S"]])
def test_a_share_is_one_of_all_layers(shape: Shape, tmp_path: Path) -> None:
    path, out = saved(tmp_path, shape), tmp_path / "out.onnx"
    assert run(["rewrite", path, "-o", str(out), "--macs", "0.5"]) == 0
    assert inputs_of(out) == [shape]
    for side in (64, 200, 640):
        old, new = (fixed(p, 1, 3, side, 64 if shape[3] == 64 else side) for p in (path, out))
        assert 0.4 < new / old <= 0.503


def test_a_number_of_macs_needs_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = saved(tmp_path, ["N", 3, "H", "W"]), str(tmp_path / "out.onnx")
    assert run(["rewrite", path, "-o", out, "--macs", "500000"]) == 2
    assert "depend on the size of the inputs, which is free" in capsys.readouterr().err
    assert run(["rewrite", path, "-o", out, "--macs", "500000", "--input-shape", "1,3,64,64"]) == 0
    assert 400_000 < fixed(out, 1, 3, 64, 64) <= 500_000


def test_the_output_says_at_what_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = saved(tmp_path, ["N", 3, "H", "W"]), str(tmp_path / "out.onnx")
    assert run(["rewrite", path, "-o", out, "--macs", "0.5"]) == 0
    assert "MACs counted at x=1,3,224,224 (assumed: name others by --input-shape)" in capsys.readouterr().out
    assert run(["rewrite", path, "-o", out, "--macs", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counted_at"] == {"shapes": {"x": [1, 3, 224, 224]}, "assumed": True}
    assert told["macs"] == {"old": fixed(path, 1, 3, 224, 224), "new": fixed(out, 1, 3, 224, 224)}


@pytest.mark.parametrize("text", ["x=1,3,48,192", "1,3,48,192", "x=1x3x48x192"])
def test_a_named_size_is_counted_and_run(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved(tmp_path, ["N", 3, "H", "W"]), str(tmp_path / "out.onnx")
    assert run(["analyze", path, "--json", "--input-shape", text]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["model"]["macs"] == fixed(path, 1, 3, 48, 192)
    assert all(layer["macs"] for layer in counted["layers"])
    assert run(["rewrite", path, "-o", out, "--macs", "0.5", "--json", "--input-shape", text]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["macs"] == {"old": fixed(path, 1, 3, 48, 192), "new": fixed(out, 1, 3, 48, 192)}
    assert told["macs"]["new"] <= told["macs"]["old"] / 2
    assert not told["counted_at"]["assumed"]
    assert [entry["inputs"]["x"] for entry in told["verification"]["runs"]] == [
        [1, 3, 48, 192],
        [2, 3, 48, 192],
    ]
    assert inputs_of(Path(out)) == [["N", 3, "H", "W"]]


def test_sizes_of_one_name_are_one_size(tmp_path: Path) -> None:
    graph = analysed(load_model(saved(tmp_path, ["N", 3, "H", "W"], ["N", 1, "H", "W"])))
    assert counting(graph, {"y": (1, 1, 40, 72)}).shapes == {"x": (1, 3, 40, 72), "y": (1, 1, 40, 72)}


def test_nothing_is_assumed_where_all_is_known(tmp_path: Path) -> None:
    graph = analysed(load_model(saved(tmp_path, ["N", 3, 32, 32])))
    assert counting(graph).shapes == {}
    assert counting(graph).of(graph) is graph


def test_an_image_too_small_for_a_window_is_not_assumed(tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.conv(b.input("x", [1, 3, "H", "W"]), 8)
    b.output(b.conv(b.pool("MaxPool", x, 240, 1), 4))
    onnx.save(b.build(), tmp_path / "m.onnx")
    assert counting(analysed(load_model(tmp_path / "m.onnx"))).shapes == {"x": (1, 3, 256, 256)}


def test_a_share_of_some_layers_is_no_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many positions NonZero finds is known when the network runs."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", [1, 3, 32, 32]), 16))
    value = b.unsqueeze(b.op("NonZero", b.reduce("ReduceMax", x, [1]), shape=[4, 77]), 0)
    rows = b.op("Cast", b.transpose(value, 0, 2, 1), to=TensorProto.FLOAT)
    y = b.relu(b.matmul(rows, b.weight(4, 12)))
    b.output(b.matmul(y, b.weight(12, 3)))
    b.output(b.conv(x, 4))
    onnx.save(b.build(), tmp_path / "m.onnx")
    assert run(["rewrite", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx"), "--macs", "0.5"]) == 1
    told = capsys.readouterr().err
    assert "The MACs of 2 of 4 layers cannot be counted" in told
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("x=1,3,96", "--input-shape 1,3,96 does not fit input 'x', which is N,3,H,W."),
        ("x=1,4,9,9", "--input-shape 1,4,9,9 does not fit input 'x'"),
        ("x=1,3,0,9", "has a size under 1"),
        ("z=1,3,9,9", "names no input 'z': the network has 'x'"),
        ("x=a,b", "'x=a,b' is not NAME=1,3,48,192"),
        ("", "'' is not NAME=1,3,48,192"),
    ],
)
@pytest.mark.parametrize("command", ["analyze", "rewrite"])
def test_a_shape_that_cannot_be(
    command: str, entry: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--macs", "0.5", "--dry-run"] if command == "rewrite" else []
    assert run([command, saved(tmp_path, ["N", 3, "H", "W"]), *more, "--input-shape", entry]) == 2
    assert sentence in capsys.readouterr().err


def test_an_input_is_named_once() -> None:
    with pytest.raises(BadUsage, match="each input once"):
        named_shapes(["x=1,2", "x=1,3"])
