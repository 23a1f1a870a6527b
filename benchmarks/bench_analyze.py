"""Time and memory of ``conet-graph analyze`` as a whole process.

The first table compares it, on a network of 100 MB, with a Python that imports the same libraries
and loads the file; the second shows how time grows with the number of nodes.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROUNDS = 5
# What conet-graph imports; typer imports pydantic when a command is built, in versions that need it.
IMPORTS = """
import contextlib, numpy, onnx, rich.console, rich.table, typer
with contextlib.suppress(ImportError):
    from pydantic import TypeAdapter
"""
BASELINE = (
    IMPORTS
    + """
import sys
onnx.load(sys.argv[1])
"""
)
ANALYZE = "import sys; from conet_graph.cli import main; main()"


def conv_network(path: Path, megabytes: int) -> None:
    """A chain of 3x3 convolutions with ReLUs, as many as the size needs."""
    width, random = 256, np.random.default_rng(0)
    count = megabytes * 10**6 // (4 * 9 * width * width)
    nodes, weights, last, channels = [], [], "x", 3
    for k in range(count):
        array = random.standard_normal((width, channels, 3, 3), np.float32)
        weights.append(numpy_helper.from_array(array, f"w{k}"))
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"]))
        last, channels = f"r{k}", width
    save(path, nodes, weights, last)


def chain(path: Path, length: int) -> None:
    """A chain of convolutions, ReLUs and sums of four channels each."""
    random = np.random.default_rng(0)
    nodes, weights, last, before = [], [], "x", ""
    for k in range(length):
        out = f"v{k}"
        if k % 3 == 0:
            array = random.standard_normal((4, 4 if k else 3, 1, 1), np.float32)
            weights.append(numpy_helper.from_array(array, f"w{k}"))
            nodes.append(helper.make_node("Conv", [last, f"w{k}"], [out], name=f"conv{k}"))
        elif k % 3 == 1 or not before:
            nodes.append(helper.make_node("Relu", [last], [out], name=f"relu{k}"))
        else:
            nodes.append(helper.make_node("Add", [last, before], [out], name=f"add{k}"))
        before = out if k % 30 == 0 else before
        last = out
    save(path, nodes, weights, last)


def save(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], last: str) -> None:
    """Write a network with one input 'x' and the output ``last``."""
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def measured(code: str, *arguments: str, rounds: int = ROUNDS) -> tuple[float, float]:
    """Best seconds, and peak megabytes, of a fresh Python."""
    best, peak = float("inf"), 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        best = min(best, time.perf_counter() - start)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"a run of {arguments} failed with exit code {child.returncode}")
        peak = max(peak, usage.ru_maxrss / 1024)  # kilobytes on Linux
    return best, peak


def write(make: Callable[[Path, int], None], path: Path, amount: int) -> None:
    """Make a file in a process of its own: a child's peak counts the memory of who starts it."""
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(path, amount))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit(f"{path} could not be made")


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(conv_network, path, 100)
        size = path.stat().st_size / 2**20
        base, base_peak = measured(BASELINE, str(path))
        ours, our_peak = measured(ANALYZE, "analyze", str(path))
        print(f"{'a network of ' + format(size, '.0f') + ' MB':24} {'seconds':>8} {'peak MB':>8}")
        print(f"{'import and load':24} {base:8.2f} {base_peak:8.0f}")
        print(f"{'conet-graph analyze':24} {ours:8.2f} {our_peak:8.0f}")
        print(f"{'ratio (goal: under 2)':24} {ours / base:8.2f}")
        print(f"{'goal: 2.5 x file + 200':24} {'':8} {2.5 * size + 200:8.0f}")
        print(f"\n{'nodes in a chain':>24} {'seconds':>8} {'us/node':>8} {'peak MB':>8}")
        for length in (100, 1_000, 5_000, 20_000, 50_000):
            write(chain, path, length)
            seconds, peak = measured(ANALYZE, "analyze", str(path), rounds=2)
            print(f"{length:24} {seconds:8.2f} {1e6 * seconds / length:8.0f} {peak:8.0f}")


if __name__ == "__main__":
    main()
