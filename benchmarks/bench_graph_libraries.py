"""Our own walks over a network beside those of scipy and networkx, imports included.

Each number is of a process of its own that makes the question, imports what it needs and answers it; only the
last two are timed. The first table joins units by equations (layers of 64 channels, every third tied to no
other), the second finds the operators of a chain that lead to its output.
"""

from __future__ import annotations

import subprocess
import sys

UNITS = (2_000, 20_000, 200_000, 2_000_000)
NODES = (100, 1_000, 10_000, 50_000)
ROUNDS = 5

# What is there in any case: every command reads a file and imports the passes.
SETUP = """
import sys, time
import numpy as np, onnx, conet_graph.passes
from onnx import helper
n = int(sys.argv[1])
"""
EQUATIONS = """
layers = n // 64
left = np.arange(64 * (layers - 1))
left, right = left[left // 64 % 3 != 2], left[left // 64 % 3 != 2] + 64
"""
CHAIN = """
nodes = [helper.make_node("Relu", [f"v{k}"], [f"v{k + 1}"], name=f"n{k}") for k in range(n)]
nodes += [helper.make_node("Relu", [f"v{k}"], [f"dead{k}"], name=f"d{k}") for k in range(0, n, 10)]
"""
ANSWERS = {
    "components": {
        "ours": """
from conet_graph.passes.channels.components import components
count, of = components(left, right, n)
""",
        "scipy": """
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
ones = np.ones(len(left), np.bool_)
count, of = connected_components(coo_array((ones, (left, right)), shape=(n, n)), directed=False)
""",
    },
    "live operators": {
        "ours": """
from conet_graph.ir.dead_code import live_nodes
count = len(live_nodes(nodes, {f"v{n}"}))
""",
        "networkx": """
import networkx as nx
dag = nx.DiGraph()
for node in nodes:
    dag.add_edges_from((value, node.name) for value in node.input)
    dag.add_edges_from((node.name, value) for value in node.output)
live = nx.ancestors(dag, f"v{n}")
count = len([node for node in nodes if node.name in live])
""",
    },
}
TIMED = "\nstart = time.process_time()\n{answer}\nprint(1e3 * (time.process_time() - start), int(count))\n"


def measured(question: str, answer: str, size: int) -> tuple[float, int]:
    """Milliseconds of processor time, the best of some processes; and the answer."""
    code = SETUP + question + TIMED.format(answer=answer)
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", code, str(size)], check=True, capture_output=True, text=True
        )
        milliseconds, count = done.stdout.split()
        found.append((float(milliseconds), int(count)))
    return min(found)


def main() -> None:
    """Print both tables."""
    for title, question, sizes in (
        ("components", EQUATIONS, UNITS),
        ("live operators", CHAIN, NODES),
    ):
        ways = ANSWERS[title]
        print(f"{title:>16}" + "".join(f"{way + ' ms':>14}" for way in ways))
        for size in sizes:
            answers = [measured(question, answer, size) for answer in ways.values()]
            if len({count for _, count in answers}) > 1:
                raise SystemExit(f"{title}: the answers differ for {size}")
            print(f"{size:16}" + "".join(f"{milliseconds:14.1f}" for milliseconds, _ in answers))


if __name__ == "__main__":
    main()
