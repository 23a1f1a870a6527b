"""Three images at once beside each alone in ONNX Runtime: every conversion is looked at once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from conet_graph.bridge.batch.held import Held
from conet_graph.bridge.batch.report import batches
from conet_graph.bridge.converters.random import RANDOM
from conet_graph.costs.cost import cost
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.save import has_external, save_model
from conet_graph.verification.runtime import first_line

Arrays = dict[str, np.ndarray[Any, Any]]

IMAGES = 3
# Axes of free length but for the batch.
_SIDE = 64
# Larger networks are not run: a check is to take seconds, not minutes.
MOST_MACS = 20 * 10**9
MOST_NUMBERS = 5 * 10**8
# Of an output's largest magnitude; smaller outputs than this may be off by its square.
TOLERANCE = 1e-3
# Where the network magnifies the last bits, the batch may be so many times farther off than each image.
_TIMES_ALONE = 4


@dataclass(frozen=True)
class Finding:
    """What the comparison gave, in words.

    Attributes:
        checked: in one phrase.
        fault: what is wrong with three images, '' if nothing.
        mixed: whether the file, which leaves the batch free, itself gives images otherwise in a batch.

    """

    checked: str
    fault: str = ""
    mixed: bool = False


def compare(
    model: LoadedModel, graph: Graph, module: fx.GraphModule, held: Mapping[str, Held] | None
) -> Finding:
    """Run a module on three images, and ONNX Runtime on each of them.

    Args:
        model: the file.
        graph: its graph, structured.
        module: made of it; it is left in the mode in which it was.
        held: the inputs that hold images; None where the file takes any number of them.

    """
    reason = _not_to_be_checked(graph)
    if reason:
        return Finding(f"not checked: {reason}")
    given = held if held else _free(graph)
    count = IMAGES if batches(module).only is None else 1
    try:
        session = _session(model)
        images = [_images(graph, given, k) for k in range(count)]
        alone = [session.run(None, feeds) for feeds in images]
    except Exception as error:  # any: what ONNX Runtime raises on what it cannot run
        return Finding(f"not checked: ONNX Runtime does not run it ({first_line(error)})")
    joined = _joined_inputs(images, given)
    if not held:
        return _as_the_file(session, module, joined, alone)
    axes = batches(module).output_axes
    if len({tuple(np.shape(part) for part in outputs) for outputs in alone}) > 1:
        return Finding("not checked", "its outputs have another shape for each image")
    wanted = _joined_outputs(alone, axes)
    try:
        made = _run(module, joined)
    except Exception as error:  # any: what PyTorch raises on shapes that do not fit
        return Finding("it fails in PyTorch", f"three images at once fail in PyTorch ({first_line(error)})")
    off = _largest(made, wanted)
    if off <= TOLERANCE and count > 1 and _alike(alone):
        return Finding("not checked: its outputs are the same for every image that was tried")
    if off <= TOLERANCE:
        return Finding(_equal(off))
    return _judged(module, images, held, made, wanted, off)


def _alike(alone: list[list[Any]]) -> bool:
    """Whether no output differs between the images."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(alone[0], alone[1], strict=True))


def _equal(off: float) -> str:
    return f"equal to ONNX Runtime, largest difference {off:.0e}"


def _differs(off: float) -> str:
    return f"differs from ONNX Runtime by {off:.0e} of the largest magnitude"


def _free(graph: Graph) -> dict[str, Held]:
    """The inputs whose first axis is free."""
    shapes = {name: graph.shape(name) for name in graph.inputs}
    return {name: Held(0) for name, shape in shapes.items() if shape and not isinstance(shape[0], int)}


def _as_the_file(session: Any, module: fx.GraphModule, joined: Arrays, alone: list[list[Any]]) -> Finding:
    """A file that takes any batch: the module beside ONNX Runtime on three images at once."""
    try:
        wanted = session.run(None, joined)
    except Exception as error:  # any: what ONNX Runtime raises on what it cannot run
        return Finding("not checked", f"ONNX Runtime does not run three images at once ({first_line(error)})")
    try:
        made = _run(module, joined)
    except Exception as error:  # any: what PyTorch raises on shapes that do not fit
        return Finding(f"it fails in PyTorch ({first_line(error)})")
    off = _largest(made, wanted)
    axes = tuple(
        _image_axis(np.shape(w), np.shape(a), len(alone)) for w, a in zip(wanted, alone[0], strict=True)
    )
    mixed = _largest(_joined_outputs(alone, axes), wanted) > 10 * TOLERANCE
    return Finding(_equal(off) if off <= TOLERANCE else _differs(off), mixed=mixed)


def _image_axis(whole: tuple[int, ...], one: tuple[int, ...], count: int) -> int | None:
    """The axis along which an output holds so many images; None where it is as long for one."""
    if whole == one:
        return None
    for axis, length in enumerate(one):
        if whole == (*one[:axis], count * length, *one[axis + 1 :]):
            return axis
    return 0


def _judged(
    module: fx.GraphModule,
    images: list[Arrays],
    held: Mapping[str, Held],
    made: list[Any],
    wanted: list[Any],
    off: float,
) -> Finding:
    """Whether the batch is to blame: not if the module is as far off with each image alone."""
    differs = _differs(off)
    try:
        single = _joined_outputs([_run(module, feeds) for feeds in images], batches(module).output_axes)
    except Exception as error:  # any: what PyTorch raises on shapes that do not fit
        return Finding("it fails in PyTorch", first_line(error))
    if _largest(made, single) <= max(TOLERANCE, _TIMES_ALONE * _largest(single, wanted)):
        return Finding(differs)
    return Finding(differs, "three images at once come out otherwise than each alone in ONNX Runtime")


def _not_to_be_checked(graph: Graph) -> str:
    drawn = sorted({op.op_type for op in graph.operators if op.op_type in (*RANDOM, "Multinomial")})
    if drawn:
        return f"{drawn[0]} draws other numbers each time"
    if sum(c.size for c in graph.constants.values()) > MOST_NUMBERS or cost(graph).known_macs > MOST_MACS:
        return "the network is large"
    return ""


def _session(model: LoadedModel) -> Any:
    """A quiet session of the model as it is in memory, without optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # it waits busily otherwise, and the inputs are small
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if not has_external(model.proto):
        return ort.InferenceSession(model.proto.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model.proto, path, model.folder)
        return ort.InferenceSession(str(path), options, providers=providers)


def _images(graph: Graph, held: Mapping[str, Held], seed: int) -> Arrays:
    """Inputs of one image; what all images share has one seed."""
    named: dict[str, int] = {}
    made: Arrays = {}
    for number, name in enumerate(graph.inputs):
        rng = np.random.default_rng([number, seed if name in held else 0])
        shape = []
        for axis, dim in enumerate(graph.shape(name) or ()):
            usual = 1 if axis == 0 else _SIDE
            shape.append(dim if isinstance(dim, int) else named.setdefault(dim or f"{name} {axis}", usual))
        made[name] = _drawn(rng, graph.dtypes.get(name, onnx.TensorProto.FLOAT), shape)
    return made


def _drawn(rng: np.random.Generator, kind: int, shape: list[int]) -> np.ndarray[Any, Any]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype)
    if dtype.kind not in "iub":
        raise ValueError(f"an input of the type {dtype}")
    return np.asarray(rng.integers(0, 256 if dtype == np.uint8 else 2, shape), dtype)


def _joined_inputs(images: list[Arrays], held: Mapping[str, Held]) -> Arrays:
    return {
        name: np.concatenate([i[name] for i in images], held[name].axis or 0) if name in held else array
        for name, array in images[0].items()
    }


def _joined_outputs(alone: list[list[Any]], axes: tuple[int | None, ...]) -> list[Any]:
    """The outputs of all images, one after another."""
    joined = []
    for axis, parts in zip(axes, zip(*alone, strict=True), strict=True):
        arrays = [np.asarray(p) for p in parts]
        shared = axis is None or len(arrays) == 1
        joined.append(arrays[0] if shared else np.concatenate([np.atleast_1d(a) for a in arrays], axis or 0))
    return joined


def _run(module: fx.GraphModule, feeds: Arrays) -> list[Any]:
    arguments = [torch.from_numpy(np.array(a)) for a in feeds.values()]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            made = module(*[a.float() if a.dtype == torch.float16 else a for a in arguments])
    finally:
        module.train(training)
    return [m.detach().numpy() for m in (made if isinstance(made, tuple) else (made,))]


def _largest(made: list[Any], wanted: list[Any]) -> float:
    """The largest difference, over the largest magnitude of each output; infinite if shapes differ."""
    worst = 0.0
    for got, want in zip(made, wanted, strict=True):
        if got.shape != want.shape:
            return float("inf")
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)):
            return float("inf")
        top = max(float(np.abs(a[finite]).max(initial=0.0)), TOLERANCE)
        worst = max(worst, float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / top)
    return worst
