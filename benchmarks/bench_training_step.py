"""A training step of the module that comes from ONNX, beside the module it was exported from.

One process, steps in turns (native, converted, native, ...): forward, cross entropy, backward and SGD with
momentum on random images. Times are medians with least and greatest; the ratio is native over converted,
the median over pairs of neighbours: 1 is as fast, 0.95 is 5 % slower. Where there is a C++ compiler, also
with both modules compiled by torch.compile. On a CPU: one thread, processor time. On a GPU: larger batches,
bfloat16 and channels last as in a trial, wall time until the device is done.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from conet_graph.bridge import to_torch
from conet_graph.ir.load import load_model
from conet_graph.models import export_onnx

# Name, then side of the image and batch: on a CPU, on a GPU.
NETWORKS = (
    ("resnet20", (32, 32), (32, 512)),
    ("torchvision:resnet18", (64, 8), (224, 64)),
    ("torchvision:mobilenet_v2", (64, 8), (224, 64)),
    ("torchvision:densenet121", (64, 4), (224, 32)),
    ("torchvision:shufflenet_v2_x0_5", (64, 16), (224, 128)),
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"


def pair(name: str, side: int) -> tuple[nn.Module, nn.Module]:
    """The native module, and the one converted from its ONNX file, with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        native = export_onnx(name, path, classes=10, image=side)
        return native, to_torch(load_model(path))


def step(module: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A function that takes one step of training."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=ON_GPU):
            answers = module(images)
        nn.functional.cross_entropy(answers, labels).backward()
        optimizer.step()

    return once


def clocked(once: Callable[[], object]) -> float:
    """Milliseconds: of processor time on a CPU, until the device is done on a GPU."""
    if not ON_GPU:
        start = time.process_time()
        once()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    once()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def row(name: str, side: int, batch: int, rounds: int, compiled: bool) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    layout = torch.channels_last if ON_GPU else torch.contiguous_format
    images = torch.rand(batch, 3, side, side).to(DEVICE, memory_format=layout)
    labels = torch.randint(10, (batch,)).to(DEVICE)
    modules = tuple(module.to(DEVICE, memory_format=layout) for module in pair(name, side))
    if compiled:
        torch._dynamo.reset()
        modules = tuple(torch.compile(copy.deepcopy(m)) for m in modules)
    steps = [step(module, images, labels) for module in modules]
    for _ in range(3):
        for once in steps:
            once()
    times = [tuple(clocked(once) for once in steps) for _ in range(rounds)]
    columns = zip(*times, strict=True)
    cells = [f"{statistics.median(each):.1f} [{min(each):.1f}-{max(each):.1f}]" for each in columns]
    ratios = sorted(native / converted for native, converted in times)
    quarter = len(ratios) // 4
    middle = f"{statistics.median(ratios):.3f} [{ratios[quarter]:.3f}-{ratios[-1 - quarter]:.3f}]"
    mode = "compiled" if compiled else "eager"
    return f"| {name}, {batch} x {side} x {side} | {mode} | {' | '.join(cells)} | {middle} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Training steps of converted and native modules.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", help="names out of the list; default: all")
    parser.add_argument("--mode", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    modes = [m for m in chosen.mode if m == "eager" or shutil.which("g++") or shutil.which("clang++")]
    print("| network | mode | native, ms | converted, ms | ratio, with quartiles |")
    print("|---|---|---:|---:|---:|")
    for mode in modes:
        for name, on_cpu, on_gpu in NETWORKS:
            side, batch = on_gpu if ON_GPU else on_cpu
            if chosen.networks is None or name in chosen.networks:
                print(row(name, side, batch, chosen.rounds, mode == "compiled"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
