"""The analysed network as a networkx DAG: a node a value, an edge for every way through an operator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph, Shape
from conet_graph.ir.save import atomic_write
from conet_graph.passes.assign_channels import SIZES
from conet_graph.passes.tie_channels import CHANNELS

if TYPE_CHECKING:
    import networkx as nx


def dag_of(graph: Graph) -> nx.MultiDiGraph[str]:
    """The DAG of a solved network, with what the passes found out as plain text and numbers.

    Returns:
        A node for every value, named after it: ``shape`` ('N,64,56,56'), ``sizes`` ('s1' or 's1+s2', the
        paper's channel sizes), ``groups`` ('g1 g4'), ``meet`` (single, summation or concatenation: how its
        inbound edges meet), ``op`` and ``node`` (what writes it; '' for inputs and constants). An edge for
        every input and output of an operator: ``kind`` (conv, non-conv or weight), ``op``, ``node``,
        ``slot``.

    """
    import networkx as nx

    plain: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=graph.skeleton.graph.name)
    sizes, groups = graph.result(SIZES), _groups(graph)
    for name, data in graph.dag.nodes(data=True):
        writer = data.get("producer")
        plain.add_node(
            name,
            shape=_spelled(data["shape"]),
            sizes="+".join(sizes.get(name, ())),
            groups=" ".join(groups.get(name, ())),
            meet=data.get("meet", "single"),
            op="" if writer is None else writer.op_type,
            node="" if writer is None else writer.name,
        )
    for source, target, data in graph.dag.edges(data=True):
        op = data["op"]
        plain.add_edge(source, target, kind=data["kind"], op=op.op_type, node=op.name, slot=data["slot"])
    return plain


def _spelled(shape: Shape | None) -> str:
    return "" if shape is None else ",".join("?" if d is None else str(d) for d in shape)


def _groups(graph: Graph) -> dict[str, list[str]]:
    """The ids of the groups on each value's axes."""
    channels = graph.result(CHANNELS)
    found: dict[str, list[str]] = {}
    for name, axes in channels.units.values.items():
        ids: dict[str, None] = {}
        for axis in axes:
            if not isinstance(axis, int):
                on_axis = channels.groups_on(channels.units.classes[axis])
                ids.update(dict.fromkeys(group.id for group in on_axis))
        found[name] = list(ids)
    return found


def write_dag(graph: Graph, path: Path) -> None:
    """Write the DAG in the format that the file's ending names: .graphml, .json (node-link) or .dot.

    networkx reads each of them back (``read_graphml``, ``node_link_graph``, ``nx_pydot.read_dot``).

    Raises:
        BadUsage: another ending.

    """
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise BadUsage(
            f"{shown(str(path))} ends in none of {', '.join(_FORMS)}: its ending names the format."
        )
    atomic_write(path, [form(dag_of(graph)).encode()])


def _graphml(dag: nx.MultiDiGraph[str]) -> str:
    import networkx as nx

    return "\n".join(nx.generate_graphml(dag)) + "\n"


def _node_link(dag: nx.MultiDiGraph[str]) -> str:
    import networkx as nx

    return json.dumps(nx.node_link_data(dag, edges="edges"), indent=1) + "\n"


def _dot(dag: nx.MultiDiGraph[str]) -> str:
    """DOT takes few characters in names: nodes are numbered, and labelled with the values' names."""
    import networkx as nx

    numbers = {name: f"n{k}" for k, name in enumerate(dag)}
    quoted: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for name, data in dag.nodes(data=True):
        quoted.add_node(numbers[name], label=_in_quotes(name), **{k: _in_quotes(v) for k, v in data.items()})
    for source, target, data in dag.edges(data=True):
        marks = {k: _in_quotes(v) for k, v in data.items()}
        quoted.add_edge(numbers[source], numbers[target], **marks)
    return str(nx.nx_pydot.to_pydot(quoted).to_string())


def _in_quotes(text: object) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_FORMS: dict[str, Callable[[nx.MultiDiGraph[str]], str]] = {
    ".graphml": _graphml,
    ".json": _node_link,
    ".dot": _dot,
}
