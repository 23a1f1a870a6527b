"""Coverage beside the peers: which networks each of them narrows to half its widths, and rightly.

Every network is built with freshly initialised weights and with random ones. A peer is given its documented
call with default options, in a process of its own with a time and a memory limit. *Equal* means that the
result equals the original with the dropped channels masked, which is read off the weights alone
(weight_match.py), the same way for all. Rows are kept in a JSON-lines file, so that a run that was cut
goes on where it was. Examples:

    python benchmarks/peers/peer_coverage.py --source torchvision --rows build/peers.jsonl
    python benchmarks/peers/peer_coverage.py --only-table --rows build/peers.jsonl --csv build/peers.csv
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import case
from coverage_table import table, write_csv
from exports import networks, sentence
from rows import stamp

Row = dict[str, Any]
Jobs = dict[str, tuple[Callable[..., Row], tuple[Any, ...], Path | None]]
WEIGHTS = ("fresh", "random")


def work(
    sender: Connection, function: Callable[..., Row], arguments: tuple[Any, ...], limits: tuple[int, int]
) -> None:
    """Run a function and send its row; what it prints is thrown away."""
    gigabytes, seconds = limits
    resource.setrlimit(resource.RLIMIT_DATA, (gigabytes * 2**30, gigabytes * 2**30))
    # Of processor time, so that a busy machine is nobody's fault; what was found until then is kept.
    signal.signal(signal.SIGXCPU, out_of_time)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 20))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    warnings.simplefilter("ignore")
    try:
        sender.send(function(*arguments))
    except BaseException as error:  # any: the row says what
        sender.send({"error": sentence(error) if isinstance(error, Exception) else type(error).__name__})


def out_of_time(*_: object) -> None:
    """The soft limit of processor time is over."""
    raise TimeoutError("out of processor time")


def limited(chosen: argparse.Namespace, function: Callable[..., Row], *arguments: Any) -> Row:
    """The row that a function gives in a process of its own, within the limits."""
    # Forked, because importing torch and timm anew for each peer would take longer than the work.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(sender, function, arguments, (chosen.memory, chosen.timeout)))
    begun = time.perf_counter()
    worker.start()
    sender.close()
    late = f"no answer in {chosen.timeout} s of processor time"
    row: Row = {"error": late}
    # The process closes its end when it is done, or stopped; the other bound is for one that sleeps.
    if receiver.poll(20 * chosen.timeout):
        try:
            row = receiver.recv()
        except EOFError:
            worker.join()
            row = {"error": late if worker.exitcode == -signal.SIGKILL else "the process died"}
    worker.kill()
    worker.join()
    return {**row, "seconds": round(time.perf_counter() - begun, 2)}


def jobs_of(source: str, name: str, smallest: int, weights: str, folder: Path) -> Jobs:
    """What there is to do for one network: a function, its arguments and the file it needs, by peer."""
    exported, narrowed = folder / f"{weights}.onnx", folder / f"conet-graph-{weights}.onnx"
    jobs: Jobs = {
        peer: (case.torch_peer, (peer, source, name, smallest, weights), None)
        for peer in case.TORCH_PEERS
        if weights == "random" or peer not in case.RANDOM_ONLY
    }
    jobs |= {peer: (case.onnx_peer, (peer, weights, folder), exported) for peer in case.ONNX_PEERS}
    if weights == "random":
        jobs |= {peer: (case.back_peer, (peer, weights, folder), narrowed) for peer in case.BACK}
    return jobs


def measure(chosen: argparse.Namespace, source: str, name: str, smallest: int, known: set[Any]) -> list[Row]:
    """The rows of one network that are not known yet."""
    rows: list[Row] = []
    for weights in WEIGHTS:
        label = {"network": f"{source} {name}", "weights": weights}
        with tempfile.TemporaryDirectory() as temporary:
            jobs = jobs_of(source, name, smallest, weights, Path(temporary))
            asked = [peer for peer in jobs if peer in chosen.peers]
            missing = {peer for peer in asked if (label["network"], weights, peer) not in known}
            if missing & set(case.BACK):
                missing.add("conet-graph")  # its file is what the converters are given
            if not missing:
                continue
            if missing - set(case.TORCH_PEERS):
                exported = limited(chosen, case.write, source, name, smallest, weights, Path(temporary))
                if "error" in exported:
                    rows.append({**label, "peer": "export", **exported})
            for peer in (p for p in jobs if p in missing):
                function, arguments, file = jobs[peer]
                ready = file is None or file.exists()
                row = limited(chosen, function, *arguments) if ready else {"error": "there is no file"}
                rows.append({**label, "peer": peer, **row, **stamp()})
    return rows


def known_rows(path: Path) -> list[Row]:
    """The rows measured before; a line that was cut is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Coverage beside the peers.")
    parser.add_argument("--source", choices=("torchvision", "timm"), help="default: both")
    parser.add_argument("--only", default="", help="regular expression that the name matches")
    parser.add_argument("--start", default="", help="leave out what stands before this network")
    parser.add_argument("--limit", type=int, default=10**6, help="the first N of each source")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no network after this time")
    parser.add_argument("--timeout", type=int, default=60, help="processor seconds for one peer")
    parser.add_argument("--memory", type=int, default=6, help="GiB for one peer")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines: read, and added to")
    everybody = [*case.TORCH_PEERS, *case.ONNX_PEERS, *case.BACK]
    parser.add_argument("--peers", nargs="+", default=everybody, choices=everybody)
    parser.add_argument("--only-table", action="store_true", help="print what the rows say, run nothing")
    parser.add_argument("--csv", type=Path, help="write what came of each network and peer here")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing, then print the table."""
    import timm  # noqa: F401  # before the processes are forked
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    chosen = options(arguments)
    begun = time.perf_counter()
    known = {(r["network"], r["weights"], r["peer"]) for r in known_rows(chosen.rows)}
    wanted = [] if chosen.only_table else networks(chosen.source, chosen.only, chosen.limit, chosen.start)
    for source, name, smallest in wanted:
        if time.perf_counter() - begun > chosen.seconds:
            break
        rows = measure(chosen, source, name, smallest, known)
        with chosen.rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{source} {name}: {len(rows)} rows, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    rows = known_rows(chosen.rows)
    if chosen.csv is not None:
        write_csv(rows, chosen.csv)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
