"""How ``analyze`` and ``rewrite`` grow with nodes, bytes and images, as whole processes beside their floors.

The floor of ``analyze`` is a Python that reads the file and infers shapes without the weights; that of
``rewrite`` (to half of every width, verification off) one that reads the file with its weights and writes as
many bytes as the rewritten network has. Floors import onnx alone (bare), or what conet-graph imports too.
Processes take turns; times are processor seconds (user and system, which a busy machine changes little): the
median over rounds, the least and the greatest. Ratios are medians over rounds, in brackets those of wall
time. Weights lie beside the file. Chains under ``analyze`` alone are in bench_analyze.py too.

    python benchmarks/bench_scale.py --largest 500 --folder /tmp
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from bench_analyze import IMPORTS, chain
from bench_analyze import write as made_elsewhere
from onnx import TensorProto, helper

READ_AND_INFER = """
import sys, onnx
model = onnx.load(sys.argv[1], load_external_data=False)
weights = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
model.graph.input.extend(weights)
del model.graph.initializer[:]
onnx.shape_inference.infer_shapes(model)
"""
READ_AND_WRITE = """
import sys, onnx
model = onnx.load(sys.argv[1])
with open(sys.argv[2], "wb") as file:
    for _ in range(int(sys.argv[3]) // 2**20 + 1):
        file.write(bytes(2**20))
"""
CLI = "import sys; from conet_graph.cli import main; main()"
NODES = (100, 1_000, 5_000, 20_000, 50_000)
MEGABYTES = (1, 10, 100, 500, 2_500)
SIDES = (32, 128, 512, 1024)


@dataclass(frozen=True)
class Run:
    """What a process took."""

    seconds: float
    wall: float
    peak: float


@cache
def as_installed() -> dict[str, str]:
    """An environment in which modules are compiled once, as installing a package compiles them.

    Where Python may write no bytecode, a checkout (unlike the libraries) would be compiled in each run.
    """
    folder = tempfile.mkdtemp(prefix="bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def run(code: str, *arguments: object) -> Run:
    """Processor seconds, wall seconds and peak megabytes of a fresh Python."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=as_installed())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a run of {arguments} failed with exit code {child.returncode}")
    seconds = usage.ru_utime + usage.ru_stime
    return Run(seconds, time.perf_counter() - start, usage.ru_maxrss / 1024)  # kilobytes on Linux


def residual(path: Path, nodes: int, width: int = 4, side: int = 32, megabytes: float = 0) -> None:
    """Blocks of two convolutions, with ReLUs and a sum; weights of any size beside the file.

    With ``megabytes`` the width is what makes the weights that large.
    """
    blocks = max(1, nodes // 5)
    if megabytes:
        width = max(4, round((megabytes * 1e6 / 4 / 9 / (2 * blocks)) ** 0.5))
    graph_nodes, weights, last = [], [("stem", (width, 3, 3, 3))], "s"
    graph_nodes.append(helper.make_node("Conv", ["x", "stem"], ["s"], pads=[1, 1, 1, 1]))
    for k in range(blocks):
        weights += [(f"w{k}a", (width, width, 3, 3)), (f"w{k}b", (width, width, 3, 3))]
        conv = {"pads": [1, 1, 1, 1]}
        graph_nodes += [
            helper.make_node("Conv", [last, f"w{k}a"], [f"a{k}"], **conv),
            helper.make_node("Relu", [f"a{k}"], [f"b{k}"]),
            helper.make_node("Conv", [f"b{k}", f"w{k}b"], [f"c{k}"], **conv),
            helper.make_node("Add", [f"c{k}", last], [f"d{k}"]),
            helper.make_node("Relu", [f"d{k}"], [f"e{k}"]),
        ]
        last = f"e{k}"
    graph = helper.make_graph(
        graph_nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        _external(path, weights),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def _external(path: Path, shapes: list[tuple[str, tuple[int, ...]]]) -> list[TensorProto]:
    """Weights in one file beside ``path``, written in pieces."""
    piece = np.random.default_rng(0).standard_normal(2**22, np.float32)
    tensors, offset = [], 0
    with path.with_suffix(".data").open("wb") as file:
        for name, dims in shapes:
            length = 4 * int(np.prod(dims))
            tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": path.with_suffix(".data").name, "offset": offset, "length": length}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            for start in range(0, length, piece.nbytes):
                file.write(piece.data.cast("B")[: min(piece.nbytes, length - start)])
            offset += length
    return tensors


def shown(runs: list[Run]) -> str:
    """Median, least and greatest processor seconds."""
    seconds = [r.seconds for r in runs]
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f}-{max(seconds):.2f}]"


def ratio(ours: list[Run], floor: list[Run]) -> str:
    """Median ratio of processor seconds, and of wall seconds."""
    pairs = list(zip(ours, floor, strict=True))
    by_processor = statistics.median(a.seconds / b.seconds for a, b in pairs)
    return f"{by_processor:.2f} ({statistics.median(a.wall / b.wall for a, b in pairs):.2f})"


def in_turns(rounds: int, **commands: tuple[object, ...]) -> dict[str, list[Run]]:
    """Runs of each command, round by round; one before that compiles what it imports."""
    for code, *rest in commands.values():
        run(str(code), *rest)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (code, *rest) in commands.items():
            found[name].append(run(str(code), *rest))
    return found


def nodes_table(folder: Path, rounds: int) -> None:
    """Time by number of nodes."""
    print("| network | nodes | analyze, s | us a node | rewrite, s | us a node | peak of rewrite, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, make in (("residual", residual), ("chain", chain)):
        for count in NODES:
            path, out = folder / "model.onnx", folder / "out.onnx"
            made_elsewhere(make, path, count)
            runs = in_turns(
                rounds,
                analyze=(CLI, "analyze", path),
                rewrite=(CLI, "rewrite", path, "-o", out, "--scale", 0.5, "--no-verify"),
            )
            each = [1e6 * statistics.median(r.seconds for r in runs[k]) / count for k in runs]
            peak = max(r.peak for r in runs["rewrite"])
            cells = (shown(runs["analyze"]), f"{each[0]:.0f}", shown(runs["rewrite"]), f"{each[1]:.0f}")
            print(f"| {name} | {count} | {' | '.join(cells)} | {peak:.0f} |", flush=True)
            remove(path, out)


def bytes_table(folder: Path, rounds: int, largest: float) -> None:
    """Time by bytes of weights, beside the floors."""
    columns = ("weights, MB", "analyze, s", "over floor", "over bare floor")
    columns += ("rewrite, s", "over floor", "over bare floor", "peaks, MB")
    print("\n| " + " | ".join(columns) + " |\n|" + "---:|" * len(columns))
    for megabytes in (m for m in MEGABYTES if m <= largest):
        path, out, copy = folder / "model.onnx", folder / "out.onnx", folder / "copy"
        residual(path, 100, megabytes=megabytes)
        rewrite = (CLI, "rewrite", path, "-o", out, "--scale", 0.5, "--no-verify")
        run(*rewrite)
        size = sum(p.stat().st_size for p in folder.glob("out.onnx*"))
        runs = in_turns(
            rounds,
            analyze=(CLI, "analyze", path),
            infer=(IMPORTS + READ_AND_INFER, path),
            bare_infer=(READ_AND_INFER, path),
            rewrite=rewrite,
            write=(IMPORTS + READ_AND_WRITE, path, copy, size),
            bare_write=(READ_AND_WRITE, path, copy, size),
        )
        analyze, narrower = runs["analyze"], runs["rewrite"]
        cells = (
            *(shown(analyze), ratio(analyze, runs["infer"]), ratio(analyze, runs["bare_infer"])),
            *(shown(narrower), ratio(narrower, runs["write"]), ratio(narrower, runs["bare_write"])),
            ", ".join(f"{max(r.peak for r in each):.0f}" for each in (analyze, narrower)),
        )
        print(f"| {megabytes} | {' | '.join(cells)} |", flush=True)
        remove(path, out, copy)


def images_table(folder: Path, rounds: int) -> None:
    """Time by the image's side."""
    print("\n| image side | analyze, s | peak, MB |\n|---:|---:|---:|")
    paths = {str(side): folder / f"side{side}.onnx" for side in SIDES}
    for side, path in paths.items():
        residual(path, 1000, side=int(side))
    runs = in_turns(rounds, **{side: (CLI, "analyze", path) for side, path in paths.items()})
    for side, each in runs.items():
        print(f"| {side} | {shown(each)} | {max(r.peak for r in each):.0f} |")


def remove(*paths: Path) -> None:
    """Delete files, and those with their weights beside them."""
    for path in paths:
        for file in path.parent.glob(path.stem + "*"):
            file.unlink()


def main(arguments: list[str]) -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description="Growth with nodes, bytes and images.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=float, default=MEGABYTES[-1], help="megabytes of weights at most")
    parser.add_argument("--folder", type=Path, help="where the files are put for a while (7 GB)")
    parser.add_argument("--table", nargs="*", choices=("nodes", "bytes", "images"), help="default: all")
    chosen = parser.parse_args(arguments)
    tables = chosen.table or ("nodes", "bytes", "images")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        if "nodes" in tables:
            nodes_table(Path(name), chosen.rounds)
        if "bytes" in tables:
            bytes_table(Path(name), chosen.rounds, chosen.largest)
        if "images" in tables:
            images_table(Path(name), chosen.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
