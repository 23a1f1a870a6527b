"""Time and memory of rewriting a network to half its MACs, without and with verification.

Networks of torchvision are exported with fresh weights. Times are medians over runs in one process each,
after the imports. The first ratio is rewrite (read, analyse, plan, rewrite, write) over reading and writing
both; the second is the same with verification and the outputs' error over what cannot be left out: reading,
ONNX's checker, three sessions that compute operator by operator, two runs of each, writing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORKS = ("resnet18", "resnet50", "vgg16")
ROUNDS = 5

REWRITE = """
import json, sys, time
import onnx, numpy
import conet_graph.rewriting.rewriting, conet_graph.costs.cost_model
from conet_graph.ir.load import load_model
from conet_graph.ir.save import save_model
from conet_graph.passes import analysed
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.verification import verify
import onnxruntime
start = time.perf_counter()
graph = analysed(load_model(sys.argv[1]))
plan, layout = planned(graph, choose_copies(graph, WidthRequest(macs=0.5)), "keep", False, 0)
made = rewritten(graph, plan, layout)
if sys.argv[3] == "verified":
    report = verify(graph, made, plan, graph.folder, with_error=True, sound=True)
    assert report.equality == "passed", report
save_model(made, sys.argv[2])
seconds = time.perf_counter() - start
# Not ru_maxrss: that one starts at the parent's.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, int(peak) / 1024]))
"""
FLOOR = """
import json, sys, time
import onnx
start = time.perf_counter()
big, small = onnx.load(sys.argv[1]), onnx.load(sys.argv[2])
onnx.save(big, sys.argv[1] + ".copy")
onnx.save(small, sys.argv[2] + ".copy")
print(json.dumps([time.perf_counter() - start]))
"""
NEEDED = """
import json, sys, time
from pathlib import Path
import numpy, onnx, onnxruntime
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import open_session
old, new = map(Path, sys.argv[1:])
small = onnx.load(new)
start = time.perf_counter()
onnx.load(old)
onnx.checker.check_model(small)
for path in (old, old, new):
    session = open_session(path, fused=False)
    for _ in range(2):
        session.run(None, random_inputs(session, 1, 64))
onnx.save(small, sys.argv[2] + ".copy")
print(json.dumps([time.perf_counter() - start]))
"""


def measured(code: str, *arguments: Path | str) -> list[float]:
    """Run a script in a process of its own; returns the numbers it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return [float(number) for number in json.loads(done.stdout)]


def main() -> None:
    """Print the table."""
    from conet_graph.models.export import export_onnx

    titles = (
        "network",
        "MB",
        "rewrite s",
        "read+write s",
        "ratio",
        "verified s",
        "needed s",
        "ratio",
        "peak MB",
    )
    print(("{:10}" + "{:>13}" * 8).format(*titles))
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder) / "old.onnx", Path(folder) / "new.onnx"
            export_onnx(f"torchvision:{name}", old, classes=1000, image=224)
            rounds = [
                [measured(REWRITE, old, new, "not"), measured(FLOOR, old, new),
                 measured(REWRITE, old, new, "verified"), measured(NEEDED, old, new)]
                for _ in range(ROUNDS)
            ]  # fmt: skip
            size = old.stat().st_size / 1e6
        seconds = [statistics.median(r[k][0] for r in rounds) for k in range(4)]
        ratios = [statistics.median(r[k][0] / r[k + 1][0] for r in rounds) for k in (0, 2)]
        peak = max(r[2][1] for r in rounds)
        row = (size, *seconds[:2], ratios[0], *seconds[2:], ratios[1], peak)
        print(f"{name:10}" + "".join(f"{number:13.2f}" for number in row))


if __name__ == "__main__":
    main()
