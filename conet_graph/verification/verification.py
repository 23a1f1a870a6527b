"""Verification: the rewritten file is valid, runs, and equals what it should."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.ir.check import MOST_AXES
from conet_graph.ir.errors import ConetGraphError, InvalidModel, OwnFault, VerificationFailed, shown
from conet_graph.ir.forked import doing
from conet_graph.ir.graph import Graph
from conet_graph.ir.inference import infer
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.save import copy_light, save_model
from conet_graph.passes import structured
from conet_graph.rewriting.plans import Plan, copies_of
from conet_graph.verification.equivalence import masked_reference

# Largest difference, as a share of the reference's largest magnitude.
TOLERANCE = 1e-4
# Half floats keep 11 bits, and rounding in another order of sums shows; quantised activations jump by a
# step of 1/255 of their range when a sum falls on the other side of a rounding border.
HALF_TOLERANCE = 2e-2
QUANTISED_TOLERANCE = 5e-2

# Elements of a value (1 GB of floats) beyond which a network is not run: a file may claim any size.
LARGEST_VALUE = 2**28

RUNTIME = "ONNX Runtime"

Arrays = dict[str, NDArray[Any]]


@dataclass
class Report:
    """What verification found, as one JSON object."""

    ok: bool = True
    checker: str = "passed"
    shape_inference: str = "passed"
    runs: list[dict[str, Any]] = field(default_factory=list)
    equality: str = "not checked"
    exact: bool = True
    inexact_because: list[str] = field(default_factory=list)
    largest_difference: float | None = None
    tolerance: float | None = None
    sensitivity: float = 0.0
    failures: list[str] = field(default_factory=list)
    original_is_sound: bool = True  # False: it fails the same, or the check itself did

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.ok = False
        self.failures.append(what)


def verify(graph: Graph, rewritten: onnx.ModelProto, plan: Plan, folder: Path | None = None) -> Report:
    """Verify a rewritten model against the analysed original and the plan.

    Args:
        graph: the analysed original.
        rewritten: the new model (unchanged external weights may still lie in ``folder``).
        plan: how the one became the other.
        folder: where external data of ``rewritten`` lies.

    """
    report = Report(exact=plan.exact, inexact_because=plan.inexact_because)
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as temporary:
        path = Path(temporary) / "rewritten.onnx"
        save_model(rewritten, path, folder)
        _check(graph, path, rewritten, folder, report)
        if report.ok:
            _compare(graph, path, plan, report, Path(temporary))
    return report


def require(report: Report) -> None:
    """Raise when verification failed.

    Raises:
        OwnFault: the original is sound and what was made of it is not.
        VerificationFailed: the original cannot be run either, or a library crashed.

    """
    told = "the rewritten network failed verification: " + "; ".join(report.failures)
    if not report.ok and report.original_is_sound:
        raise OwnFault.of(told)
    if not report.ok:
        raise VerificationFailed(f"T{told[1:]}.")


def _check(graph: Graph, path: Path, model: onnx.ModelProto, folder: Path | None, report: Report) -> None:
    doing("onnx", "checking the rewritten network")
    try:
        onnx.checker.check_model(path, full_check=False)
    except Exception as error:
        report.checker = first_line(error)
        report.fail(f"onnx.checker: {report.checker}")
        report.original_is_sound = _passes_checker(graph)
        return
    if not _is_read_again(model, folder, report):
        return
    fault = _shape_fault(model)
    if fault is not None:
        report.shape_inference = fault
        if _shape_fault(graph.loaded.proto) is None:
            report.fail(f"strict shape inference, which the original passes: {fault}")


def _passes_checker(graph: Graph) -> bool:
    try:
        onnx.checker.check_model(graph.loaded.path or graph.loaded.proto, full_check=False)
    except Exception:
        return False
    return True


def _is_read_again(model: onnx.ModelProto, folder: Path | None, report: Report) -> bool:
    """Whether what was written passes the checks that every model passes that is read."""
    try:
        structured(LoadedModel(model, None if folder is None else folder / "rewritten.onnx"))
    except InvalidModel as error:
        report.checker = str(error)
        report.fail(str(error).removesuffix("."))
    return report.ok


def _shape_fault(model: onnx.ModelProto) -> str | None:
    """What strict shape inference says against a model; None when it passes."""
    try:
        infer(_without_weights(model), strict=True)
    except Exception as error:
        return first_line(error)
    return None


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto()
    copy_light(model, light)
    present = {v.name for v in light.graph.input}
    del light.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= 4096 and tensor.data_location != onnx.TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in present:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    light.ir_version = max(light.ir_version, FIRST_FREE_IR)
    return light


def first_line(error: BaseException) -> str:
    """What an error says, shortened to a line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def open_session(path: Path, provider: str = "CPUExecutionProvider", *, fused: bool) -> Any:
    """A quiet ONNX Runtime session; not ``fused``, it computes operator by operator.

    Fusions round differently in two networks that should be equal.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=[provider])


def _compare(graph: Graph, path: Path, plan: Plan, report: Report, temporary: Path) -> None:
    try:
        reference_path = temporary / "reference.onnx"
        save_model(masked_reference(graph, copies_of(graph, plan)), reference_path, graph.folder)
        doing(RUNTIME, "loading the original network")
        reference = open_session(reference_path, fused=False)
    except ConetGraphError:
        raise
    except Exception as error:
        report.runs.append({"skipped": f"ONNX Runtime does not load the original: {first_line(error)}"})
        _load_alone(path, report)
        return
    doing(RUNTIME, "loading the rewritten network")
    try:
        session = open_session(path, fused=False)
    except Exception as error:
        report.fail(f"ONNX Runtime does not load it: {first_line(error)}")
        return
    report.tolerance = _tolerance(graph)
    if _largest(graph) > LARGEST_VALUE:
        report.runs.append(
            {"skipped": f"a value of the network has {_largest(graph)} elements: too many to run"}
        )
        return
    for batch in (1, 2):
        if batch == 2 and not _batch_is_free(reference):
            break
        doing(RUNTIME, "running the original network")
        trial = _run_reference(reference, batch)
        if isinstance(trial, str):
            report.runs.append({"skipped": f"ONNX Runtime does not run the original: {trial}"})
            continue
        doing(RUNTIME, "running the rewritten network")
        try:
            found = session.run(None, trial.feeds)
        except Exception as error:
            report.fail(f"ONNX Runtime does not run it: {first_line(error)}")
            return
        report.runs.append({"inputs": {k: list(v.shape) for k, v in trial.feeds.items()}})
        if plan.exact and plan.init == "keep":
            _equal(trial, found, [o.name for o in reference.get_outputs()], report)
    if plan.init != "keep":
        report.equality = "not checked: fresh weights"
    elif not plan.exact:
        report.equality = "not checked: " + ", ".join(plan.inexact_because)


def _load_alone(path: Path, report: Report) -> None:
    """Load the rewritten network where the original cannot be loaded."""
    doing(RUNTIME, "loading the rewritten network")
    try:
        open_session(path, fused=False)
        report.runs.append({"loaded": True})
    except Exception as error:
        if not lacks_an_operator(error):
            report.fail(f"ONNX Runtime refuses it, and the original too: {first_line(error)}")
        report.equality = "not checked: ONNX Runtime loads neither network"
        report.original_is_sound = False


def lacks_an_operator(error: Exception) -> bool:
    """Whether ONNX Runtime refuses a model only because it does not know an operator, type or opset of it.

    Such a model may be meant for another runtime; whatever else ONNX Runtime says is wrong with the model.
    """
    told = str(error)
    return any(
        phrase in told
        for phrase in ("NOT_IMPLEMENTED", "is not a registered function/op", "is under development")
    )


def _largest(graph: Graph) -> int:
    """Elements of the largest value, free sizes taken as those of the first run."""
    free = [1, *[_SIZES[0]] * MOST_AXES]
    sizes = (
        [d if isinstance(d, int) else f for d, f in zip(s, free, strict=False)] for s in graph.shapes.values()
    )
    return max((math.prod(s) for s in sizes), default=0)


def _tolerance(graph: Graph) -> float:
    types = {c.tensor.data_type for c in graph.constants.values()} | set(graph.dtypes.values())
    if any(
        op.op_type.startswith(("Quantize", "QLinear", "DynamicQuantize", "Quant")) for op in graph.operators
    ):
        return QUANTISED_TOLERANCE
    if types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}:
        return HALF_TOLERANCE
    return TOLERANCE


def _batch_is_free(session: Any) -> bool:
    shapes = [i.shape for i in session.get_inputs() if i.shape]
    return bool(shapes) and any(not isinstance(s[0], int) for s in shapes)


# Sizes to try for free dimensions that are not the batch: small first, then what big networks need.
_SIZES = (64, 224, 32, 16, 1)
# Inputs to try: kind of values, and their scale.
_DRAWS = (("normal", 1.0), ("uniform", 1.0), ("normal", 0.1), ("normal", 8.0))


@dataclass(frozen=True)
class Trial:
    """One run of the reference, and how much each output moves when the input moves by a millionth.

    A sigmoid near zero, or a sum that cancels, magnifies the last bits of float arithmetic; two equal
    networks that add in another order then differ by as much. What the inputs cannot tell apart is no error.
    """

    feeds: Arrays
    outputs: list[Any]
    sensitivity: list[float]


def _run_reference(session: Any, batch: int) -> Trial | str:
    """Run the reference on the inputs, of a few draws, that tell most; a message where none runs."""
    best: Trial | str = "no inputs"
    size = _SIZES[0]
    for kind, scale in _DRAWS:
        for candidate in _SIZES if isinstance(best, str) else (size,):
            feeds = random_inputs(session, batch, candidate, kind, scale)
            try:
                outputs = session.run(None, feeds)
                nudged = session.run(None, _nudged(feeds))
            except Exception as error:
                best = first_line(error) if isinstance(best, str) else best
                continue
            size = candidate
            trial = Trial(feeds, outputs, [_difference(a, b) for a, b in zip(outputs, nudged, strict=True)])
            if isinstance(best, str) or max(trial.sensitivity) < max(best.sensitivity):
                best = trial
            break
        if isinstance(best, str) or max(best.sensitivity, default=0.0) < TOLERANCE / 4:
            return best
    return best


def _nudged(feeds: Arrays) -> Arrays:
    rng = np.random.default_rng(1)
    return {
        name: (value * (1 + 1e-6 * rng.standard_normal(value.shape))).astype(value.dtype)
        if value.dtype in (np.float32, np.float64)
        else value
        for name, value in feeds.items()
    }


def random_inputs(session: Any, batch: int, size: int, kind: str = "normal", scale: float = 1.0) -> Arrays:
    """Seeded inputs; free first axes become ``batch``, other free ones ``size``."""
    rng = np.random.default_rng(0)
    named: dict[str, int] = {}
    feeds: Arrays = {}
    for entry in session.get_inputs():
        shape = []
        for axis, dim in enumerate(entry.shape):
            if isinstance(dim, int):
                shape.append(dim)
            else:
                value = batch if axis == 0 else size
                shape.append(named.setdefault(dim, value) if isinstance(dim, str) else value)
        values = _values(rng, entry.type, shape, kind)
        feeds[entry.name] = values * values.dtype.type(scale) if values.dtype.kind == "f" else values
    return feeds


def _values(rng: np.random.Generator, element: str, shape: list[int], kind: str) -> NDArray[Any]:
    name = element.removeprefix("tensor(").removesuffix(")")
    if name == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if name.startswith(("int", "uint")):
        return rng.integers(0, 2 if name != "uint8" else 256, shape).astype(name)
    types = {"float": np.float32, "double": np.float64, "float16": np.float16}
    draw = rng.standard_normal(shape) if kind == "normal" else rng.uniform(0, 1, shape)
    return np.asarray(draw, types.get(name, np.float32))


def _difference(want: Any, have: Any) -> float:
    """Largest difference of two outputs, as a share of the first one's largest magnitude."""
    if not isinstance(want, np.ndarray) or want.size == 0 or want.dtype.kind not in "fiub":
        return 0.0
    a, b = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    top = float(np.abs(a[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (top if top > 1e-30 else 1.0)


def _equal(trial: Trial, found: list[Any], names: list[str], report: Report) -> None:
    """Compare the outputs; a difference counts beyond four times what the input's last bits cause."""
    report.equality = "passed" if report.equality == "not checked" else report.equality
    for want, have, name, moved in zip(trial.outputs, found, names, trial.sensitivity, strict=True):
        if not isinstance(want, np.ndarray) or not isinstance(have, np.ndarray):
            continue
        if want.shape != have.shape:
            report.equality = "failed"
            report.fail(f"output {shown(name)} has the shape {list(have.shape)}, not {list(want.shape)}")
            continue
        difference = _difference(want, have)
        report.largest_difference = max(report.largest_difference or 0.0, difference)
        report.sensitivity = max(report.sensitivity, moved)
        if difference > max(report.tolerance or TOLERANCE, 4 * moved):
            report.equality = "failed"
            report.fail(f"output {shown(name)} differs by {difference:.2g} of its largest value")
