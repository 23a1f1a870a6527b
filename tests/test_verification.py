"""What verification makes of networks that ONNX Runtime does not load, and of those that nobody can run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from golden_text import filled

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification import pair, tolerance
from conet_graph.verification.inputs import DRAWS, SIZES
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import open_session
from conet_graph.verification.verification import verify
from tests.graphs import GraphBuilder

SEEDS = Path(__file__).parent / "fuzz" / "seeds"
PRIVATE = """<ir_version: 8, opset_import: ["": 17, "private": 1]> g (float[N,3,8,8] x) => (float[N,2,h,w] y)
<float[4,3,3,3] k, float[4,4,3,3] l, float[2,4,3,3] m> {
    a = Conv(x, k)
    b = Conv(a, l)
    c = private.Sharpen(b)
    y = Conv(c, m)
}"""


def halved(model: onnx.ModelProto) -> tuple[Graph, onnx.ModelProto, Plan]:
    graph = analysed(LoadedModel(model))
    plan, layout = planned(
        graph, choose_copies(graph, WidthRequest(scale=0.5, multiple_of=1)), "keep", False, 0
    )
    return graph, rewritten(graph, plan, layout), plan


def report(model: onnx.ModelProto) -> Report:
    return verify(*halved(model))


def test_what_onnx_runtime_calls_invalid_is_no_valid_file() -> None:
    found = report(filled((SEEDS / "depth_to_space_mode_unknown.txt").read_text()))
    assert not found.ok
    assert "ONNX Runtime refuses it, and the original too" in found.failures[0]


def test_operators_of_another_runtime_are_no_fault() -> None:
    found = report(filled(PRIVATE))
    assert found.ok
    assert found.equality == "not checked: ONNX Runtime loads neither network"


def test_a_network_of_absurd_size_is_not_run() -> None:
    found = report(filled((SEEDS / "input_too_large_to_draw.txt").read_text()))
    assert found.ok
    assert found.runs[0]["skipped"].endswith("too many to run")
    assert found.equality == "not checked"


@pytest.mark.parametrize("window", [3, 5, 7, 12])
def test_images_that_windows_must_divide_are_found(window: int) -> None:
    """Windows of so many pixels, of which 64 need be no multiple, as in Swin; images are of any size."""
    model = filled(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,3,H,W] x) => (float[] y)
<float[8,3,1,1] k, float[5,8,1,1] l, int64[3] s = {{0,0,-1}}, int64[1] w = {{{window}}}> {{
    a = Conv(x, k)
    before = Shape(a)
    rows = Concat<axis=0>(s, w)
    r = Reshape(a, rows)
    t = Tanh(r)
    b = Reshape(t, before)
    y = Conv(b, l)
}}"""
    )
    assert report(model).equality == "passed"


def test_what_would_not_be_read_again_fails() -> None:
    graph, new, plan = halved(filled(PRIVATE))
    conv = next(n for n in new.graph.node if n.output[0] == "b")
    conv.attribute.add(name="kernel_shape", type=onnx.AttributeProto.INTS, ints=[5, 5])
    found = verify(graph, new, plan)
    assert not found.ok
    assert "kernel_shape [5, 5]" in found.failures[0]


@pytest.mark.parametrize(("dims", "times"), [([1, 3, 8, 8], 1), ([1, 3, "H", "W"], len(SIZES))])
def test_each_shape_is_tried_once_for_each_draw(
    dims: list[int | str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = GraphBuilder()
    b.output(b.relu(b.input("x", dims)))
    tried: list[tuple[int, ...]] = []

    def refuse(_: object, feeds: dict[str, np.ndarray]) -> None:
        tried.append(feeds["x"].shape)
        raise RuntimeError("it does not run")

    monkeypatch.setattr(pair, "run_original", refuse)
    assert not pair.runs(open_session(b.build(), fused=False), 1)
    assert len(tried) == len(DRAWS) * times
    assert len(set(tried)) == times


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_difference_does_not_depend_on_the_pieces(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = np.array([[1.0, -8.0, 2.0, 0.5], [np.inf, 3.0, np.nan, -1.0]], np.float32)
    have = want + np.array([[0, 0, 0.5, 0], [0, -2, 0, 1]], np.float32)
    monkeypatch.setattr(tolerance, "BLOCK", block)
    assert tolerance.difference(want, have) == 2 / 8
    assert tolerance.difference(want[:, ::2], have[:, ::2]) == 0.5 / 2
    assert tolerance.difference(want, np.where(np.isnan(want), 0, have)) == float("inf")
    assert tolerance.difference(np.zeros((0, 2)), np.zeros((0, 2))) == 0
