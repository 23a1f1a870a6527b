"""How far a narrower network's outputs are from the original's: measured on what verification runs anyway."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from golden_text import filled

from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.verification import verify

HEAD = """<ir_version: 8, opset_import: ["": 17]>
net (float[{batch},3,8,8] x) => (float[{batch},5] y) <float[8,3,3,3] w1, float[5,8] w2> {{
  a = Conv<pads = [1, 1, 1, 1]>(x, w1)
  b = Relu(a)
  p = GlobalAveragePool(b)
  f = Flatten(p)
  {tail}
}}"""


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session that does what the file says."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def logit(y: np.ndarray) -> np.ndarray:
    """What a sigmoid was given."""
    return np.log(y / (1 - y))


def off_centre(y: np.ndarray) -> np.ndarray:
    """What a softmax was given, but for a constant."""
    return np.log(y) - np.log(y).mean(1, keepdims=True)


@pytest.mark.parametrize("batch", ["N", "1"])
@pytest.mark.parametrize(
    ("tail", "before"),
    [
        ("y = Gemm<transB = 1>(f, w2)", lambda y: y),
        ("l = Gemm<transB = 1>(f, w2)\n  y = Sigmoid(l)", logit),
        ("l = Gemm<transB = 1>(f, w2)\n  y = Softmax<axis = 1>(l)", off_centre),
    ],
)
def test_the_error_is_that_of_the_two_files(
    batch: str, tail: str, before: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Mean square difference over variance, of four images: few numbers come of each."""
    model = filled(HEAD.format(batch=batch, tail=tail))
    graph = analysed(LoadedModel(model))
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=0.5)), "keep", False, 0)
    narrow = rewritten(graph, plan, layout)
    found = verify(graph, narrow, plan, with_error=True)
    assert (found.ok, found.equality) == (True, "passed")
    old, new = session(model), session(narrow)
    size = 2 if batch == "N" else 1
    feeds = [random_inputs(old, size, 1, seed=k) for k in range(4 // size)]
    want = before(np.concatenate([np.asarray(old.run(None, feed)[0]) for feed in feeds]).astype(np.float64))
    have = before(np.concatenate([np.asarray(new.run(None, feed)[0]) for feed in feeds]).astype(np.float64))
    expected = np.mean((want - have) ** 2) / np.mean(want.var(axis=0, ddof=1))
    assert found.outputs_error == pytest.approx(expected, rel=1e-3)


def test_no_error_is_measured_unless_it_is_asked_for() -> None:
    """Nor where all channels stay as they are, to rounding."""
    model = filled(HEAD.format(batch="N", tail="y = Gemm<transB = 1>(f, w2)"))
    graph = analysed(LoadedModel(model))
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=1.0)), "keep", False, 0)
    same = rewritten(graph, plan, layout)
    assert verify(graph, same, plan).outputs_error is None
    assert verify(graph, same, plan, with_error=True).outputs_error == pytest.approx(0, abs=1e-9)
