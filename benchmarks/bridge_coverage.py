"""Which networks come to PyTorch right: beside ONNX Runtime, and beside onnx2torch alone.

Each network has fresh weights and is exported in four ways (two exporters, BatchNorm folded and kept).
Files can be given in place of names. Examples:

    python benchmarks/bridge_coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/bridge_coverage.py --files corpus/*.onnx --table docs/BRIDGE.md
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from coverage import Case, TooLarge, cases_of, export, networks, prepared, sentence, silence
from torch import nn

from conet_graph.analysis.layers import layers_of
from conet_graph.bridge import batches, to_torch, weights_by_name
from conet_graph.ir.load import load_model
from conet_graph.passes import structured
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import open_session

TOLERANCE = 1e-3
HEADER = (
    "| network | exporter | BatchNorm | conet-graph | batch of 3 | layers that train | onnx2torch alone |\n"
    "|---|---|---|---|---|---|---|"
)
INTRODUCTION = """# Bridge: which networks come to PyTorch right

A network's outputs in PyTorch against ONNX Runtime's on the same seeded input, relative to the largest
magnitude of each output; *equal* is 1e-3 or less (or 1e-6, where the outputs are that small themselves).
*Batch of 3*: three different images at once give what each gives alone, also where the file is for one image.
*Layers that train*: layers whose weight a loss on the outputs reaches, and the share of the file's float
numbers that are parameters (running statistics are not).
"""


@dataclass(frozen=True)
class Row:
    """What came of one file."""

    label: str
    ours: str
    batch: str = ""
    gradients: str = ""
    upstream: str = ""

    @property
    def equal(self) -> bool:
        """Whether the module equals ONNX Runtime."""
        return self.ours.startswith("equal")

    def text(self) -> str:
        """The row in markdown."""
        return f"| {self.label} | {self.ours} | {self.batch} | {self.gradients} | {self.upstream} |"


def tensors(feeds: dict[str, Any], device: str) -> list[torch.Tensor]:
    """Arguments of the module."""
    made = [torch.from_numpy(np.array(a)).to(device) for a in feeds.values()]
    return [a.float() if a.dtype == torch.float16 else a for a in made]


def outputs(module: nn.Module, arguments: list[torch.Tensor]) -> list[torch.Tensor]:
    """The module's outputs as a list."""
    made = module(*arguments)
    return list(made) if isinstance(made, (tuple, list)) else [made]


def compared(module: nn.Module, arguments: list[torch.Tensor], wanted: list[Any]) -> str:
    """'equal' with the largest relative difference, or how they differ."""
    with torch.no_grad():
        made = outputs(module.eval(), arguments)
    if len(made) != len(wanted):
        return f"{len(made)} outputs, not {len(wanted)}"
    worst = 0.0
    for got, want in zip(made, wanted, strict=True):
        if tuple(got.shape) != want.shape:
            return f"shape {tuple(got.shape)}, not {want.shape}"
        if want.size:
            scale = max(float(np.abs(want.astype(np.float64)).max()), TOLERANCE)
            worst = max(worst, float(np.abs(got.cpu().numpy().astype(np.float64) - want).max()) / scale)
    return f"{'equal' if worst <= TOLERANCE else 'differs'}, {worst:.0e}"


def batched(module: nn.Module, arguments: list[torch.Tensor]) -> str:
    """Whether three images at once give what each gives alone."""
    images = [[a.roll(k, -1) if a.dim() else a for a in arguments] for k in range(3)]
    try:
        with torch.no_grad():
            alone = [outputs(module.eval(), image) for image in images]
            many = outputs(module, [torch.cat(parts) for parts in zip(*images, strict=True)])
    except Exception as error:  # any: a row says it
        return f"fails: {sentence(error)}"
    for axis, three, parts in zip(batches(module).output_axes, many, zip(*alone, strict=True), strict=True):
        wanted = parts[0] if axis is None else torch.cat(parts, axis)
        if three.shape != wanted.shape:
            return f"shape {tuple(three.shape)}"
        scale = max(float(wanted.double().abs().max()), TOLERANCE)
        if float((three.double() - wanted.double()).abs().max()) > TOLERANCE * scale:
            return "differs"
    return "equal"


def gradients(module: nn.Module, arguments: list[torch.Tensor], path: Path) -> str:
    """How many layers' weights a loss reaches, and the share of float numbers that are parameters."""
    module.train()
    floats = [o for o in outputs(module, [torch.cat([a] * 3) for a in arguments]) if o.requires_grad]
    torch.stack([o.square().mean() for o in floats]).sum().backward()
    reached = {p.data_ptr() for p in module.parameters() if p.grad is not None}
    held = weights_by_name(module)
    weights = {layer.op.input(layer.weight_slot) for layer in layers_of(structured(load_model(path)))}
    known = [held[name] for name in weights if name in held]
    got = sum(w.data_ptr() in reached for w in known)
    total = sum(t.numel() for t in held.values())
    share = sum(p.numel() for p in module.parameters()) / max(total, 1)
    return f"{got} of {len(known)}, {100 * share:.1f} %"


def upstream(path: Path, arguments: list[torch.Tensor], wanted: list[Any]) -> str:
    """What onnx2torch alone makes of the file."""
    import onnx2torch

    try:
        module = onnx2torch.convert(onnx.load(path)).to(arguments[0].device)
        return compared(module, arguments, wanted)
    except NotImplementedError as error:
        kind = re.search(r"operation_type='(\w+)', version=(\d+)", str(error))
        return f"no converter for {kind[1]}-{kind[2]}" if kind else sentence(error)
    except Exception as error:  # any: a row says it
        return sentence(error)


def row(label: str, path: Path, device: str) -> Row:
    """Convert one file and compare."""
    try:
        session = open_session(path, "CPUExecutionProvider", fused=False)
        feeds = random_inputs(session, 1, 64)
        wanted = session.run(None, feeds)
    except Exception as error:  # any: a row says it
        return Row(label, f"ONNX Runtime: {sentence(error)}")
    arguments = tensors(feeds, device)
    alone = upstream(path, arguments, wanted)
    try:
        module = to_torch(load_model(path)).to(device)
        ours, batch = compared(module, arguments, wanted), batched(module, arguments)
        reached = gradients(module, arguments, path)
    except Exception as error:  # any: a row says it
        return Row(label, sentence(error), upstream=alone)
    return Row(label, ours, batch, reached, alone)


def rows_of(source: str, name: str, smallest: int, chosen: argparse.Namespace) -> Iterator[Row]:
    """The rows of one network."""
    cases: list[Case] = cases_of(source, name, chosen)
    try:
        model, image = prepared(source, name, smallest, chosen.largest)
    except TooLarge:
        return
    except Exception as error:  # any: what a network of another library raises is a row
        yield Row(f"{source} {name} | | ", f"not run: {sentence(error)}")
        return
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with silence():
                    export(model, image, case, path, False)
            except Exception as error:  # any, as above
                yield Row(case.label, f"does not export: {sentence(error)}")
                continue
            yield row(case.label, path, chosen.device)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Which networks come to PyTorch right.")
    parser.add_argument("--source", choices=("torchvision", "timm"), help="default: both")
    parser.add_argument("--only", default="", help="regular expression that the name matches")
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), help="default: both")
    parser.add_argument("--bn", choices=("folded", "kept"), help="default: both")
    parser.add_argument("--largest", type=float, default=150, help="millions of parameters at most")
    parser.add_argument(
        "--device", default="cpu", help="where PyTorch computes; ONNX Runtime stays on the CPU"
    )
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="ONNX files in place of names")
    parser.add_argument("--table", type=Path, help="write the table here, after every network")
    parser.add_argument("--append", action="store_true", help="add to the file instead")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Print a row a file, then the summary."""
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # its products have ten bits of mantissa
    rows: list[Row] = []
    before = (
        chosen.table.read_text() + "\n" if chosen.append and chosen.table.exists() else INTRODUCTION + "\n"
    )
    print(HEADER)

    def enter(found: Iterator[Row]) -> None:
        for one in found:
            rows.append(one)
            print(one.text(), flush=True)
        if chosen.table is not None:
            chosen.table.write_text(before + section(rows, arguments))

    if chosen.files:
        enter(row(f"{path.name} | | ", path, chosen.device) for path in chosen.files)
    else:
        for source, name, smallest in networks(chosen.source, chosen.only, 10**6, ""):
            enter(rows_of(source, name, smallest, chosen))
    print("\n" + summary(rows))


def section(rows: list[Row], arguments: list[str]) -> str:
    """One section of the document, with the command that makes it."""
    command = shlex.join(["python", "benchmarks/bridge_coverage.py", *arguments])
    return f"## `{command}`\n\n{summary(rows)}\n\n{HEADER}\n" + "".join(r.text() + "\n" for r in rows)


def summary(rows: list[Row]) -> str:
    """What the table says."""
    ran = [r for r in rows if not r.ours.startswith(("does not export", "not run", "ONNX Runtime"))]
    alone = sum(r.upstream.startswith("equal") for r in ran)
    many = sum(r.batch == "equal" for r in ran)
    return (
        f"{len(ran)} files: {sum(r.equal for r in ran)} equal ONNX Runtime, {many} take another batch size;"
        f" onnx2torch alone: {alone}."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
