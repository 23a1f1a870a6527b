"""Times of halved networks on a GPU in ONNX Runtime, in single precision and half floats.

    python benchmarks/latency_on_gpu.py FILE.onnx ... [--batch 8] [--rows build/latency/gpu.csv]

Each network at half its multiply-accumulates (with default widths, with any width, with multiples of 16) runs
in turn with its original; inputs and outputs stay on the device; a ratio is the median over rounds. A row is
written for each measurement, and what has a row is not measured again. About a minute a network.
``--provider CPUExecutionProvider`` tries it where there is no GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import onnx
import onnxruntime as ort
from bench_latency import HALVED, Rows, share_of_macs

from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.ir.save import save_model
from conet_graph.latency.sessions import SIZE, open_session, raced
from conet_graph.passes import analysed
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.inputs import random_inputs

CUDA = "CUDAExecutionProvider"
PRECISIONS = ("single", "half floats")
WARM = 10  # runs before any is timed


class OnDevice:
    """A network, open and warm, its inputs and outputs where it runs."""

    def __init__(self, model: onnx.ModelProto, provider: str, batch: int) -> None:
        device = "cuda" if provider == CUDA else "cpu"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            onnx.save(model, path)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            self.session = open_session(path, options, provider)
        self.binding = self.session.io_binding()
        for name, value in random_inputs(self.session, batch, SIZE).items():
            self.binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name, device)
        for _ in range(WARM):
            self.run()

    def run(self) -> float:
        """Milliseconds of one run, on the wall's clock."""
        start = time.perf_counter()
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()
        return (time.perf_counter() - start) * 1e3


def in_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A model as it is, or with half floats inside; its inputs and outputs stay."""
    if precision == PRECISIONS[0]:
        return model
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def whole(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """A model of its own, with its weights inside."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "whole.onnx"
        save_model(model, path, folder, external=False)
        return onnx.load(path)


def measure(graph: Graph, network: str, provider: str, batch: int, rows: Rows) -> None:
    """All rows of a network that are not there yet."""
    for precision in PRECISIONS:
        original = None
        for setting, multiple in HALVED.items():
            case = (network, str(batch), precision, setting)
            if case in rows:
                continue
            try:
                copies = choose_copies(graph, WidthRequest(macs=0.5, multiple_of=multiple))
            except Refused as refusal:
                rows.add(case, note=str(refusal))
                continue
            if original is None:
                given = in_precision(whole(graph.loaded.proto, graph.folder), precision)
                original = OnDevice(given, provider, batch)
            narrow = whole(rewrite_model(graph, lay_out(graph, copies)), graph.folder)
            made = OnDevice(in_precision(narrow, precision), provider, batch)
            before, after, ratio = raced(original, made)
            told = f"{before.median:.4g} ms, {after.median:.4g} ms on {provider}"
            rows.add(case, macs=share_of_macs(graph, copies), measured=ratio, note=told)


def main() -> None:
    """Measure the files that are named; in the rows the batch is the run, the precision the kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--provider", default=CUDA)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=Path, default=Path("build/latency/gpu.csv"))
    options = parser.parse_args()
    rows = Rows(options.rows)
    for path in options.files:
        graph = analysed(load_model(path))
        try:
            measure(graph, path.stem, options.provider, options.batch, rows)
        except Exception as error:  # the others are measured all the same
            print(f"{path.stem}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
