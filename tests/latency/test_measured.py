"""Tables and times measured in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rewidth_case import graph_of

from conet_graph.cli import run
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.graph import Graph
from conet_graph.latency.events import marked, operator_times
from conet_graph.latency.meeting import Goal, meet, require_slower
from conet_graph.latency.prediction import Prediction
from conet_graph.latency.profile import networks_for, profiled
from conet_graph.latency.sessions import Conditions, conditions_of
from conet_graph.latency.table import Table
from conet_graph.rewriting.alignment import Alignment
from conet_graph.rewriting.targets import WidthRequest
from tests.graphs import GraphBuilder

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


def network() -> Graph:
    """Convolutions with activations, one of them depthwise, and a sum: about a millisecond a run."""
    b = GraphBuilder()
    first = b.relu(b.conv(b.input("x", [1, 3, 32, 32]), 64, 3, name="a"))
    x = b.relu(b.conv(first, 96, 3, name="b"))
    x = b.relu(b.conv(x, 96, 3, group=96, name="d"))
    x = b.add(b.conv(x, 64, 3, name="c"), first)
    b.output(b.conv(x, 10, name="last"))
    return graph_of(b.build())


def test_a_network_is_as_fast_as_asked() -> None:
    graph = network()
    table = profiled(graph, Conditions(), Alignment(), networks=8)
    assert table.measured == table.asked == 8
    names = {name for row in table.rows.values() for name in row.names}
    assert {"a", "b", "c", "d", "last"} <= names
    times = [p[2] for row in table.rows.values() for p in row.points if "b" in row.names]
    assert min(times) > 0
    assert max(times) > 2 * min(times)
    found = meet(graph, WidthRequest(), Goal.parse("50%"), table, Conditions())
    assert not found.missed
    assert 0.3 < found.share < 0.55
    assert found.networks <= 5
    with pytest.raises(Refused, match="already: nothing changes"):
        meet(graph, WidthRequest(), Goal.parse("10000"), table, Conditions())
    with pytest.raises(Refused, match="cannot be reached"):
        meet(graph, WidthRequest(min_width=64), Goal.parse("0.1"), table, Conditions())


def test_every_group_takes_every_share_once() -> None:
    b = GraphBuilder()
    b.output(b.conv(b.conv(b.conv(b.input("x", [1, 3, 8, 8]), 160), 320), 10))
    found = np.array(list(networks_for(graph_of(b.build()), Alignment(), 14)))
    assert found[:4, :2].tolist() == [[160, 320], [120, 240], [80, 160], [40, 80]]
    assert sorted(found[4:, 0].tolist()) == [8, 24, 40, 56, 72, 88, 104, 120, 136, 152]
    assert sorted(found[4:, 1].tolist()) == [16, 48, 80, 112, 144, 176, 208, 240, 272, 304]
    assert found[4:, 0].tolist() != (found[4:, 1] // 2).tolist()  # in an order of its own
    assert set(found[:, 2].tolist()) == {found[0, 2]}  # what is frozen stays


def test_a_goal_that_is_met_is_refused_at_once() -> None:
    with pytest.raises(Refused, match="already"):
        require_slower(network(), Goal.parse("500ms"), Conditions())
    require_slower(network(), Goal.parse("0.99"), Conditions())


@pytest.mark.parametrize("text", ["", "fast", "-1", "0", "nan", "120%", "inf", "12s"])
def test_goals_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadUsage, match="no time"):
        Goal.parse(text)


def test_a_provider_that_is_not_there() -> None:
    with pytest.raises(BadUsage, match="no provider 'Abacus'"):
        conditions_of("Abacus", 1)
    assert Conditions(threads=2).clock == "wall"


def test_time_belongs_to_the_operator_that_a_node_came_from(tmp_path: Path) -> None:
    graph = network()
    ops = {op.name: op.index for op in graph.operators}
    relus = [op.index for op in graph.operators if op.op_type == "Relu"]
    adds = [op.index for op in graph.operators if op.op_type == "Add"]
    value = graph.operators[relus[1]].outputs[0]
    nodes = [
        onnx.helper.make_node("Conv", ["x"], ["t"], name=f"fused @{ops['a']}@"),
        # A convolution named after what its activation writes, and a change of layout behind it.
        onnx.helper.make_node("Conv", ["t"], ["u"], name=f"{value}_nchwc"),
        onnx.helper.make_node("ReorderOutput", ["u"], ["v"], name="ReorderOutput"),
        # Folded with the sum, whose other side is a layer that has had its node.
        onnx.helper.make_node("Conv", ["v"], ["w"], name=f"@{adds[0]}@"),
        onnx.helper.make_node("Unheard", ["zz"], ["yy"], name="other"),
    ]
    optimized = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    told = {f"fused @{ops['a']}@": 1000, f"{value}_nchwc": 2000, "ReorderOutput": 10, f"@{adds[0]}@": 4000}
    events = [
        {"name": f"{name}_kernel_time", "dur": dur * slow}
        for name, dur in told.items()
        for slow in (1, 1, 1, 50)
    ]
    (tmp_path / "profile.json").write_text(json.dumps([{"name": "model_run", "dur": 9}, *events]))
    found = operator_times(tmp_path / "profile.json", optimized, graph)
    assert found == {ops["a"]: 1.0, ops["b"]: pytest.approx(2.01), ops["c"]: 4.0}


def test_nodes_are_marked_by_their_places() -> None:
    model = marked(onnx.load(SAMPLE))
    assert [node.name for node in model.graph.node][:2] == ["@0@", "@1@"]


def cut(path: Path, networks: int) -> dict[str, int]:
    """Leave a whole table as it was after so many networks; how many operators of each shape it times."""
    table = Table.read(path)
    operators = {row.shape: len(row.points) // table.measured for row in table.rows.values()}
    for row in table.rows.values():
        del row.points[networks * operators[row.shape] :]
    table.measured = networks
    table.write(path)
    return operators


def test_profile_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.json"
    assert run(["profile", str(SAMPLE), "-o", str(path), "--networks", "6"]) == 0
    assert "wrote" in capsys.readouterr().out
    whole = Table.read(path)
    operators = cut(path, 4)
    assert run(["profile", str(SAMPLE), "-o", str(path), "--networks", "6"]) == 0
    again = Table.read(path)
    assert again.measured == 6
    for shape, row in again.rows.items():
        assert [p[:2] for p in row.points] == [p[:2] for p in whole.rows[shape].points]
        kept = 4 * operators[shape]
        assert row.points[:kept] == whole.rows[shape].points[:kept]
    assert run(["profile", str(SAMPLE), "-o", str(path), "--networks", "7"]) == 2
    assert "from other conditions" in capsys.readouterr().err

    out = ["-o", str(tmp_path / "slim.onnx")]
    assert run(["rewrite", str(SAMPLE), *out, "--latency", "0.7", "--table", str(path), "--json"]) == 0
    time = json.loads(capsys.readouterr().out)["time"]
    assert time["share"] < 0.735
    assert {"goal_ms", "predicted_ms", "measured_ms", "original_ms", "provider", "threads"} <= set(time)
    assert run(["rewrite", str(SAMPLE), *out, "--latency", "0.7", "--macs", "0.5"]) == 2
    assert "not several" in capsys.readouterr().err

    images = tmp_path / "images.npz"
    np.savez(images, input=np.random.default_rng(0).standard_normal((96, 1, 8, 8), np.float32))
    shared = ["--latency", "0.7", "--table", str(path), "--calibrate", str(images), "--json"]
    assert run(["rewrite", str(SAMPLE), *out, *shared]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["time"]["share"] < 0.735
    assert found["calibration"]["errors"]["refitted"] < found["calibration"]["errors"]["plain"] / 4
    assert found["verification"]["ok"]


def test_a_table_that_is_not_there_is_measured_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "table.json", tmp_path / "slim.onnx"
    command = ["rewrite", str(SAMPLE), "-o", str(out), "--latency", "0.7", "--table", str(path), "--json"]
    assert run(command) == 0
    written = path.read_bytes()
    assert Table.read(path).measured == 28
    assert run(command) == 0
    assert path.read_bytes() == written
    cut(path, 27)
    assert run(command) == 0
    assert Table.read(path).measured == 28
    capsys.readouterr()
    assert run(["rewrite", str(SAMPLE), "-o", str(path), "--latency", "0.7", "--table", str(path)]) == 2
    assert "latency table" in capsys.readouterr().err


def test_speed_is_checked_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "made.onnx"), "--check-speed"]
    assert run(["rewrite", str(SAMPLE), *out, "--macs", "0.5"]) == 0
    said = capsys.readouterr()
    assert "time " in said.out
    assert "slower" not in said.err
    assert run(["rewrite", str(SAMPLE), *out, "--scale", "4"]) == 0
    assert "Warning: the network is slower than the original" in capsys.readouterr().err


def test_the_whole_is_predicted_from_its_layers() -> None:
    graph = network()
    table = profiled(graph, Conditions(), Alignment(), networks=6)
    prediction = Prediction.of(graph, table)
    assert prediction.milliseconds(prediction.widths.now) == pytest.approx(table.original_ms, rel=0.25)
    assert np.all(prediction.surfaces >= 0)
