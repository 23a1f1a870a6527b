"""Speed beside the peers: analysis against Torch-Pruning, rewriting against onnxsim and Torch-Pruning.

Each tool has a process of its own, one thread, and has imported, built and loaded everything before its
clock starts; the processes take turns, round by round, so that a ratio compares neighbours in time. The clock
is the process's own processor time, which a busy machine changes little. Analysis is what finds the channel
groups: for Torch-Pruning ``build_dependency`` and the enumeration of all groups, for conet-graph all passes
over a loaded file. Rewriting halves every width: for conet-graph analysis, plan and new model, for onnxsim
its pruning call (in Python and in C++), for Torch-Pruning pruner and step; nobody verifies, reads or writes.
Weights are random, images as small as the network takes (larger ones cost Torch-Pruning more).

With ``--first`` each run is the first and only one of its process, as when a command is run once: memory is
new then, which costs as much as the work does. Networks are rewritten only; Torch-Pruning is left out.

    python benchmarks/peers/peer_speed.py --rounds 7 --networks resnet18 mobilenet_v2
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NETWORKS = [
    *(
        "resnet18",
        "mobilenet_v2",
        "squeezenet1_1",
        "mnasnet1_0",
        "resnet50",
        "densenet121",
        "efficientnet_b0",
    ),
    *("mobilenet_v3_large", "googlenet", "regnet_y_400mf", "resnext50_32x4d", "convnext_tiny"),
    *("densenet201", "resnet152", "efficientnet_v2_s"),
]
SOURCE = "torchvision"
PATIENCE = 600
SIDE = "CONET_GRAPH_BENCH_SIDE"
Clocked = Callable[[], Callable[[], object]]


def image_side() -> int:
    """The least side of images, which reaches the processes through the environment."""
    return int(os.environ.get(SIDE, "64"))


def torch_pruning_analysis(network: str, _: Path) -> Clocked:
    """Torch-Pruning: graph and groups."""
    import case
    import pruners

    module, image = case.make(SOURCE, network, image_side(), "random")
    return lambda: lambda: list(pruners.torch_pruning_graph(module, image).get_all_groups())


def conet_graph_analysis(_: str, path: Path) -> Clocked:
    """conet-graph: every pass, groups and sizes."""
    from conet_graph.ir.check import load
    from conet_graph.passes import analysed

    model = load(path)
    return lambda: lambda: analysed(model)


def torch_pruning_rewrite(network: str, _: Path) -> Clocked:
    """Torch-Pruning: pruner and step, on a copy that is made before the clock starts."""
    import case
    import pruners

    module, image = case.make(SOURCE, network, image_side(), "random")

    def prepare() -> Callable[[], object]:
        fresh = copy.deepcopy(module)
        return lambda: pruners.torch_pruning(fresh, image)

    return prepare


def conet_graph_rewrite(_: str, path: Path) -> Clocked:
    """conet-graph: analysis, plan and the new model."""
    from conet_graph.ir.check import load
    from conet_graph.passes import analysed
    from conet_graph.rewriting.rewriting import planned, rewritten
    from conet_graph.rewriting.targets import WidthRequest, choose_copies

    model = load(path)

    def rewrite() -> object:
        graph = analysed(model)
        plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=0.5)), "keep", False, 0)
        return rewritten(graph, plan, layout)

    return lambda: rewrite


def onnxsim_rewrite(name: str) -> Callable[[str, Path], Clocked]:
    """onnxsim: one of its two pruning calls."""

    def prepared(_: str, path: Path) -> Clocked:
        import onnx
        import onnxsim

        model = onnx.load(path)
        call = getattr(onnxsim, name)
        return lambda: lambda: call(model, 0.5)

    return prepared


TOOLS: dict[str, Callable[[str, Path], Clocked]] = {
    "analysis, conet-graph": conet_graph_analysis,
    "analysis, Torch-Pruning": torch_pruning_analysis,
    "rewrite, conet-graph": conet_graph_rewrite,
    "rewrite, onnxsim": onnxsim_rewrite("apply_structured_pruning"),
    "rewrite, onnxsim C++": onnxsim_rewrite("apply_structured_pruning_cpp"),
    "rewrite, Torch-Pruning": torch_pruning_rewrite,
}
PAIRS = (
    ("analysis, Torch-Pruning", "analysis, conet-graph"),
    ("rewrite, onnxsim", "rewrite, conet-graph"),
    ("rewrite, onnxsim C++", "rewrite, conet-graph"),
    ("rewrite, Torch-Pruning", "rewrite, conet-graph"),
)


# What ``--first`` measures: to load PyTorch for each run would take hours.
ALONE = ("rewrite, conet-graph", "rewrite, onnxsim", "rewrite, onnxsim C++")


def serve(tool: str, network: str, path: Path, pipe: Connection, warm: bool = True) -> None:
    """Prepare once, then time a run for each message, until the other side hangs up."""
    warnings.simplefilter("ignore")
    try:
        prepare = TOOLS[tool](network, path)
        if warm:
            prepare()()  # a run that is not counted: imports inside functions, caches
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    while pipe.recv():
        clocked = prepare()
        start = time.process_time()
        clocked()
        pipe.send(time.process_time() - start)


def write(network: str, path: Path) -> None:
    """Export the network (in a process of its own)."""
    import case

    case.write(SOURCE, network, image_side(), "random", path.parent)


Worker = tuple[Any, Connection]


def measure(network: str, rounds: int, first: bool) -> dict[str, list[float]]:
    """Seconds of each tool in each round; a tool that fails has none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        maker = multiprocessing.get_context("spawn").Process(target=write, args=(network, path))
        maker.start()
        maker.join()
        if not first:
            return timed(started(TOOLS, network, path, warm=True), rounds)
        each = [timed(started(ALONE, network, path, warm=False), 1) for _ in range(rounds)]
    return {tool: [seconds[tool][0] for seconds in each if tool in seconds] for tool in ALONE}


def started(tools: Iterable[str], network: str, path: Path, *, warm: bool) -> dict[str, Worker]:
    """A process for each tool that is able to do its work."""
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Worker] = {}
    for tool in tools:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(tool, network, path, theirs, warm))
        process.start()
        theirs.close()  # so that the end of a process that dies is seen
        fault = ours.recv() if ours.poll(PATIENCE) else f"no answer in {PATIENCE} s"
        if fault:
            print(f"{network}: {tool}: {fault[:150]}", file=sys.stderr)
            process.kill()
        else:
            workers[tool] = process, ours
    return workers


def timed(workers: dict[str, Worker], rounds: int) -> dict[str, list[float]]:
    """Seconds of each worker in each round, in turns; ends them."""
    seconds: dict[str, list[float]] = {tool: [] for tool in workers}
    for _ in range(rounds):
        for tool, (_, pipe) in workers.items():
            pipe.send(True)
            seconds[tool].append(pipe.recv())
    for process, pipe in workers.values():
        pipe.send(False)
        process.join()
    return seconds


def spread(numbers: list[float], form: str) -> str:
    """The median, and the least and the greatest in brackets."""
    shown = (format(f(numbers), form) for f in (statistics.median, min, max))
    return "{} [{}-{}]".format(*shown)


def main(arguments: list[str]) -> None:
    """Print the table."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes to come
    parser = argparse.ArgumentParser(description="Speed beside the peers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of torchvision")
    parser.add_argument("--image", type=int, default=64, help="least side of the images")
    parser.add_argument("--first", action="store_true", help="each run is the first of a process")
    chosen = parser.parse_args(arguments)
    os.environ[SIDE] = str(chosen.image)
    tools = ALONE if chosen.first else tuple(TOOLS)
    print("| network | " + " | ".join(f"{tool}, ms" for tool in tools) + " |")
    print("|---|" + "---:|" * len(tools))
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {pair: {} for pair in PAIRS}
    for network in chosen.networks:
        seconds = measure(network, chosen.rounds, chosen.first)
        cells = [spread([1e3 * s for s in seconds.get(tool, [])] or [float("nan")], ".1f") for tool in tools]
        print(f"| {network} | " + " | ".join(cells) + " |", flush=True)
        for them, us in PAIRS:
            if them in seconds and us in seconds:
                pairs = zip(seconds[them], seconds[us], strict=True)
                ratios[them, us][network] = [theirs / ours for theirs, ours in pairs]
    print("\n| time of the peer over time of conet-graph | median of networks | least | greatest |")
    print("|---|---:|---:|---:|")
    for (them, _), by_network in ratios.items():
        medians = {network: statistics.median(each) for network, each in by_network.items()}
        if medians:
            low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
            middle = statistics.median(medians.values())
            print(f"| {them} | {middle:.2f} | {medians[low]:.2f} ({low}) | {medians[high]:.2f} ({high}) |")


if __name__ == "__main__":
    main(sys.argv[1:])
