"""Which networks come to PyTorch right, beside ONNX Runtime and beside onnx2torch alone: docs/BRIDGE.md.

Each network has fresh weights and is exported in four ways (two exporters, BatchNorm folded and kept).
Files can be given in place of names. What is in the rows already is not measured again. Examples:

    python benchmarks/bridge_coverage.py --source torchvision --only 'resnet|densenet'
    python benchmarks/bridge_coverage.py --files corpus/*.onnx
    python benchmarks/bridge_coverage.py --summary
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from exports import BN, TooLarge, cases_of, choices, export, networks, prepared, sentence, silence
from rows import DATA, Row, Rows, put_summary
from torch import nn

from conet_graph.analysis.layers import layers_of
from conet_graph.bridge import batches, to_torch, weights_by_name
from conet_graph.ir.load import load_model
from conet_graph.passes import structured
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import open_session

TOLERANCE = 1e-3
KEY = ("source", "network", "exporter", "batchnorm", "device")
COLUMNS = (*KEY, "result", "difference", "batch_of_3", "trains", "layers", "parameters", "onnx2torch")
FILE = DATA / "bridge.csv"
PAGE = DATA.parent / "BRIDGE.md"


def tensors(feeds: dict[str, Any], device: str) -> list[torch.Tensor]:
    """Arguments of the module."""
    made = [torch.from_numpy(np.array(a)).to(device) for a in feeds.values()]
    return [a.float() if a.dtype == torch.float16 else a for a in made]


def outputs(module: nn.Module, arguments: list[torch.Tensor]) -> list[torch.Tensor]:
    """The module's outputs as a list."""
    made = module(*arguments)
    return list(made) if isinstance(made, (tuple, list)) else [made]


def compared(module: nn.Module, arguments: list[torch.Tensor], wanted: list[Any]) -> tuple[str, float | str]:
    """'equal' or how they differ, and the largest relative difference."""
    with torch.no_grad():
        made = outputs(module.eval(), arguments)
    if len(made) != len(wanted):
        return f"{len(made)} outputs, not {len(wanted)}", ""
    worst = 0.0
    for got, want in zip(made, wanted, strict=True):
        if tuple(got.shape) != want.shape:
            return f"shape {tuple(got.shape)}, not {want.shape}", ""
        if want.size:
            scale = max(float(np.abs(want.astype(np.float64)).max()), TOLERANCE)
            worst = max(worst, float(np.abs(got.cpu().numpy().astype(np.float64) - want).max()) / scale)
    return "equal" if worst <= TOLERANCE else "differs", worst


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


def gradients(module: nn.Module, arguments: list[torch.Tensor], path: Path) -> dict[str, object]:
    """How many layers' weights a loss reaches, and the share of float numbers that are parameters."""
    module.train()
    floats = [o for o in outputs(module, [torch.cat([a] * 3) for a in arguments]) if o.requires_grad]
    torch.stack([o.square().mean() for o in floats]).sum().backward()
    reached = {p.data_ptr() for p in module.parameters() if p.grad is not None}
    held = weights_by_name(module)
    weights = {layer.op.input(layer.weight_slot) for layer in layers_of(structured(load_model(path)))}
    known = [held[name] for name in weights if name in held]
    total = sum(t.numel() for t in held.values())
    share = sum(p.numel() for p in module.parameters()) / max(total, 1)
    got = sum(w.data_ptr() in reached for w in known)
    return {"trains": got, "layers": len(known), "parameters": f"{100 * share:.1f} %"}


def upstream(path: Path, arguments: list[torch.Tensor], wanted: list[Any]) -> str:
    """What onnx2torch alone makes of the file."""
    import onnx2torch

    try:
        module = onnx2torch.convert(onnx.load(path)).to(arguments[0].device)
        return compared(module, arguments, wanted)[0]
    except NotImplementedError as error:
        kind = re.search(r"operation_type='(\w+)', version=(\d+)", str(error))
        return f"no converter for {kind[1]}-{kind[2]}" if kind else sentence(error)
    except Exception as error:  # any: a row says it
        return sentence(error)


def judged(path: Path, device: str) -> dict[str, object]:
    """Convert one file and compare."""
    try:
        session = open_session(path, "CPUExecutionProvider", fused=False)
        feeds = random_inputs(session, 1, 64)
        wanted = session.run(None, feeds)
    except Exception as error:  # any: a row says it
        return {"result": f"ONNX Runtime: {sentence(error)}"}
    arguments = tensors(feeds, device)
    alone = {"onnx2torch": upstream(path, arguments, wanted)}
    try:
        module = to_torch(load_model(path)).to(device)
        result, difference = compared(module, arguments, wanted)
        batch = batched(module, arguments)
        trained = gradients(module, arguments, path)
    except Exception as error:  # any: a row says it
        return {"result": sentence(error), **alone}
    return {"result": result, "difference": difference, "batch_of_3": batch, **trained, **alone}


def measure(rows: Rows, source: str, name: str, smallest: int, chosen: argparse.Namespace) -> None:
    """Measure the exports of one network that are missing."""
    cases = {case: {**case.cells, "device": chosen.device} for case in cases_of(source, name, chosen)}
    missing = {c: k for c, k in cases.items() if not rows.has([k[n] for n in KEY], chosen.before)}
    if not missing:
        return
    try:
        model, image = prepared(source, name, smallest, chosen.largest)
    except TooLarge:
        return
    except Exception as error:  # any: what a network of another library raises is a row
        for cells in missing.values():
            rows.put([{**cells, "result": f"not run: {sentence(error)}"}])
        return
    for case, cells in missing.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with silence():
                    export(model, image, case, path, False)
            except Exception as error:  # any, as above
                told = rows.put([{**cells, "result": f"does not export: {sentence(error)}"}])
            else:
                told = rows.put([{**cells, **judged(path, chosen.device)}])
        print(*told[0].values(), sep=" | ", flush=True)


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = choices("Which networks come to PyTorch right.", ("torchvision", "timm"))
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), help="default: both")
    parser.add_argument("--bn", choices=tuple(BN.values()), help="default: both")
    parser.add_argument(
        "--device", default="cpu", help="where PyTorch computes; ONNX Runtime stays on the CPU"
    )
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="ONNX files in place of names")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing, then write the summary into the page."""
    chosen = options(arguments)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # its products have ten bits of mantissa
    begun = time.perf_counter()
    rows = Rows(FILE, COLUMNS, KEY)
    for path in chosen.files:
        cells = {"source": "file", "network": path.stem, "device": chosen.device}
        late = time.perf_counter() - begun > chosen.seconds
        if not late and not rows.has([cells.get(name, "") for name in KEY], chosen.before):
            told = rows.put([{**cells, **judged(path, chosen.device)}])
            print(*told[0].values(), sep=" | ", flush=True)
    named = () if chosen.summary or chosen.files else networks(chosen.source, chosen.only)
    for source, name, smallest in named:
        if time.perf_counter() - begun < chosen.seconds:
            measure(rows, source, name, smallest, chosen)
    put_summary(PAGE, "bridge_coverage.py", summary(rows.rows))


def summary(rows: list[Row]) -> str:
    """What the rows say."""
    lines = [
        "| networks | files | equal | any batch | layers that train | onnx2torch alone |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    told: list[str] = []
    for source in dict.fromkeys(r["source"] for r in rows):
        ours = [r for r in rows if r["source"] == source]
        ran = [r for r in ours if not r["result"].startswith(("does not export", "not run", "ONNX Runtime"))]
        equal, alone = (sum(r[c] == "equal" for r in ran) for c in ("result", "onnx2torch"))
        many = sum(r["batch_of_3"] == "equal" for r in ran)
        trains, layers = (sum(int(r[c] or 0) for r in ran) for c in ("trains", "layers"))
        names = len({r["network"] for r in ours})
        cells = [f"{source}: {names}", len(ran), equal, many, f"{trains} of {layers}", alone]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        told += [
            f"- {source} `{r['network']}` {r['exporter']}: {r['result']} {r['difference']}".rstrip()
            for r in ours
            if r["result"] != "equal"
        ]
    return "\n".join([*lines, "", "Not equal:" if told else "All equal.", *told])


if __name__ == "__main__":
    main(sys.argv[1:])
