"""The drawing of a network: its parts, links, colours and tooltips."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from onnx import TensorProto, helper

from conet_graph.analysis.analysis import Analysis, analysis_of
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.report import graph_drawing
from conet_graph.report.graph_drawing import draw_graph, layer_label
from conet_graph.report.network import DrawnNetwork, network_of
from conet_graph.report.palette import Palette

SVG = "{http://www.w3.org/2000/svg}"


def graph_of(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]]
) -> tuple[Graph, Analysis]:
    inits = [helper.make_tensor(n, TensorProto.FLOAT, s, [0.5] * _size(s)) for n, s in weights.items()]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        inits,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=9), path)
    graph = analysed(load_model(path))
    return graph, analysis_of(graph)


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


@pytest.fixture
def cell(tmp_path: Path) -> tuple[Graph, Analysis]:
    """A stem, a gated residual block, a concatenation of two sizes, a classifier."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem"),
        node("Sigmoid", ["a"], ["s"]),
        node("Mul", ["a", "s"], ["silu"]),
        node("Conv", ["silu", "w1"], ["b"], name="/block/block.0/conv1/Conv", pads=[1, 1, 1, 1]),
        node("Add", ["b", "silu"], ["r"], name="sum"),
        node("Conv", ["r", "w2"], ["c"], name="side"),
        node("Concat", ["r", "c"], ["k"], name="cat", axis=1),
        node("GlobalAveragePool", ["k"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w3"], ["y"], name="fc"),
    ]
    weights = {"w0": (4, 3, 1, 1), "w1": (4, 4, 3, 3), "w2": (6, 4, 1, 1), "w3": (10, 2)}
    return graph_of(tmp_path / "m.onnx", nodes, weights)


def names(network: DrawnNetwork) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(p.kind, p.name, p.sizes) for p in network.parts]


def test_parts_are_layers_and_joins_only(cell: tuple[Graph, Analysis]) -> None:
    network = network_of(*cell)
    assert [(kind, name) for kind, name, _ in names(network)] == [
        ("input", "x"),
        ("layer", "stem"),
        ("layer", "/block/block.0/conv1/Conv"),
        ("join", "sum"),
        ("layer", "side"),
        ("join", "cat"),
        ("layer", "fc"),
        ("output", "y"),
    ]
    assert [(link.source, link.target, link.through) for link in network.links] == [
        (0, 1, ()),
        (1, 2, ("Sigmoid", "Mul")),
        (2, 3, ()),
        (1, 3, ("Sigmoid", "Mul")),
        (3, 4, ()),
        (3, 5, ()),
        (4, 5, ()),
        (5, 6, ("GlobalAveragePool", "Flatten")),
        (6, 7, ()),
    ]


def test_a_summation_has_one_size_and_a_concatenation_several(cell: tuple[Graph, Analysis]) -> None:
    sizes = {name: found for _, name, found in names(network_of(*cell))}
    assert sizes["stem"] == sizes["/block/block.0/conv1/Conv"] == sizes["sum"]
    assert sizes["cat"] == sizes["sum"] + sizes["side"]


def test_colours_follow_sizes(cell: tuple[Graph, Analysis]) -> None:
    graph, analysis = cell
    palette = Palette.of_analysis(analysis)
    text = draw_graph(graph, analysis, palette, "net")
    assert text is not None
    root = ElementTree.fromstring(text)
    strokes = Counter(
        (part.get("data-size"), rect.get("stroke"))
        for part in root.iter(f"{SVG}g")
        for rect in part.iter(f"{SVG}rect")
        if rect.get("class") == "box"
    )
    # One size of stem, conv1 and sum, one of side; what is frozen or of several sizes is grey.
    assert strokes[("0", palette.color(0))] == 3
    assert strokes[("1", palette.color(1))] == 1
    assert strokes[(None, palette.color(None))] == 4
    links = [path.get("data-size") for path in root.iter(f"{SVG}path")]
    assert Counter(links) == {"0": 3, "1": 1, None: 3}


def test_tooltips_say_channels_kernel_and_group(cell: tuple[Graph, Analysis]) -> None:
    graph, analysis = cell
    text = draw_graph(graph, analysis, Palette.of_analysis(analysis), "net")
    assert text is not None
    titles = [t.text or "" for t in ElementTree.fromstring(text).iter(f"{SVG}title")]
    conv = next(t for t in titles if t.startswith("/block"))
    assert "4 channels in, 4 out" in conv
    assert "144 parameters" in conv
    assert "out: group g0 of size s0" in conv
    fc = next(t for t in titles if t.startswith("fc\n"))
    assert "frozen (graph output 'y')" in fc


def test_numbers_about_shapes_are_no_links(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="one"),
        node("Conv", ["a", "w1"], ["b"], name="two"),
        node("Shape", ["a"], ["n"]),
        node("Resize", ["b", "", "", "n"], ["y"], name="up"),
    ]
    network = network_of(*graph_of(tmp_path / "m.onnx", nodes, {"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1)}))
    assert [p.name for p in network.parts] == ["x", "one", "two", "y"]


def test_large_networks_are_drawn_small_and_huge_ones_are_not(
    cell: tuple[Graph, Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, analysis = cell
    palette = Palette.of_analysis(analysis)
    monkeypatch.setattr(graph_drawing, "MOST_NAMED", 3)
    small = draw_graph(graph, analysis, palette, "net")
    assert small is not None
    texts = [t.text for t in ElementTree.fromstring(small).iter(f"{SVG}text")]
    assert "4 → 6" in texts
    assert "side" not in texts
    monkeypatch.setattr(graph_drawing, "MOST_PARTS", 3)
    assert draw_graph(graph, analysis, palette, "net") is None


def test_labels_drop_what_they_repeat(cell: tuple[Graph, Analysis]) -> None:
    labels = [layer_label(layer) for layer in cell[1].layers]
    assert labels == ["stem", "block.0/conv1", "side", "fc"]
