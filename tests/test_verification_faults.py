"""A fault behind each pass, and in the rewrite: verification compares with the user's file, and sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from golden_text import filled
from onnx import numpy_helper

from conet_graph.ir.graph import Constant, Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import PIPELINE, analysed
from conet_graph.passes.base import Pass
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification import reference as reference_module
from conet_graph.verification import validity
from conet_graph.verification.report import Report
from conet_graph.verification.verification import verify

# An Identity of a bias, a computed Reshape target, a vector that two operators share, dead code.
NETWORK = """<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,3,3] k, float[8] b, float[8,8,3,3] l, float[8,8,1,1] m, float[5,8] f, float[5] g,
 int64[1] zero = {0}, int64[1] minus = {-1}> {
    same = Identity(b)
    dead = Relu(x)
    c = Conv<pads = [1, 1, 1, 1]>(x, k, b)
    r = Relu(c)
    d = Conv<pads = [1, 1, 1, 1]>(r, l, same)
    e = Conv(r, m)
    s = Sub(d, e)
    t = Tanh(s)
    p = GlobalAveragePool(t)
    shape = Shape(p)
    batch = Gather<axis = 0>(shape, zero)
    target = Concat<axis = 0>(batch, minus)
    flat = Reshape(p, target)
    y = Gemm<transB = 1>(flat, f, g)
}"""
Fault = Callable[[Graph], None]


def double_a_weight(graph: Graph) -> None:
    old = graph.constants["l"]
    graph.constants["l"] = Constant(numpy_helper.from_array(2 * graph.array("l"), "l"), old.source)


def swap_two_inputs(graph: Graph) -> None:
    node = graph.producers["s"].proto
    node.input[:] = reversed(node.input)


def drop_a_node(graph: Graph) -> None:
    graph.producers["t"].proto.op_type = "Identity"


FAULTS: tuple[Fault, ...] = (double_a_weight, swap_two_inputs, drop_a_node)


def checked(scale: float, plant: Callable[[Pass, Graph], None] | None = None) -> Report:
    """Analyse with a fault planted, rewrite, and verify."""
    graph = analysed(LoadedModel(filled(NETWORK)), plant)
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=scale)), "keep", False, 0)
    return verify(graph, rewritten(graph, plan, layout), plan)


def planted(fault: Fault, after: str) -> Callable[[Pass, Graph], None]:
    def plant(step: Pass, graph: Graph) -> None:
        if step.name == after:
            fault(graph)

    return plant


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_without_a_fault_it_is_equal(scale: float) -> None:
    assert checked(scale).equality == "passed"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("step", [p.name for p in PIPELINE])
def test_a_fault_of_a_pass_is_seen(step: str, fault: Fault) -> None:
    for scale in (0.5, 1.0, 1.5):
        report = checked(scale, planted(fault, step))
        assert not report.ok
        assert report.equality == "failed"


def double_in_the_result(model: onnx.ModelProto, plan: Plan) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "l")
    tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), "l"))


def other_channels_in_the_result(model: onnx.ModelProto, plan: Plan) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "l")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, ::-1], "l"))


def swap_in_the_result(model: onnx.ModelProto, plan: Plan) -> None:
    node = next(n for n in model.graph.node if n.output[0] == "s")
    node.input[:] = reversed(node.input)


def drop_from_the_result(model: onnx.ModelProto, plan: Plan) -> None:
    next(n for n in model.graph.node if n.output[0] == "t").op_type = "Identity"


RESULT_FAULTS = (double_in_the_result, other_channels_in_the_result, swap_in_the_result, drop_from_the_result)


@pytest.mark.parametrize("fault", RESULT_FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_a_fault_of_the_rewrite_is_seen(scale: float, fault: Callable[[onnx.ModelProto, Plan], None]) -> None:
    graph = analysed(LoadedModel(filled(NETWORK)))
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=scale)), "keep", False, 0)
    model = rewritten(graph, plan, layout)
    fault(model, plan)
    report = verify(graph, model, plan)
    assert not report.ok
    assert report.equality == "failed"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_where_the_file_has_no_such_node_its_analysed_form_is_compared(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "_has", lambda model, changes: False)
    assert checked(0.5).equality == "passed"
    report = checked(0.5, planted(fault, "unshare"))
    assert not report.ok
    assert report.equality == "failed"
    assert np.all(["analysed" in told for told in report.failures])


@pytest.mark.parametrize(
    ("times", "is_ours"),
    [(1, True), (2, False), (7, False)],  # an Expand that ONNX Runtime runs, and two that nobody can
)
def test_what_onnx_sees_first_in_the_rewritten_file_is_ours_where_the_original_runs(
    times: int, is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[2,3,8,8] x) => (float[N,M,H,W] y)
    <float[8,3,1,1] k, float[4,8,1,1] l, int64[4] times = {{{times}, 1, 1, 1}}> {{
        c = Conv(x, k)
        d = Conv(c, l)
        shape = Shape(d)
        target = Mul(shape, times)
        y = Expand(d, target)
    }}"""
    graph = analysed(LoadedModel(filled(text)))
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=0.5)), "keep", noise=False, seed=0)
    made = rewritten(graph, plan, layout)

    def planted(model: onnx.ModelProto) -> str | None:
        return "planted" if model is made else None

    monkeypatch.setattr(validity, "_shape_fault", planted)
    report = verify(graph, made, plan)
    assert report.failures[0] == "strict shape inference, which the original passes: planted"
    assert report.original_is_sound == is_ours
    assert (len(report.failures) == 1) == is_ours
