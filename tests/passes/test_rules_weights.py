"""What is computed from constants alone: numbers that belong to trained weights stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden_text import parsed
from onnx import numpy_helper
from rewidth_case import free, graph_of, rewidthed

from conet_graph.passes.classify_edges import LAYERS

IMAGE = "agraph (float[1,3,6,6] x) => (float[1,5,6,6] y)"
TAIL = "a = Conv(x, wa) n = Relu(a) b = Conv(n, wn) s = Sigmoid(b) y = Conv(s, wy)}"
WEIGHTS = "float[4,3,1,1] wa, float[6,4,1,1] w, float[5,6,1,1] wy"

NORMS = {
    "spectral norm of a copy": (
        "float[6,4] m, float[6] u, float[4] v",
        "wv = MatMul(m, v) norm = MatMul(u, wv) wn = Div(w, norm)",
    ),
    "spectral norm of the weight itself": (
        "float[6] u, float[4] v",
        "flat = Flatten(w) wv = MatMul(flat, v) uwv = Mul(u, wv) norm = ReduceSum(uwv) wn = Div(w, norm)",
    ),
    "weight norm, a norm a row": (
        "float[6,1,1,1] g, int64[3] inner = {1, 2, 3}",
        "sq = Mul(w, w) sum = ReduceSum(sq, inner) norm = Sqrt(sum) unit = Div(w, norm) wn = Mul(unit, g)",
    ),
    "norm of all numbers": ("", "norm = ReduceL2<keepdims=0>(w) wn = Div(w, norm)"),
}


def network(kind: str) -> onnx.ModelProto:
    extra, made = NORMS[kind]
    return parsed(f"{IMAGE}<{WEIGHTS}{', ' if extra else ''}{extra}> {{ {made} {TAIL}")


def effective(model: onnx.ModelProto, weight: str) -> np.ndarray:
    """The value of a computed weight, by ONNX's reference."""
    from onnx.reference import ReferenceEvaluator

    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.output.append(onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, None))
    found = ReferenceEvaluator(copy).run([weight], {"x": np.zeros((1, 3, 6, 6), np.float32)})
    return np.asarray(found[0])


@pytest.mark.parametrize("kind", NORMS)
def test_weights_that_stay_keep_their_values(kind: str) -> None:
    net = network(kind)
    assert free(net) == [(4, 1), (6, 1)]
    slim = rewidthed(net, scale=0.5)
    rows, columns = slim.kept("w", 0), slim.kept("w", 1)
    assert len(rows) == 3
    assert len(columns) == 2
    expected = effective(net, "wn")[rows][:, columns]
    np.testing.assert_allclose(effective(slim.proto, "wn"), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_wider_keeps_the_function(kind: str) -> None:
    assert rewidthed(network(kind), scale=1.5).report.equality == "passed"


def test_products_of_constants_are_no_layers() -> None:
    graph = graph_of(network("spectral norm of a copy"))
    assert [layer.op.outputs[0] for layer in graph.result(LAYERS)] == ["a", "b", "y"]


def test_low_rank_weight_is_cut_through_its_factors() -> None:
    """W = A B: rows of A, columns of B; the rank between them is no channel."""
    net = parsed(
        "agraph (float[2,6] x) => (float[2,5] y)"
        "<float[6,8] wa, float[8,3] left, float[3,7] right, float[7,5] wy>"
        "{low = MatMul(left, right) a = MatMul(x, wa) b = MatMul(a, low) y = MatMul(b, wy)}"
    )
    slim = rewidthed(net, scale=0.5)
    assert (slim.shape("left"), slim.shape("right")) == ((4, 3), (3, 4))


STANDARDISED = {
    "centred": "mean = ReduceMean<axes=[1,2,3]>(w) wn = Sub(w, mean)",
    "standardised": "mean = ReduceMean<axes=[1,2,3]>(w) c = Sub(w, mean) sq = Mul(c, c)"
    " var = ReduceMean<axes=[1,2,3]>(sq) std = Sqrt(var) wn = Div(c, std)",
    "divided by its mean": "size = Abs(w) mean = ReduceMean<axes=[1,2,3]>(size) wn = Div(w, mean)",
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", STANDARDISED)
def test_standardised_weights_are_held_as_the_numbers_they_are(kind: str, scale: float) -> None:
    """At another width the same mean would be another number, and the weights others than were trained."""
    made = rewidthed(parsed(f"{IMAGE}<{WEIGHTS}>{{{STANDARDISED[kind]} {TAIL}"), scale=scale)
    assert made.plan.exact
    assert not made.plan.kept
    assert [node.op_type for node in made.proto.graph.node].count("ReduceMean") == 0
    assert "w" not in made.arrays()


def test_a_large_sum_stays_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from conet_graph.passes import fold_weight_sums

    monkeypatch.setattr(fold_weight_sums, "LARGEST_INPUT", 10)
    net = network("spectral norm of the weight itself")
    slim = rewidthed(net, exact=False, scale=0.5)
    assert any("MatMul" in why for why in slim.plan.inexact_because)
    assert numpy_helper.to_array(slim.proto.graph.initializer[0]).size
