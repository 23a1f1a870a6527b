from __future__ import annotations

import json
from math import prod
from pathlib import Path

import networkx as nx
import onnx.parser
import pytest

import conet_graph as cg
from conet_graph.analysis.analysis import Analysis
from conet_graph.analysis.dag import write_dag
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import LoadedModel

WEIGHTS = {"w": (4, 3, 1, 1), "dw": (4, 1, 3, 3), "head": (5, 8, 1, 1)}
NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] x) => (float[1,5,8,8] y)
{
    a = Conv(x, w)
    b = Conv<group = 4, pads = [1, 1, 1, 1]>(a, dw)
    s = Add(a, b)
    c = Concat<axis = 1>(s, a)
    y = Conv(c, head)
}"""


@pytest.fixture
def found() -> Analysis:
    model = onnx.parser.parse_model(NET)
    for name, dims in WEIGHTS.items():
        model.graph.initializer.append(onnx.helper.make_tensor(name, 1, dims, [0.5] * prod(dims)))
    for node in model.graph.node:
        node.name = f'{node.op_type}::"{node.output[0]}"'  # as exporters name nodes, and worse
    return cg.analyze(LoadedModel(model))


def test_nodes_say_sizes_groups_and_how_edges_meet(found: Analysis) -> None:
    dag = found.dag()
    assert nx.is_directed_acyclic_graph(dag)
    (group,) = [g for g in found.groups if g.free]
    assert dag.nodes["s"] == {
        "shape": "1,4,8,8",
        "sizes": group.size,
        "groups": group.id,
        "meet": "summation",
        "op": "Add",
        "node": 'Add::"s"',
    }
    assert dag.nodes["c"]["meet"] == "concatenation"
    assert dag.nodes["c"]["sizes"] == f"{group.size}+{group.size}"
    assert dag.nodes["x"]["op"] == ""
    assert [d["kind"] for _, _, d in dag.in_edges("b", data=True)] == ["non-conv"] * 2
    assert {d["kind"] for _, _, d in dag.in_edges("y", data=True)} == {"conv"}


def read_back(path: Path) -> nx.MultiDiGraph:
    if path.suffix == ".graphml":
        return nx.read_graphml(path, force_multigraph=True)
    if path.suffix == ".json":
        return nx.node_link_graph(json.loads(path.read_text()), edges="edges")
    back = nx.nx_pydot.read_dot(path)
    names = {n: d["label"][1:-1] for n, d in back.nodes(data=True) if "label" in d}
    return nx.relabel_nodes(back.subgraph(names), names)


@pytest.mark.parametrize("ending", [".graphml", ".json", ".dot"])
def test_networkx_reads_back_what_is_written(found: Analysis, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    write_dag(found.graph, path)
    back, dag = read_back(path), found.dag()
    assert set(back.nodes) == set(dag.nodes)
    assert sorted(back.edges()) == sorted(dag.edges())
    assert back.nodes["c"]["sizes"].strip('"') == dag.nodes["c"]["sizes"]
    kinds = [sorted(d["kind"].strip('"') for _, _, d in g.edges(data=True)) for g in (back, dag)]
    assert kinds[0] == kinds[1]


def test_another_ending_is_refused(found: Analysis, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"\.graphml, \.json, \.dot"):
        write_dag(found.graph, tmp_path / "net.txt")
    assert not list(tmp_path.iterdir())
