"""Whether a rewritten model is a valid file, and is read again."""

from __future__ import annotations

from pathlib import Path

import onnx

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.forked import doing
from conet_graph.ir.graph import Graph
from conet_graph.ir.inference import infer
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.save import copy_light
from conet_graph.ir.schemas import STILL_RUN
from conet_graph.ir.tensors import nbytes
from conet_graph.passes import structured
from conet_graph.verification.pair import open_file, runs
from conet_graph.verification.reference import own_form
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import first_line, lacks_an_operator

# Bytes of a tensor that may be a shape, an axis list or the like.
_SMALL = 4096


def check_valid(
    graph: Graph,
    path: Path,
    model: onnx.ModelProto,
    folder: Path | None,
    report: Report,
    *,
    sound: bool = False,
) -> None:
    """Note what onnx's checker, our own checks and strict shape inference say against a model.

    Args:
        graph: the analysed original.
        path: where the model was written.
        model: the model.
        folder: where its external data lies.
        report: takes what was found.
        sound: our own checks have passed the model already.

    """
    doing("onnx", "checking the rewritten network")
    try:
        onnx.checker.check_model(path, full_check=False)
    except Exception as error:
        report.checker = first_line(error)
        known = _is_still_run(report.checker) or report.checker == _checker_fault(graph.loaded.proto)
        if not known:
            report.fail(f"onnx.checker: {report.checker}")
            report.original_is_sound = _passes_checker(graph)
            return
    if not sound and not _is_read_again(model, folder, report):
        return
    fault = _shape_fault(model)
    if fault is not None:
        report.shape_inference = fault
        if _shape_fault(graph.loaded.proto) is None:
            report.fail(f"strict shape inference, which the original passes: {fault}")


def is_sound(graph: Graph, temporary: Path) -> bool:
    """Whether a failure of the rewritten network is to be laid to us: ONNX Runtime runs the original.

    What checks see in a rewritten file may be wrong in the original, too, out of their sight.
    """
    try:
        return runs(open_file(graph, temporary), 1)
    except Exception as error:
        # Of a network for another runtime only our own checks say something.
        return lacks_an_operator(error) and _fault_of(own_form(graph), graph.folder) is None


def _passes_checker(graph: Graph) -> bool:
    try:
        onnx.checker.check_model(graph.loaded.path or graph.loaded.proto, full_check=False)
    except Exception:
        return False
    return True


def _is_still_run(fault: str) -> bool:
    """Whether onnx's checker stopped at an operator that it calls deprecated and runtimes run."""
    return "is deprecated in" in fault and any(f" {name} " in fault for name in STILL_RUN)


def _checker_fault(model: onnx.ModelProto) -> str | None:
    """What onnx's checker says against the original: ONNX Runtime runs operators that onnx does not know."""
    try:
        onnx.checker.check_model(_without_weights(model))
    except Exception as error:
        return first_line(error)
    return None


def _is_read_again(model: onnx.ModelProto, folder: Path | None, report: Report) -> bool:
    """Whether what was written passes the checks that every model passes that is read."""
    fault = _fault_of(model, folder)
    if fault is not None:
        report.checker = fault
        report.fail(fault.removesuffix("."))
    return report.ok


def _fault_of(model: onnx.ModelProto, folder: Path | None) -> str | None:
    """What our own checks say against a model; None where it passes."""
    try:
        structured(LoadedModel(model, None if folder is None else folder / "rewritten.onnx"))
    except InvalidModel as error:
        return str(error)
    return None


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
        if tensor.data_type == onnx.TensorProto.STRING or (
            nbytes(tensor) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL
        ):
            light.graph.initializer.append(tensor)
        elif tensor.name not in present:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    light.ir_version = max(light.ir_version, FIRST_FREE_IR)
    return light
