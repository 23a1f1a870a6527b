"""Operators that look across channels without weights: what is left of them is compared all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from golden_text import filled
from onnx import numpy_helper

from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.plans import Plan, copies_of
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.pair import Lazily, session_of
from conet_graph.verification.reference import reference
from conet_graph.verification.runtime import open_session
from conet_graph.verification.verification import verify

LAST = "c = Transpose<perm = [0, 2, 3, 1]>(a)\n{}\nb = Transpose<perm = [0, 3, 1, 2]>(d)"
# What stands between two convolutions, by the opset it is written for; a and b are [N, 12, 4, 4].
ACROSS: dict[str, tuple[int, str]] = {
    "softmax": (17, "b = Softmax<axis = 1>(a)"),
    "softmax_over_all_axes": (12, "b = Softmax<axis = 1>(a)"),
    "log_softmax": (17, "b = LogSoftmax<axis = 1>(a)"),
    "layer_norm": (17, LAST.format("d = LayerNormalization<axis = -1>(c, scale, bias)")),
    "layer_norm_in_pieces": (
        17,
        "m = ReduceMean<axes = [1]>(a)\ne = Sub(a, m)\nq = Mul(e, e)\nv = ReduceMean<axes = [1]>(q)\n"
        "w = Add(v, eps)\ns = Sqrt(w)\nn = Div(e, s)\nb = Mul(n, scale3)",
    ),
    "rms_norm": (23, LAST.format("d = RMSNormalization<axis = -1>(c, scale)")),
    "rms_norm_in_pieces": (
        17,
        "q = Mul(a, a)\nv = ReduceMean<axes = [1]>(q)\nw = Add(v, eps)\ns = Sqrt(w)\nr = Reciprocal(s)\n"
        "b = Mul(a, r)",
    ),
    "group_norm": (21, "b = GroupNormalization<num_groups = 3>(a, scale, bias)"),
    "group_norm_by_instances": (
        17,
        "c = Reshape(a, rows)\nd = InstanceNormalization(c, ones3, zeros3)\ne = Reshape(d, back)\n"
        "b = Mul(e, scale3)",
    ),
    "instance_norm": (17, "b = InstanceNormalization(a, scale, bias)"),
    "mean_variance": (17, "b = MeanVarianceNormalization<axes = [1, 2, 3]>(a)"),
    "lp_norm": (17, "b = LpNormalization<axis = 1, p = 2>(a)"),
    "lrn": (17, "b = LRN<size = 3>(a)"),
    "cumulative_sum": (17, "b = CumSum(a, one)"),
    "hardmax": (17, "h = Hardmax<axis = 1>(a)\nb = Mul(a, h)"),
    **{
        f"reduce_{kind}": (17, f"m = Reduce{kind}<axes = [1]>(a)\nb = Mul(a, m)")
        for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "SumSquare")
    },
    "reduce_Prod": (17, "t = Tanh(a)\nm = ReduceProd<axes = [1]>(t)\nb = Add(a, m)"),
    "reduce_Sum": (17, "m = ReduceSum(a, one)\nb = Mul(a, m)"),
    "mean_over_everything": (17, "m = ReduceMean<axes = [1, 2, 3]>(a)\nb = Mul(a, m)"),
    **{
        f"{kind}_over_channels": (
            17,
            "p = GlobalAveragePool(a)\nc = Reshape(p, line)\n"
            f"d = {call}\ns = Sigmoid(d)\ne = Reshape(s, column)\nb = Mul(a, e)",
        )
        for kind, call in (
            ("conv", "Conv<pads = [1, 1]>(c, window)"),
            ("max_pool", "MaxPool<kernel_shape = [3], pads = [1, 1]>(c)"),
            ("average_pool", "AveragePool<kernel_shape = [3], pads = [1, 1]>(c)"),
        )
    },
}
# Copies of a channel would count several times: such a network is no wider form of the old one.
COUNTING = {
    *("softmax", "softmax_over_all_axes", "log_softmax", "lp_norm", "cumulative_sum", "hardmax", "reduce_L1"),
    *("reduce_L2", "reduce_LogSumExp", "reduce_SumSquare", "reduce_Prod", "reduce_Sum"),
}
# Copies of one channel come out different: no network of the old width says what the wider one does.
IN_ORDER = {"lrn"} | {k for k in ACROSS if k.endswith("_over_channels")}


def network(kind: str) -> onnx.ModelProto:
    opset, body = ACROSS[kind]
    model = filled(f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[12,3,3,3] k, float[5,12,1,1] l, float[12] scale, float[12] bias, float[12,1,1] scale3,
 float[3] ones3, float[3] zeros3, float[1,1,3] window, float eps = {{0.01}}, int64[1] one = {{1}},
 int64[3] rows = {{0, 3, -1}}, int64[4] back = {{0, 12, 4, 4}}, int64[3] line = {{0, 1, 12}},
 int64[4] column = {{0, 12, 1, 1}}> {{
    a = Conv<pads = [1, 1, 1, 1]>(x, k)
    {body}
    y = Conv(b, l)
}}""")
    if kind == "rms_norm":
        model.ir_version = 11
    return model


def at_width(model: onnx.ModelProto, count: int) -> tuple[Graph, onnx.ModelProto, Plan]:
    """The network with so many of its twelve channels; one in three stays at four, whatever the order."""
    graph = analysed(LoadedModel(model), free_kept=True)
    channels = graph.result(CHANNELS)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            classes = group.classes
            times = np.bincount(np.arange(count * len(classes) // 12) % len(classes), minlength=len(classes))
            copies[classes] = times[::-1]
    plan, layout = planned(graph, copies, "keep", False, 0)
    return graph, rewritten(graph, plan, layout), plan


@pytest.mark.parametrize("kind", ACROSS)
def test_a_narrower_network_works_on_the_channels_that_are_left(kind: str) -> None:
    graph, model, plan = at_width(network(kind), 9)
    assert next(t for t in model.graph.initializer if t.name == "k").dims[0] < 12
    found = verify(graph, model, plan)
    assert found.ok, found.failures
    assert found.equality == "passed"
    assert found.exact == (kind in ("reduce_Sum", "instance_norm"))


@pytest.mark.parametrize("kind", sorted(COUNTING))
def test_a_wider_network_that_counts_copies_is_refused(kind: str) -> None:
    with pytest.raises(Refused, match="several times"):
        at_width(network(kind), 18)


@pytest.mark.parametrize("kind", sorted(IN_ORDER))
def test_a_wider_network_that_tells_copies_apart_is_refused(kind: str) -> None:
    with pytest.raises(Refused, match="tell copies of a channel apart"):
        at_width(network(kind), 18)


@pytest.mark.parametrize("kind", [k for k in ACROSS if k not in COUNTING and k not in IN_ORDER])
def test_a_wider_network_works_on_all_copies(kind: str) -> None:
    graph, model, plan = at_width(network(kind), 18)
    found = verify(graph, model, plan)
    assert found.ok, found.failures
    assert found.equality == "passed"


@pytest.mark.parametrize("kind", ["softmax", "layer_norm_in_pieces", "group_norm", "conv_over_channels"])
def test_a_fault_behind_such_an_operator_is_seen(kind: str) -> None:
    graph, model, plan = at_width(network(kind), 9)
    tensor = next(t for t in model.graph.initializer if t.name == "l")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, ::-1], "l"))
    assert verify(graph, model, plan).equality == "failed"


@pytest.mark.parametrize("kind", ACROSS)
def test_a_reference_undone_is_the_file(kind: str) -> None:
    """Whatever is silenced or gathered in it, the same session computes the original, too."""
    model = network(kind)
    graph, _, plan = at_width(model, 9)
    made = reference(graph, copies_of(graph, plan))
    assert made.undone
    beside = session_of(Lazily(made, Path("never written"), None))
    original = open_session(model, fused=False)
    feeds = random_inputs(original, 2, 8)
    undone = beside.run(None, {**feeds, **made.undone})
    for mine, theirs in zip(undone, original.run(None, feeds), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-5, atol=1e-6)
    silenced = beside.run(None, feeds)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(silenced, undone, strict=True))
