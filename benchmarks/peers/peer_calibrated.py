"""Narrowing a trained network by unlabelled inputs, beside peers: accuracy at equal MACs, no training.

MODEL is a trained classifier with one input. CALIBRATION and TEST are npz files: ``x``, float32 as the
network takes it, and in TEST ``y``, the right classes. All methods get the same calibration inputs, drawn by
seed; none sees a label (the gradients of Torch-Pruning's rankings are of the network's own answers). MACs are
counted by conet-graph for everybody, those of Torch-Pruning by itself. Rows are kept as CSV; a run that was
cut goes on.

    python benchmarks/peers/peer_calibrated.py resnet.onnx --name resnet --rows docs/data/calibrated.csv
        --calibration c.npz --test t.npz
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from gram_ridge import folded_by_gram
from numpy.typing import NDArray
from torch import nn

from conet_graph.bridge import from_torch, to_torch
from conet_graph.calibration.inputs import Calibration, calibration_of
from conet_graph.calibration.narrowing import choose, refitted
from conet_graph.costs.cost import cost
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.passes import analysed, structured
from conet_graph.passes.insert_batchnorm import insert_batchnorm
from conet_graph.rewriting.rewriting import plan, planned, rewrite, rewritten
from conet_graph.rewriting.targets import WidthRequest
from conet_graph.trials.settle_batchnorm import settle_batchnorm

Floats = NDArray[np.float32]
Runs = Callable[[Floats], NDArray[Any]]
Network = onnx.ModelProto | nn.Module
Made = tuple[Network, float]  # with its share of the MACs
KEYS = ("network", "method", "asked", "samples", "seed")
COLUMNS = (*KEYS, "macs", "accuracy", "error", "seconds", "memory")
SHARES = (0.9, 0.75, 0.5, 0.35)
CALIBRATED = ("best", "reconstruction", "activation", "taylor", "hessian")
PRUNERS = ("magnitude", "taylor", "hessian", "fpgm", "lamp")
# Of the search for the ratio that gives a share of the MACs: steps, and what is near enough.
STEPS, NEAR = 9, 0.003


def threads() -> int:
    """How many threads everybody gets."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def runner(model: onnx.ModelProto) -> Runs:
    """A function from inputs to the first output, in ONNX Runtime, in batches that the file takes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads(), 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    fixed = isinstance(entry.shape[0], int)
    size = entry.shape[0] if fixed else 64

    def run(x: Floats) -> NDArray[Any]:
        # A file for so many images at once gets whole batches only.
        end = len(x) // size * size if fixed else len(x)
        return np.concatenate(
            [session.run(None, {entry.name: x[i : i + size]})[0] for i in range(0, end, size)]
        )

    return run


def runs(network: Network) -> Runs:
    """A function from inputs to the outputs of a file or of a module."""
    return module_runner(network) if isinstance(network, nn.Module) else runner(network)


def module_runner(module: nn.Module) -> Runs:
    """``runner`` for a PyTorch module."""
    module.eval()

    def run(x: Floats) -> NDArray[Any]:
        with torch.no_grad():
            parts = [module(torch.from_numpy(x[i : i + 64])) for i in range(0, len(x), 64)]
        return torch.cat(parts).numpy()

    return run


def macs(model: onnx.ModelProto | LoadedModel) -> float:
    """Multiply-accumulates for one image."""
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model)
    return float(cost(structured(loaded)).macs or 0)


def nearest(share: float, made: Callable[[float], tuple[Any, float]]) -> tuple[Any, float]:
    """What a pruner gives at the ratio whose share of the MACs comes nearest to the one asked for."""
    low, high = 0.0, 0.95
    found: list[tuple[Any, float]] = []
    for _ in range(STEPS):
        middle = (low + high) / 2
        found.append(made(middle))
        if abs(found[-1][1] - share) <= NEAR:
            break
        low, high = (middle, high) if found[-1][1] > share else (low, middle)
    return min(found, key=lambda pair: abs(pair[1] - share))


def sized(model: LoadedModel, shape: tuple[int, ...]) -> LoadedModel:
    """The model with the free sizes of its input as the inputs have them, the batch left as it is."""
    made = onnx.ModelProto()
    made.CopyFrom(model.proto)
    dims = made.graph.input[0].type.tensor_type.shape.dim
    for dim, length in list(zip(dims, shape, strict=True))[1:]:
        dim.dim_value = length
    return LoadedModel(made, model.path)


class Methods:
    """Everybody's way of narrowing one network to a share of its MACs, by some inputs."""

    def __init__(self, model: LoadedModel, whole: float) -> None:
        self.model, self.whole = model, whole

    def all(self) -> Iterator[tuple[str, Callable[[float, Floats, int], Made]]]:
        """Names and methods; the inputs are drawn already, the seed is of what else is random."""
        for how in ("l2", "l1", "fpgm", "random"):
            yield f"conet-graph {how}", lambda s, x, seed, h=how: self._plain(s, h, seed)
        for how in CALIBRATED:
            yield f"conet-graph --calibrate {how}", lambda s, x, seed, h=how: self._calibrated(s, x, seed, h)
        yield "l2 + BatchNorm re-estimated", self._settled
        yield "l2 + channel-Gram ridge", self._gram
        for how in PRUNERS:
            yield f"Torch-Pruning {how}", lambda s, x, seed, h=how: self._torch_pruning(s, x, h)
        yield "onnxsim structured calibrated", self._onnxsim

    def _of(self, model: onnx.ModelProto) -> Made:
        return model, macs(model) / self.whole

    def _plain(self, share: float, how: str, seed: int) -> Made:
        made = plan(self.model, macs=share, importance=how, seed=seed, multiple_of=1)
        return self._of(rewrite(self.model, made, check=False).proto)

    def _calibrated(self, share: float, x: Floats, seed: int, how: str) -> Made:
        graph = analysed(self.model)
        data: Calibration = calibration_of({graph.inputs[0]: x}, graph, len(x), seed)
        choice = choose(graph, WidthRequest(macs=share, importance=how, multiple_of=1), data)
        made, layout = planned(graph, choice.copies, "keep", False, seed)
        narrow = rewritten(graph, made, layout)
        return self._of(refitted(graph, layout, narrow, data).applied(narrow))

    def _settled(self, share: float, x: Floats, seed: int) -> Made:
        """BatchNorm put back with the calibration inputs' statistics, measured again when narrow."""
        batches = [torch.from_numpy(x[i : i + 64]) for i in range(0, len(x), 64)]
        held = insert_batchnorm(self.model)
        module = to_torch(held, check=False)
        settle_batchnorm(module, iter(batches))
        settled = from_torch(module, held)
        narrow = rewrite(settled, plan(settled, macs=share, multiple_of=1), check=False)
        module = to_torch(narrow, check=False)
        _measured_again(module, batches)
        return module, macs(narrow) / macs(settled)

    def _gram(self, share: float, x: Floats, seed: int) -> Made:
        graph = analysed(self.model)
        made = plan(self.model, macs=share, multiple_of=1)
        narrow = rewrite(self.model, made, check=False).proto
        return self._of(folded_by_gram(graph, made, narrow, x))

    def _torch_pruning(self, share: float, x: Floats, how: str) -> Made:
        import torch_pruning as tp
        from pruners import classifiers

        module = to_torch(self.model, check=False).eval()
        example = torch.from_numpy(x[:2])
        whole = float(tp.utils.count_ops_and_params(copy.deepcopy(module), example)[0])
        importances = {
            "magnitude": tp.importance.GroupMagnitudeImportance,
            "taylor": tp.importance.GroupTaylorImportance,
            "hessian": tp.importance.GroupHessianImportance,
            "fpgm": tp.importance.FPGMImportance,
            "lamp": tp.importance.LAMPImportance,
        }
        gradients = _gradients(module, x, squared=how == "hessian") if how in ("taylor", "hessian") else []

        def at(ratio: float) -> tuple[nn.Module, float]:
            pruned = copy.deepcopy(module)
            for parameter, gradient in zip(pruned.parameters(), gradients, strict=False):
                parameter.grad = gradient.clone()
            pruner = tp.pruner.BasePruner(
                pruned,
                example,
                importance=importances[how](),
                pruning_ratio=ratio,
                global_pruning=True,
                ignored_layers=classifiers(pruned, pruned(example)),
            )
            pruner.step()
            return pruned, float(tp.utils.count_ops_and_params(pruned, example)[0]) / whole

        return nearest(share, at)

    def _onnxsim(self, share: float, x: Floats, seed: int) -> Made:
        import onnxsim

        name = self.model.proto.graph.input[0].name
        dims = self.model.proto.graph.input[0].type.tensor_type.shape.dim
        size = dims[0].dim_value or 16
        feeds = [{name: x[i : i + size]} for i in range(0, len(x) // size * size, size)]

        def at(ratio: float) -> tuple[onnx.ModelProto, float]:
            made = onnxsim.apply_structured_wanda_pruning(
                copy.deepcopy(self.model.proto),
                calibration_data=feeds,
                num_samples=len(feeds),
                sparsity=ratio,
            )
            return made, macs(made) / self.whole

        return nearest(share, at)


def _measured_again(module: nn.Module, batches: list[torch.Tensor]) -> None:
    """BatchNorm's statistics from these inputs alone, scales and shifts as they are."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    with torch.no_grad():
        for batch in batches:
            module(batch)
    module.eval()


def _gradients(module: nn.Module, x: Floats, squared: bool) -> list[torch.Tensor]:
    """For each parameter the gradient of the cross-entropy with the network's own answers.

    ``squared``: the mean over images of its square. Torch-Pruning's own ``accumulate_grad`` (1.6.1) keeps
    the square of the last image only: it looks for names among parameters.
    """
    sums = [torch.zeros_like(parameter) for parameter in module.parameters()]
    for part in torch.from_numpy(x).split(1 if squared else 64):
        module.zero_grad()
        logits = module(part)
        nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
        for total, parameter in zip(sums, module.parameters(), strict=True):
            if parameter.grad is not None:
                total += parameter.grad.square() if squared else parameter.grad
    module.zero_grad()
    return [total / len(x) for total in sums]


def asked(description: str) -> argparse.ArgumentParser:
    """What a command line says of a network, its inputs and its rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path, help="a trained classifier as ONNX")
    parser.add_argument("--name", required=True, help="its name in the table")
    parser.add_argument("--calibration", type=Path, required=True, help="npz with x")
    parser.add_argument("--test", type=Path, required=True, help="npz with x and y")
    parser.add_argument("--rows", type=Path, required=True, help="CSV: read, and added to")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    return parser


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = asked("Calibrated narrowing beside peers.")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the MACs")
    parser.add_argument("--samples", type=int, nargs="+", default=(64, 512), help="calibration inputs")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads())
    chosen = options(arguments)
    inputs, images, right = arrays(chosen)
    model = sized(load_model(chosen.model), inputs.shape)
    wanted = runner(model.proto)(images)
    known = keys_in(chosen.rows, COLUMNS)
    methods = Methods(model, macs(model))
    cases = [(n, s, k) for n in chosen.samples for s in chosen.shares for k in chosen.seeds]
    for samples, share, seed in cases:
        x = drawn(inputs, samples, seed)
        for name, narrow in methods.all():
            key = (chosen.name, name, str(share), str(samples), str(seed))
            if chosen.only not in name or key in known:
                continue
            row = [*key, *alone(partial(measured, partial(narrow, share, x, seed), images, right, wanted))]
            with chosen.rows.open("a") as file:
                file.write(",".join(row) + "\n")
            print(*row, file=sys.stderr)


def arrays(chosen: argparse.Namespace) -> tuple[Floats, Floats, NDArray[Any]]:
    """The calibration inputs, the inputs to test on, and their right classes."""
    with np.load(chosen.calibration) as stored, np.load(chosen.test) as test:
        return stored["x"], test["x"], test["y"]


def keys_in(rows: Path, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """Whose rows a file has; it is begun if there is none."""
    if not rows.exists():
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.write_text(",".join(columns) + "\n")
    with rows.open() as file:
        return {tuple(row[c] for c in KEYS) for row in csv.DictReader(file)}


def drawn(inputs: Floats, samples: int, seed: int) -> Floats:
    """So many of the calibration inputs."""
    return inputs[np.sort(np.random.default_rng(seed).permutation(len(inputs))[:samples])]


def alone(measure: Callable[[], list[str]]) -> list[str]:
    """What a measurement gives in a process of its own: no row's memory counts for the next."""
    for peer in ("onnxsim", "torch_pruning"):  # loaded before the fork, as everything of ours is
        with suppress(ImportError):
            import_module(peer)
    here, there = Pipe(duplex=False)
    process = get_context("fork").Process(target=lambda: there.send(measure()))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return ["", "failed: the process ended", "", "", ""]
    finally:
        process.join()


def _memory() -> tuple[float, float]:
    """Resident memory of this process in MB: at most so far, and now (Linux: proc(5))."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))  # type: ignore[return-value]


def measured(narrow: Callable[[], Made], images: Floats, right: NDArray[Any], wanted: Any) -> list[str]:
    """MACs, accuracy, the outputs' error in units of their variance, seconds, MB; or the failure's name.

    Seconds are of the processor, all threads together: those of the clock say who else was at work. Memory
    is what the process grew by, at most, over what it held before: libraries, the network and the inputs.
    """
    start, (_, before) = time.process_time(), _memory()
    try:
        network, share = narrow()
        seconds, (most, _) = time.process_time() - start, _memory()
        outputs = runs(network)(images)
    except Exception as error:  # a peer may refuse a network in any way
        return ["", f"failed: {type(error).__name__}", "", f"{time.process_time() - start:.1f}", ""]
    error = float(((outputs - wanted[: len(outputs)]) ** 2).mean() / wanted.var(axis=0).mean())
    accuracy = float((outputs.argmax(1) == right[: len(outputs)]).mean())
    return [f"{share:.4f}", f"{accuracy:.4f}", f"{error:.4f}", f"{seconds:.1f}", f"{most - before:.0f}"]


if __name__ == "__main__":
    main(sys.argv[1:])
